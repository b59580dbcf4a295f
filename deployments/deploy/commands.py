"""`make pools` and `make deploy`: set up a Prefect server for this checkout and this site.

The site's settings come from the file SEEDVR2_SITE_FILE, by default deployments/site.env, if it is
there. Otherwise they come from the environment, and what pools were given before stays too.
"""

from typing import Annotated

import typer
from prefect.client.orchestration import SyncPrefectClient, get_client

from deployments.deploy.apply import (
    ROOT,
    api_url,
    apply_automations,
    apply_deployments,
    apply_pools,
)
from deployments.deploy.site import Site, read_site, site_of_environment
from deployments.host.exits import exit_codes, say
from tasks.settings import get_settings, use_settings

KEPT = "what was applied so far stays"

SITE_FILE = ROOT / "deployments" / "site.env"

FromEnvironment = Annotated[
    bool,
    typer.Option(
        "--site-is-environment",
        help="All of the site's settings are in the environment, as in Compose.",
    ),
]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def pools(from_environment: FromEnvironment = False) -> None:
    """Create or update the work pools."""
    with exit_codes(KEPT):
        site = _use_site(from_environment)
        api_url()
        with get_client(sync_client=True) as client:
            _apply_pools(client, site)


@app.command()
def deploy(from_environment: FromEnvironment = False) -> None:
    """Create or update work pools, deployments and automations."""
    with exit_codes(KEPT):
        site = _use_site(from_environment)
        api_url()
        settings = get_settings()
        with get_client(sync_client=True) as client:
            _apply_pools(client, site)
            apply_deployments(client, settings)
            apply_automations(client, settings)


@app.command()
def check(from_environment: FromEnvironment = False) -> None:
    """Check the site's settings; changes nothing and needs no server."""
    with exit_codes(KEPT):
        site = _use_site(from_environment)
        for name in sorted(site.values):
            say(f"{name} is set")
        say("the site's settings are right")


def _use_site(from_environment: bool) -> Site:
    """Read the site's settings and put them in force for this process."""
    named = get_settings().site_file
    if from_environment:
        site = site_of_environment(whole=True)
    elif named or SITE_FILE.exists():
        site = read_site(named or SITE_FILE)
        say(f"the site's settings are those of {named or SITE_FILE}")
    else:
        site = site_of_environment(whole=False)
    use_settings(site.settings(get_settings()))
    return site


def _apply_pools(client: SyncPrefectClient, site: Site) -> None:
    """Store the site's keys, then apply the pools that refer to them."""
    for block in site.save_keys():
        say(f"Secret block {block} is up to date")
    apply_pools(client, site=site)
