"""Runs that `seedvr2 serve` had at work when it ended: they go on when it starts again.

All processes of a run end with serve, so a run that its server still calls running when there is
no worker yet has no process. It is scheduled once more under its own id; finished segments count.
"""

from collections.abc import Iterable, Sequence

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import AwaitingRetry, Cancelled, Crashed

MAX_STARTS = 5
"""A run that was started that often is left alone: it may be what brings the machine down."""
_AT_WORK = ("RUNNING", "PENDING", "CANCELLING")


def runs_at_work(client: SyncPrefectClient, pools: Sequence[str]) -> list[FlowRun]:
    """Runs of these pools that have a process, or had one."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": list(_AT_WORK)}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": list(pools)}}),
    )


def take_up(client: SyncPrefectClient, runs: Iterable[FlowRun]) -> list[FlowRun]:
    """Schedule runs again whose processes are gone; those that have ended stay as they are.

    Returns:
        The runs that will go on.
    """
    going_on = []
    for run in runs:
        now = client.read_flow_run(run.id)
        state = _next_state(now)
        if state is None:
            continue
        client.set_flow_run_state(now.id, state, force=True)
        if state.is_scheduled():
            going_on.append(now)
    return going_on


def _next_state(run: FlowRun) -> State | None:
    """What becomes of a run whose process is gone; None: it has ended, or waits already."""
    kind = run.state.type if run.state else StateType.PENDING
    if kind == StateType.CANCELLING:
        return Cancelled(message="cancelled while seedvr2 serve was ending")
    if kind not in (StateType.RUNNING, StateType.PENDING, StateType.CRASHED):
        return None
    if run.run_count < MAX_STARTS:
        return AwaitingRetry(message="seedvr2 serve ended; the job goes on when it is up again")
    return Crashed(
        message=f"seedvr2 serve ended {run.run_count} times while this job was at work; "
        "start it again by hand, finished segments are kept"
    )
