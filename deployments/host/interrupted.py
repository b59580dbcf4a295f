"""Runs that were at work when `seedvr2 serve` ended: they go on when it starts again.

All processes of a run end with serve. So if the server calls a run running before serve has started
a worker, the run has no process. We schedule it again under its own id, and it goes on after its
finished segments.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import AwaitingRetry, Cancelled, Crashed

from tasks.recovery.states import earliest_start, read_states
from tasks.run.appointments import LABEL_RECOVERING
from tasks.run.attempts import attempts_of

MAX_STARTS = 5
"""A run that was started so often is not started again: it may be what crashes the machine."""
_AT_WORK = ("RUNNING", "PENDING", "CANCELLING")


def runs_at_work(client: SyncPrefectClient, pools: Sequence[str]) -> list[FlowRun]:
    """List the runs of these pools that have a process, or had one when serve ended."""
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": list(_AT_WORK)}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": list(pools)}}),
    )


def schedule_again(client: SyncPrefectClient, runs: Iterable[FlowRun]) -> list[FlowRun]:
    """Schedule runs again whose processes are gone; those that have ended meanwhile stay ended.

    A run that `recover` was bringing back may have become Cancelling a moment ago. The workers that
    start next hear of that once more, and would kill it again: it begins when they no longer do.

    Returns:
        The runs that will go on.
    """
    going_on = []
    for run in runs:
        current = client.read_flow_run(run.id)
        state = _next_state(current, earliest_start(read_states(client, run.id)))
        if state is None:
            continue
        client.set_flow_run_state(current.id, state, force=True)
        if state.is_scheduled():
            going_on.append(current)
    return going_on


def _next_state(run: FlowRun, earliest: datetime | None) -> State | None:
    """The new state of a run whose process is gone; None if it has ended or is scheduled.

    `earliest` is from when on its next attempt may begin; None: at once.
    """
    kind = run.state.type if run.state else StateType.PENDING
    if kind == StateType.CANCELLING and not run.labels.get(LABEL_RECOVERING):
        return Cancelled(message="cancelled while seedvr2 serve was ending")
    # One that `recover` was bringing back is none that somebody has cancelled.
    if kind not in (
        StateType.RUNNING,
        StateType.PENDING,
        StateType.CRASHED,
        StateType.CANCELLING,
    ):
        return None
    if attempts_of(run) < MAX_STARTS:
        now = datetime.now(UTC)
        told = "seedvr2 serve ended; the job goes on when it is up again"
        return AwaitingRetry(scheduled_time=max(now, earliest or now), message=told)
    return Crashed(
        message=f"seedvr2 serve ended {attempts_of(run)} times while this job was at work; "
        "start it again by hand, finished segments are kept"
    )
