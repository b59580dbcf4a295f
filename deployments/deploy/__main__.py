"""`make pools` and `make deploy`: set up a Prefect server for this checkout.

PREFECT_API_URL=http://127.0.0.1:4200/api python -m deployments.deploy pools|deploy
"""

import typer
from prefect.client.orchestration import get_client

from deployments.deploy.apply import api_url, apply_automations, apply_deployments, apply_pools
from deployments.host.exits import exit_codes
from tasks.settings import get_settings

KEPT = "what was applied so far stays"

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def pools() -> None:
    """Create or update the work pools."""
    with exit_codes(KEPT):
        api_url()
        with get_client(sync_client=True) as client:
            apply_pools(client)


@app.command()
def deploy() -> None:
    """Create or update work pools, deployments and automations."""
    with exit_codes(KEPT):
        api_url()
        settings = get_settings()
        with get_client(sync_client=True) as client:
            apply_pools(client)
            apply_deployments(settings)
            apply_automations(client, settings)


if __name__ == "__main__":
    app()
