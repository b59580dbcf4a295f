"""Bring a Prefect server to what this checkout says: work pools, deployments, automations.

Work pools come from work_pools/*.json, deployments with their triggers from prefect.yaml and
automations from automations.py, all fitted to the site's table of resolutions
(SEEDVR2_DEPLOYMENTS). Applied again, nothing doubles; what an operator set on the server beside it
(pool limits, pauses) stays.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from deployments.deploy.automations import (
    alert_action,
    apply_automation,
    crashed_to_recover,
    heartbeat_lost,
    late_alert,
    pool_alert,
)
from deployments.host.attached import attached
from deployments.host.exits import say
from seedvr2_core.errors import ChildFailedError, InvalidRequestError
from tasks.run.routing import resolutions_of
from tasks.settings import Settings, get_settings

ROOT = Path(__file__).parents[2]
PREFECT_FILE = ROOT / "prefect.yaml"
POOLS_DIR = Path(__file__).parent / "work_pools"
DESCRIPTIONS = {
    "h100": "One container a job, one job a GPU: 720p and 1080p by default.",
    "h200": "One container a job, one job a GPU with more memory: 2k and 4k by default.",
    "cpu": "Small flows without a GPU: route and recover.",
    "local": "Processes on the worker's own machine, with the GPU or CPU it has.",
}
DEPLOY_SECONDS = 300.0


def deployment_name(entry: dict[str, Any]) -> str:
    """Full name of an entry of prefect.yaml: its flow is called as the entrypoint's last part."""
    return f"{entry['entrypoint'].rsplit('.', 1)[-1]}/{entry['name']}"


def read_deployments() -> dict[str, Any]:
    """prefect.yaml, its triggers fitted to the table.

    A deployment that the table sends nothing to listens to no event.
    """
    content = yaml.safe_load(PREFECT_FILE.read_text())
    for entry in content["deployments"]:
        taken = list(resolutions_of(deployment_name(entry)))
        triggers = entry.pop("triggers", []) if taken else []
        label = {"resolution": taken + [resolution.upper() for resolution in taken]}
        entry["triggers"] = [trigger | {"match": trigger["match"] | label} for trigger in triggers]
    return content


def pool_template(name: str) -> dict[str, Any]:
    """A pool's base job template, fitted to the site: what the table sends there, the links."""
    template = json.loads((POOLS_DIR / f"{name}.json").read_text())
    if url := get_settings().public_url:
        template["job_configuration"]["env"]["SEEDVR2_PUBLIC_URL"] = url
    variable = template["variables"]["properties"].get("resolutions")
    if variable is not None and (taken := _resolutions_of_pool(name)):
        variable["default"] = ",".join(taken)
    return template


def _resolutions_of_pool(pool: str) -> list[str]:
    """What the table sends to deployments of that pool."""
    entries = read_deployments()["deployments"]
    names = [deployment_name(entry) for entry in entries if entry["work_pool"]["name"] == pool]
    return [resolution for name in names for resolution in resolutions_of(name)]


def pool_type(template: dict[str, Any]) -> str:
    """Which worker a template is for."""
    return "docker" if "image" in template["job_configuration"] else "process"


def pool_names() -> list[str]:
    """Every pool there is a template of."""
    return sorted(path.stem for path in POOLS_DIR.glob("*.json"))


def apply_pools(
    client: SyncPrefectClient, templates: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Create the pools, or bring their templates up to date.

    Args:
        client: of the server.
        templates: base job templates by pool; all of deployments/deploy/work_pools if not given.

    Raises:
        InvalidRequestError: a pool of that name has another type.
    """
    templates = templates or {name: pool_template(name) for name in pool_names()}
    for name, template in templates.items():
        kind = pool_type(template)
        try:
            found = client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(
                    name=name,
                    type=kind,
                    description=DESCRIPTIONS[name],
                    base_job_template=template,
                )
            )
            say(f"work pool {name} ({kind}) created")
            continue
        if found.type != kind:
            raise InvalidRequestError(
                f"the work pool {name!r} on the server is of type {found.type}, expected {kind}; "
                f"move its runs away and delete it: prefect work-pool delete {name}"
            )
        # Only these two fields: limits and pauses are the operator's.
        update = WorkPoolUpdate(description=DESCRIPTIONS[name], base_job_template=template)
        client.update_work_pool(name, update)
        say(f"work pool {name} ({kind}) is up to date")


def apply_deployments(settings: Settings, pools: Collection[str] | None = None) -> None:
    """`prefect deploy --all`, with the fitted file.

    Args:
        settings: name the image of the docker pools.
        pools: deployments on these alone; all if not given.

    Raises:
        ChildFailedError: Prefect refused a deployment; the message holds its last lines.
    """
    content = read_deployments()
    wanted = [e for e in content["deployments"] if pools is None or e["work_pool"]["name"] in pools]
    environment = {**os.environ, "PREFECT_API_URL": api_url()}
    if any("image" in entry["work_pool"].get("job_variables", {}) for entry in wanted):
        environment["SEEDVR2_IMAGE"] = settings.image or default_image()
        say(f"the docker pools run {environment['SEEDVR2_IMAGE']}")
    with tempfile.TemporaryDirectory() as folder:
        fitted = Path(folder) / "prefect.yaml"
        fitted.write_text(json.dumps(content | {"deployments": wanted}))  # JSON is YAML
        command = attached("prefect", "--no-prompt", "deploy", "--all")
        done = subprocess.run(
            [*command, "--prefect-file", str(fitted)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEPLOY_SECONDS,
        )
    if done.returncode != 0:
        told = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise ChildFailedError(f"prefect deploy ended with {done.returncode}; it said:\n{told}")
    for entry in wanted:
        say(f"deployment {deployment_name(entry)} is up to date")


def default_image() -> str:
    """seedvr2:<commit>, with -dirty for a checkout that differs from it.

    Raises:
        InvalidRequestError: this is no git checkout.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InvalidRequestError(
            f"the image has no name: SEEDVR2_IMAGE is not set and {ROOT} is no git checkout; set "
            "SEEDVR2_IMAGE to what `make image` built"
        ) from error
    return f"seedvr2:{done.stdout.strip()}"


def apply_automations(
    client: SyncPrefectClient, settings: Settings, pools: Collection[str] | None = None
) -> None:
    """Heartbeats, recovery, alerts; alerts of these pools, of all if none are given."""
    alert = alert_action(settings.alert_url)
    recover_id = client.read_deployment_by_name("recover/auto").id
    for automation in (
        heartbeat_lost(settings.heartbeat_lost_seconds),
        crashed_to_recover(recover_id),
        late_alert(alert),
        pool_alert(alert, sorted(pools or pool_names())),
    ):
        apply_automation(client, automation)
        say(f"automation {automation.name!r} is up to date")
    if alert is None:
        say("alerts go nowhere: SEEDVR2_ALERT_URL is not set")


def api_url() -> str:
    """Where the server is.

    Raises:
        InvalidRequestError: nothing says where, or nothing answers there.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise InvalidRequestError(
            "PREFECT_API_URL is not set: which Prefect server is meant? Start one with "
            "`prefect server start`, then export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    try:
        httpx.get(f"{url}/health", timeout=10.0).raise_for_status()
    except httpx.HTTPError as error:
        raise InvalidRequestError(f"no Prefect server answers at {url}: {error}") from error
    return url
