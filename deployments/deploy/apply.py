"""Creates or updates work pools, deployments and automations on a Prefect server.

Work pools come from work_pools/*.json, deployments and their triggers from prefect.yaml, and
automations from automations.py. All of them are fitted to the table SEEDVR2_DEPLOYMENTS, which says
which resolution runs where, and to the site's settings (site.py). Applying them again creates no
duplicates, and what an operator has set on the server stays (operators.py).
"""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from deployments.deploy.automations import (
    LATE_ALERT,
    OF_EARLIER_VERSIONS,
    POOL_ALERT,
    alert_action,
    apply_automation,
    crashed_to_recover,
    late_alert,
    pool_alert,
    remove_automations,
)
from deployments.deploy.operators import keep_deployment, merge_template, read_deployment
from deployments.deploy.site import Site
from deployments.host.attached import attached
from deployments.host.exits import say
from seedvr2_core.errors import ChildFailedError, InvalidRequestError
from tasks.run.routing import labels_for, resolutions_of
from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
PREFECT_FILE = ROOT / "prefect.yaml"
POOLS_DIR = Path(__file__).parent / "work_pools"
DESCRIPTIONS = {
    "h100": "One container a job, one job a GPU: 720p and 1080p by default.",
    "h200": "One container a job, one job a GPU with more memory: 2k and 4k by default.",
    "cpu": "Small flows without a GPU: route, recover and fetch-source.",
    "local": "Processes on the worker's own machine, with the GPU or CPU it has.",
}
DEPLOY_SECONDS = 300.0
EMPTY_SITE = Site()
PARTS_QUEUE = "parts"
"""The queue of helpers in prefect.yaml."""
QUEUES = {
    "high": (1, "Jobs of callers with a high priority. Workers take them first."),
    "low": (500, "Jobs of callers with a low priority. Workers take others first."),
    PARTS_QUEUE: (1000, "Helpers of long jobs. Workers take jobs of other queues first."),
}
"""Queues of the pools that make videos: name -> priority and description. Between `high` and `low`
comes Prefect's own `default`, in which most jobs wait."""
FORMER_DEPLOYMENTS = ("recover/auto",)
"""Deployments that had other names in earlier versions; their schedules would go on."""


def deployment_name(entry: dict[str, Any]) -> str:
    """Full name of an entry of prefect.yaml: the entrypoint's last part is the flow's name."""
    return f"{entry['entrypoint'].rsplit('.', 1)[-1].replace('_', '-')}/{entry['name']}"


def read_deployments() -> dict[str, Any]:
    """Read prefect.yaml and fit its triggers to the table SEEDVR2_DEPLOYMENTS.

    A deployment that gets no resolution from the table gets no trigger. A factor or a box goes to
    `route`, which looks at the source; where one deployment makes everything, it goes there. The
    step that refuses a plain `prefect deploy` is left out.
    """
    content = yaml.safe_load(PREFECT_FILE.read_text())
    for entry in content["deployments"]:
        entry.pop("build", None)
        names = labels_for(deployment_name(entry))
        triggers = entry.pop("triggers", []) if names else []
        label = {"resolution": names}
        entry["triggers"] = [trigger | {"match": trigger["match"] | label} for trigger in triggers]
    return content


def pool_template(name: str) -> dict[str, Any]:
    """Read a pool's base job template and fit it to the site.

    The default of `resolutions` is what the table sends to the pool.
    """
    template = json.loads((POOLS_DIR / f"{name}.json").read_text())
    variable = template["variables"]["properties"].get("resolutions")
    if variable is not None and (taken := _resolutions_of_pool(name)):
        variable["default"] = ",".join(taken)
    return template


def _resolutions_of_pool(pool: str) -> list[str]:
    """The resolutions that the table sends to deployments on this pool."""
    entries = read_deployments()["deployments"]
    names = [deployment_name(entry) for entry in entries if entry["work_pool"]["name"] == pool]
    return [resolution for name in names for resolution in resolutions_of(name)]


def pool_type(template: dict[str, Any]) -> str:
    """The type of worker that a template is for: docker or process."""
    return "docker" if "image" in template["job_configuration"] else "process"


def pool_names() -> list[str]:
    """Names of all pools, in order: those that have a template."""
    return sorted(path.stem for path in POOLS_DIR.glob("*.json"))


def apply_pools(
    client: SyncPrefectClient,
    templates: Mapping[str, dict[str, Any]] | None = None,
    site: Site = EMPTY_SITE,
) -> None:
    """Create the pools, or update their templates and descriptions.

    Args:
        client: of the server.
        templates: base job templates by pool; all of work_pools/*.json if not given.
        site: its settings are handed to the jobs of every pool.

    Raises:
        InvalidRequestError: a pool of that name has another type.
    """
    templates = templates or {name: pool_template(name) for name in pool_names()}
    for name, template in templates.items():
        action = _apply_pool(client, name, template, site)
        _apply_queues(client, name)
        say(f"work pool {name} ({pool_type(template)}) {action}")


