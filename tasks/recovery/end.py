"""End a lost run."""

import time
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Cancelling

from tasks.recovery.report import MARK, POLL_SECONDS, RunReport, read_states, we_cancelled
from tasks.run.appointments import LABEL_RECOVERING
from tasks.run.callback import call_back
from tasks.settings import get_settings
from tasks.step import step

_CHANGES = 5
"""More than a worker has words for a run that it ends."""
WHY = {
    "crashed": "it crashed",
    "silent": "it gave no sign of life",
    "overdue": "it passed its time limit",
    "stuck": "its worker took it and never started it",
    "interrupted": "it was lost",
}


@step(name="finish-cancel", retries=3, retry_delay_seconds=[1, 5, 15])
def finish_cancel(report: RunReport) -> str:
    """Give a run that somebody cancelled its end: whoever should have is gone.

    Returns:
        What was done, in words.
    """
    told = f"{MARK}it was cancelled, and its worker was gone; finished segments are kept"
    with get_client(sync_client=True) as client:
        state = Cancelled(message=told)
        moved = move(client, report.run_id, report.state_id, state)
        if moved:
            _tell_caller(client, report.run_id, state)
    return _said(moved, "cancelled")


@step(name="end-run", retries=3, retry_delay_seconds=[1, 5, 15])
def end_run(report: RunReport) -> bool:
    """Cancel a lost run and wait until its worker has ended it, if there is one.

    Returns:
        Whether it is ended; False if it ended by itself, went on, or somebody else cancels it.
    """
    with get_client(sync_client=True) as client:
        _label_recovering(client, report, True)
        ended = _cancel(client, report)
        if not ended:
            _label_recovering(client, report, False)
        return ended


def _label_recovering(client: SyncPrefectClient, report: RunReport, at_work: bool) -> None:
    client.update_flow_run_labels(report.run_id, {LABEL_RECOVERING: at_work})


def _cancel(client: SyncPrefectClient, report: RunReport) -> bool:
    """Cancel it as `end_run` says."""
    if _ended_by_us(client, report.run_id) is None:
        told = f"{MARK}{WHY[report.verdict]}, what is left of it is ended"
        if not move(client, report.run_id, report.state_id, Cancelling(message=told)):
            return False
    patience = get_settings().recover_wait_seconds
    deadline = time.monotonic() + patience
    run = client.read_flow_run(report.run_id)
    while _may_be_ended(run) and time.monotonic() < deadline:
        time.sleep(min(POLL_SECONDS, patience) / 2)
        run = client.read_flow_run(report.run_id)
    return _ended_by_us(client, report.run_id) is not None


def _ended_by_us(client: SyncPrefectClient, run_id: UUID) -> UUID | None:
    """Id of the state that a run is in since a recover has cancelled it; None for any other.

    Its worker may take it from Cancelling to Crashed and Cancelled at any time.
    """
    states = read_states(client, run_id)
    last = states[-1]
    ended = last.is_cancelling() or last.is_cancelled() or last.is_crashed()
    cancelled = next((one for one in reversed(states) if not one.is_crashed()), last)
    ours = (cancelled.is_cancelling() or cancelled.is_cancelled()) and we_cancelled(states)
    return last.id if ended and ours else None


def _may_be_ended(run: FlowRun) -> bool:
    """Whether a worker may still end it: one that does may call it crashed, then cancelled."""
    return run.state is not None and (run.state.is_cancelling() or run.state.is_crashed())


def _tell_caller(client: SyncPrefectClient, run_id: UUID, state: State) -> None:
    """What the run's own hooks do when it ends by itself."""
    run = client.read_flow_run(run_id)
    call_back(None, run, run.state or state)


def _said(moved: bool, done: str) -> str:
    return done if moved else "left alone: it went on by itself"


def move_ended(client: SyncPrefectClient, run_id: UUID, state: State) -> bool:
    """Set the state of a run that was ended, whatever its worker calls it meanwhile.

    Returns:
        False if it is not as recover has left it: then its own state holds.
    """
    for _ in range(_CHANGES):
        ended = _ended_by_us(client, run_id)
        if ended is None:
            return False
        if move(client, run_id, ended, state):
            return True
    return False


def move(client: SyncPrefectClient, run_id: UUID, judged: UUID | None, state: State) -> bool:
    """Set a run's state if it is still in the one it was judged in.

    Args:
        client: to set it with.
        run_id: the run.
        judged: id of the state it was seen in.
        state: the new one.

    Returns:
        False if the run had moved on; then it is, or is put back, where it had moved to.
    """
    now = client.read_flow_run(run_id).state
    if now is None or now.id != judged:
        return False
    ours = client.set_flow_run_state(run_id, state, force=True).state
    if ours is None:
        return False
    states = read_states(client, run_id)
    place = next((k for k, one in enumerate(states) if one.id == ours.id), 0)
    overtaken = states[place - 1] if place else None
    if overtaken is None or overtaken.id == judged:
        return True
    get_run_logger().warning("it became %s at the same moment: put back", overtaken.name)
    client.set_flow_run_state(run_id, overtaken, force=True)
    return False
