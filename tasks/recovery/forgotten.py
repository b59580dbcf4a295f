"""Find lost runs that nothing else is checking: one look of the sweep.

`recover` comes to a run by an appointment or by an event. An event may come a quarter of an hour
late, or not at all, if the server was started again meanwhile; and the worker of a run may die
before it made the appointment. So the sweep asks the server itself. It asks for all runs together,
a few requests however many there are, and changes nothing: `recover` makes sure before it acts.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.runtime import flow_run
from prefect.states import Crashed

from seedvr2_core.words import counted
from tasks.recovery.report import report_on
from tasks.recovery.states import MARK
from tasks.recovery.watch import is_over
from tasks.run import PROGRESS_KEY, read_progress
from tasks.run.appointments import RECOVER, appoint, find_recover
from tasks.run.artifacts import SavedProgress, artifact_filter
from tasks.run.clock import server_now
from tasks.settings import get_settings

_OLDEST = timedelta(days=1)
"""A run that has been lost for longer is known to somebody, and must not start by itself."""
WATCHED = ("upscale", "upscale-part")
"""Flows whose runs are brought back when they are lost."""
_PAGE = 200
"""The most runs or artifacts that Prefect gives in one answer."""


def appoint_unseen(client: SyncPrefectClient, at_work: Sequence[FlowRun]) -> str:
    """Let `recover` look at every run that seems lost, unless one is already at work on it.

    Args:
        client: of the server.
        at_work: runs of `recover` that are running.

    Returns:
        What was found, in words; "" if nothing was.
    """
    looked_at = _without_lost(client, at_work)
    unseen = [run for run in _quiet_runs(client) if str(run.id) not in looked_at]
    recover_id = find_recover(client) if unseen else None
    for run in unseen:
        name = run.state.name if run.state else "unknown"
        get_run_logger().warning("%s (%s): %s, and nobody looks at it", run.name, run.id, name)
        if recover_id is None:
            return f"{RECOVER} is not deployed: nobody can look"
        appoint(client, run, 0, recover_id=recover_id)
    if not unseen:
        return ""
    found = counted(len(unseen), "lost run")
    client.update_flow_run(UUID(flow_run.id), name=f"found {found}")
    return f"{found} that nobody looked at"


def _without_lost(client: SyncPrefectClient, at_work: Sequence[FlowRun]) -> set[str]:
    """Make runs of `recover` Crashed whose process is gone: others would wait for them.

    Returns:
        Ids of the runs that the others are at work on.
    """
    now, looked_at = server_now(client), set[str]()
    for run in at_work:
        looks_at = run.parameters.get("run_id")
        if looks_at and is_over(run, now):
            say_lost(client, run)
        elif looks_at:
            looked_at.add(str(looks_at))
    return looked_at


def say_lost(client: SyncPrefectClient, run: FlowRun) -> None:
    """Make a run of `recover` Crashed whose process is gone."""
    told = f"{MARK}it gave no sign that it is at work any more"
    client.set_flow_run_state(run.id, Crashed(message=told))


def _quiet_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Runs of a deployed `upscale` or helper of one whose process should have done something."""
    now = datetime.now(UTC)
    deployed = {"deployment_id": {"is_null_": False}}
    open_types = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    crashed = {
        "state": {"type": {"any_": ["CRASHED"]}},
        "end_time": {"after_": (now - _OLDEST).isoformat()},
    }
    runs = [
        *runs_of(client, WATCHED, deployed | open_types),
        *runs_of(client, WATCHED, deployed | crashed),
    ]
    running = [run.id for run in runs if run.state and run.state.is_running()]
    progress = _progress_of(client, running)
    return [run for run in runs if _is_quiet(run, progress.get(run.id, SavedProgress()), now)]


def _is_quiet(run: FlowRun, progress: SavedProgress, now: datetime) -> bool:
    """Whether a run seems lost, and not for so long that somebody must know."""
    state, settings = run.state, get_settings()
    if state is None:
        return False
    if state.is_running():
        since = max(state.timestamp, progress.renewed_at or state.timestamp)
        report = report_on(run, (), progress, asked_for=run.id, now=now)
        return report.lost and now - since < _OLDEST
    patience = {
        StateType.CRASHED: settings.recover_wait_seconds / 3,  # the automation comes first
        StateType.CANCELLING: settings.recover_margin_seconds,
        StateType.PENDING: settings.recover_pending_seconds,
    }[state.type]
    return timedelta(seconds=patience) < now - state.timestamp < _OLDEST


def runs_of(
    client: SyncPrefectClient, flows: Sequence[str], wanted: dict[str, Any]
) -> Iterator[FlowRun]:
    """All runs of some flows that a filter lets through, page by page."""
    for offset in range(0, 100 * _PAGE, _PAGE):
        page = client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": list(flows)}}),
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_PAGE,
            offset=offset,
        )
        yield from page
        if len(page) < _PAGE:
            return


def _progress_of(
    client: SyncPrefectClient, run_ids: Sequence[UUID]
) -> dict[UUID | None, SavedProgress]:
    """The newest progress of each run; all attempts of a run have artifacts."""
    found: dict[UUID | None, SavedProgress] = {}
    for first in range(0, len(run_ids), _PAGE // 4):
        artifacts = client.read_artifacts(
            artifact_filter=artifact_filter(run_ids[first : first + _PAGE // 4], PROGRESS_KEY),
            sort=ArtifactSort.UPDATED_DESC,
            limit=_PAGE,
        )
        for artifact in artifacts:
            found.setdefault(artifact.flow_run_id, read_progress([artifact]))
    return found