def _apply_pool(client: SyncPrefectClient, name: str, template: dict[str, Any], site: Site) -> str:
    """Create or update a pool; returns what was done, in words."""
    kind, description = pool_type(template), DESCRIPTIONS[name]
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        template, _ = merge_template(template, {}, site)
        client.create_work_pool(
            WorkPoolCreate(
                name=name, type=kind, description=description, base_job_template=template
            )
        )
        return "created"
    if found.type != kind:
        raise InvalidRequestError(
            f"the work pool {name!r} on the server is of type {found.type}, expected {kind}; "
            f"move its runs away and delete it: prefect work-pool delete {name}"
        )
    template, notes = merge_template(template, found.base_job_template, site)
    # We update only these two fields: limits and pauses belong to the operator.
    update = WorkPoolUpdate(description=description, base_job_template=template)
    client.update_work_pool(name, update)
    return "\n  ".join(["is up to date", *notes])


def _apply_queues(client: SyncPrefectClient, pool: str) -> None:
    """Create the queues of a pool that makes videos; one that is there stays as it is."""
    pools = [entry["work_pool"] for entry in read_deployments()["deployments"]]
    if (pool, PARTS_QUEUE) not in [(one["name"], one.get("work_queue_name")) for one in pools]:
        return
    for name, (priority, description) in QUEUES.items():
        try:
            client.read_work_queue_by_name(name, work_pool_name=pool)
        except ObjectNotFound:
            client.create_work_queue(
                name, description=description, priority=priority, work_pool_name=pool
            )


def apply_deployments(
    client: SyncPrefectClient, settings: Settings, pools: Collection[str] | None = None
) -> None:
    """Run `prefect deploy --all` with prefect.yaml as fitted to the site.

    Args:
        client: of the server.
        settings: name the image of the docker pools.
        pools: only deployments on these pools; all if not given.

    Raises:
        ChildFailedError: Prefect refused a deployment; the message holds its last lines.
    """
    content = read_deployments()
    wanted = [e for e in content["deployments"] if pools is None or e["work_pool"]["name"] in pools]
    environment = {**os.environ, "PREFECT_API_URL": api_url()}
    if auth := PREFECT_API_AUTH_STRING.value():
        environment["PREFECT_API_AUTH_STRING"] = auth
    if any("image" in entry["work_pool"].get("job_variables", {}) for entry in wanted):
        environment["SEEDVR2_IMAGE"] = settings.image or default_image()
        say(f"the docker pools run {environment['SEEDVR2_IMAGE']}")
    before = {name: read_deployment(client, name) for name in map(deployment_name, wanted)}
    _run_prefect_deploy(content | {"deployments": wanted}, environment)
    remove_deployments(client, FORMER_DEPLOYMENTS)
    for entry in wanted:
        name = deployment_name(entry)
        earlier = before[name]
        notes = keep_deployment(client, earlier, entry, name) if earlier else []
        what = "is up to date" if earlier else "created"
        say("\n  ".join([f"deployment {name} {what}", *notes]))


def remove_deployments(client: SyncPrefectClient, names: Iterable[str]) -> None:
    """Remove deployments, with their scheduled runs, where they exist."""
    for name in names:
        with contextlib.suppress(ObjectNotFound):
            client.delete_deployment(client.read_deployment_by_name(name).id)
            say(f"deployment {name} is removed: it has another name now")


def _run_prefect_deploy(content: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Run Prefect's own command on a prefect.yaml with this content."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(json.dumps(content))  # JSON is YAML
        command = attached("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=DEPLOY_SECONDS,
        )
    if done.returncode != 0:
        last_lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise ChildFailedError(
            f"prefect deploy ended with {done.returncode}; its last lines are:\n{last_lines}"
        )


def default_image() -> str:
    """The image's name for this checkout: seedvr2:<commit>, with -dirty if files were changed.

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
    """Create or update the automations: recovery and, if there is an address for them, alerts.

    Args:
        client: of the server.
        settings: the alerts' address.
        pools: pools whose last worker is watched; all if not given.
    """
    alert = alert_action(settings.alert_url)
    recover_id = client.read_deployment_by_name("recover/lost-runs").id
    wanted, unwanted = [crashed_to_recover(recover_id)], list(OF_EARLIER_VERSIONS)
    if alert is None:
        say("no alerts are sent: SEEDVR2_ALERT_URL is not set")
        unwanted += [LATE_ALERT, POOL_ALERT]
    else:
        wanted += [late_alert(alert), pool_alert(alert, sorted(pools or pool_names()))]
    for automation in wanted:
        apply_automation(client, automation)
        say(f"automation {automation.name!r} is up to date")
    for name in remove_automations(client, unwanted):
        say(f"automation {name!r} is removed")


def api_url() -> str:
    """The address of the Prefect server's API.

    Raises:
        InvalidRequestError: PREFECT_API_URL is not set, or no server answers there.
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
