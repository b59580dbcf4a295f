"""What an operator has set on the server, on pools and deployments, and how it outlives a deploy.

We write down in each pool what we have put there. So the next deploy can tell our values of the
last time, which may be replaced, from those of the operator, which stay.
"""

import copy
from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from deployments.deploy.site import Site

WRITTEN = "x-seedvr2-written"
"""Key in the schema of a pool's variable `env` under which we keep what we wrote."""
_NOTHING = object()


def merge_template(
    ours: Mapping[str, Any], found: Mapping[str, Any], site: Site
) -> tuple[dict[str, Any], list[str]]:
    """The template of a pool with what the site sets and with what an operator set on the server.

    An operator's are: defaults of variables (mem_limit, ...), and environment variables that the
    site does not set. Everything else in a template is ours.

    Args:
        ours: the template as we ship it.
        found: the template that the server has; empty for a new pool.
        site: its settings become defaults of the variable `env`.

    Returns:
        The template, and what was kept or replaced, in words that show no value of the environment.
    """
    merged = copy.deepcopy(dict(ours))
    variables = merged["variables"]["properties"]
    their_variables = found.get("variables", {}).get("properties", {})
    # A pool of an older version does not say what was written into it: it was what we ship, and
    # `resolutions` was fitted to the site's table.
    written = their_variables.get("env", {}).get(WRITTEN)
    if written is None:
        their_variables = {k: v for k, v in their_variables.items() if k != "resolutions"}
    defaults = {
        name: variable["default"]
        for name, variable in variables.items()
        if "default" in variable and name != "env"
    }
    own_env = dict(merged["job_configuration"]["env"])
    wanted = site.for_jobs()
    notes = _keep_defaults(variables, their_variables, (written or {}).get("defaults", defaults))
    notes += _keep_env(
        merged, found, wanted, written or {"env": own_env, "site": {}}, whole=site.whole
    )
    notes += _replaced(merged, found)
    given = {k: v for k, v in variables["env"]["default"].items() if k in wanted}
    if not site.whole:  # what was written before, and stays, is still ours to replace
        given |= {
            name: value
            for name, value in ((written or {}).get("site") or {}).items()
            if variables["env"]["default"].get(name) == value
        }
    variables["env"][WRITTEN] = {"defaults": defaults, "env": own_env, "site": given}
    return merged, notes


def _keep_defaults(
    variables: dict[str, Any], theirs: Mapping[str, Any], written: Mapping[str, Any]
) -> list[str]:
    """Keep defaults of variables that are neither what we wrote nor what we write now."""
    notes = []
    for name, variable in variables.items():
        if name == "env" or name not in theirs:
            continue
        their = theirs[name].get("default", _NOTHING)
        if their is _NOTHING or their in (
            written.get(name, _NOTHING),
            variable.get("default", _NOTHING),
        ):
            continue
        ours = variable.get("default")
        variable["default"] = their
        notes.append(f"kept {name} = {their!r}, which was set there (ours is {ours!r})")
    return notes


def _keep_env(
    merged: dict[str, Any],
    found: Mapping[str, Any],
    wanted: Mapping[str, str],
    written: Mapping[str, Any],
    *,
    whole: bool,
) -> list[str]:
    """Put the site's environment and the operator's into the template."""
    notes = []
    their_own = dict(found.get("job_configuration", {}).get("env") or {})
    own = merged["job_configuration"]["env"]
    for name, value in their_own.items():
        if name in wanted or value in (written["env"].get(name), own.get(name)):
            continue
        own[name] = value
        notes.append(f"kept {name} in the environment, which was set there")
    env = found.get("variables", {}).get("properties", {}).get("env", {}).get("default") or {}
    kept = {}
    for name, value in env.items():
        was_ours = written["site"].get(name) == value
        if name in wanted:
            if not was_ours and value != wanted[name]:
                notes.append(f"replaced {name} in the environment: the site sets it now")
        elif was_ours and whole:
            notes.append(f"removed {name} from the environment: the site no longer sets it")
        else:
            kept[name] = value
            notes.append(f"kept {name} in the environment, which was set there")
    merged["variables"]["properties"]["env"]["default"] = kept | dict(wanted)
    return notes


def _replaced(merged: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What else of the server's template is not what it will be."""
    ours, theirs = merged["job_configuration"], found.get("job_configuration", {})
    return [
        f"replaced job_configuration.{name}"
        for name in sorted({*ours, *theirs} - {"env"})
        if found and ours.get(name) != theirs.get(name)
    ]


def read_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """A deployment as the server has it; None if there is none of this name."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def keep_deployment(
    client: SyncPrefectClient, before: DeploymentResponse, entry: Mapping[str, Any], name: str
) -> list[str]:
    """Set again on a deployment what an operator had set and prefect.yaml does not mention.

    This goes around `prefect deploy`, which would resolve references to Secret blocks and store the
    keys themselves.

    Args:
        client: of the server.
        before: the deployment before the deploy.
        entry: its entry in prefect.yaml.
        name: its full name.

    Returns:
        What was kept, in words.
    """
    now = client.read_deployment_by_name(name)
    update: dict[str, Any] = {}
    ours = entry["work_pool"].get("job_variables", {})
    theirs = {k: v for k, v in (before.job_variables or {}).items() if k not in ours}
    if theirs:
        update["job_variables"] = {**(now.job_variables or {}), **theirs}
    limit = before.global_concurrency_limit
    if limit is not None and "concurrency_limit" not in entry:
        update["concurrency_limit"] = limit.limit
    if before.paused and not now.paused:
        update["paused"] = True
    if before.work_queue_name not in (None, now.work_queue_name):
        update["work_queue_name"] = before.work_queue_name
        # Without the pool, Prefect would take a queue of this name from any pool.
        update["work_pool_name"] = now.work_pool_name
    if update:
        client.update_deployment(now.id, DeploymentUpdate(**update))
    notes = (
        [f"kept {', '.join(sorted({*theirs, *update} - {'job_variables', 'work_pool_name'}))}"]
        if update
        else []
    )
    return notes + _keep_stopped_schedules(client, before, now)


def _keep_stopped_schedules(
    client: SyncPrefectClient, before: DeploymentResponse, now: DeploymentResponse
) -> list[str]:
    """Stop schedules that an operator had stopped."""
    if not before.schedules or any(schedule.active for schedule in before.schedules):
        return []
    for schedule in now.schedules:
        client.update_deployment_schedule(now.id, schedule.id, active=False)
    return ["kept the schedule stopped"]
