"""What is done about a lost run: it is ended, and then completed, re-queued or failed.

Prefect has no compare-and-set for states, and a forced state stops no process. So a run is
cancelled first; and a state is set only if the run is still in the state it was judged in, which
its history proves afterwards: whatever came in between is put back, the run's own result wins.
"""

import time
from datetime import UTC, datetime
from uuid import UUID

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Completed, Failed, Running

from tasks.recovery.output import save_result
from tasks.recovery.report import (
    MARK,
    POLL_SECONDS,
    RunReport,
    read_states,
    seconds_left,
    we_cancelled,
)
from tasks.run.appointments import LABEL_RECOVERIES, LABEL_RECOVERING, MAX_RECOVERIES, appoint
from tasks.run.callback import call_back
from tasks.run.record import publish_result, result_published
from tasks.schemas import UpscaleResult
from tasks.settings import get_settings
from tasks.step import retryable

_CHANGES = 5
"""More than a worker has words for a run that it ends."""
WHY = {
    "crashed": "it crashed",
    "silent": "it gave no sign of life",
    "overdue": "it passed its time limit",
    "stuck": "its worker took it and never started it",
    "interrupted": "it was lost",
}


@task(
    name="make-appointment",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=retryable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def make_appointment(report: RunReport) -> None:
    """Let `recover` look again: at the new ETA of a job at work, else when it is brought back.

    That is for the case that whoever brings it back is lost as well.
    """
    settings = get_settings()
    bringing_back = 2 * settings.recover_wait_seconds
    left = bringing_back if report.lost else seconds_left(report, datetime.now(UTC))
    seconds = left + settings.recover_margin_seconds
    with get_client(sync_client=True) as client:
        if appoint(client, client.read_flow_run(report.run_id), seconds) is not None:
            get_run_logger().info("recover looks again in %.0f s at the latest", seconds)


@task(
    name="say-alive",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=retryable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def say_alive(report: RunReport) -> None:
    """A run that counts as crashed and beats is running: only its heartbeats were not heard."""
    with get_client(sync_client=True) as client:
        told = f"{MARK}it beats; it had been taken for crashed: {report.message}"
        move(client, report.run_id, report.state_id, Running(message=told))


@task(
    name="finish-cancel",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=retryable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
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


@task(
    name="end-run",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=retryable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
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


@task(
    name="settle",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=retryable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def settle(report: RunReport, output: UpscaleResult | None) -> str:
    """Give a run that was ended its state: Completed, AwaitingRetry or Failed.

    Args:
        report: the run.
        output: its output in storage, if there is one.

    Returns:
        What was done, in words.
    """
    with get_client(sync_client=True) as client:
        if output is not None:
            done = _complete(client, report, output)
        elif has_attempts(report):
            done = _requeue(client, report)
        else:
            done = _fail(client, report)
        _label_recovering(client, report, False)
    return done


def has_attempts(report: RunReport) -> bool:
    """Whether it may be re-queued: not where a limit has ended it, nor more than twice."""
    return report.verdict != "overdue" and report.recoveries < MAX_RECOVERIES


def _complete(client: SyncPrefectClient, report: RunReport, output: UpscaleResult) -> str:
    """The file is there: the run is what it would have been, had it not been lost."""
    if not result_published(report.run_id):
        save_result(output)
        publish_result(output)
    told = f"{MARK}{WHY[report.verdict]}, but its output is stored: {output.filename}"
    moved = _close(client, report, Completed(message=told))
    return _said(moved, f"completed: {output.filename}")


def _requeue(client: SyncPrefectClient, report: RunReport) -> str:
    """The same run once more; it goes on with the segments that are there."""
    number = report.recoveries + 1
    # The label first: whoever is lost between both has used up an attempt, never won one.
    client.update_flow_run_labels(report.run_id, {LABEL_RECOVERIES: number})
    told = f"{MARK}{WHY[report.verdict]}; re-queued, {number} of {MAX_RECOVERIES}"
    state = AwaitingRetry(scheduled_time=datetime.now(UTC), message=told)
    return _said(move_ended(client, report.run_id, state), f"re-queued, {number}")


def _fail(client: SyncPrefectClient, report: RunReport) -> str:
    """Give it up."""
    name, message = _last_words(report)
    state = Failed(name=name, message=message)
    return _said(_close(client, report, state), f"failed: {message}")


def _close(client: SyncPrefectClient, report: RunReport, state: State) -> bool:
    """Set a state that is its end, and tell the caller."""
    moved = move_ended(client, report.run_id, state)
    if moved:
        _tell_caller(client, report.run_id, state)
    return moved


def _tell_caller(client: SyncPrefectClient, run_id: UUID, state: State) -> None:
    """What the run's own hooks do when it ends by itself."""
    run = client.read_flow_run(run_id)
    call_back(None, run, run.state or state)


def _last_words(report: RunReport) -> tuple[str, str]:
    """Name and message of the state of a run that is given up."""
    before = f"; before that: {report.state}: {report.message}" if report.message else ""
    if report.verdict == "overdue" and report.job is not None:
        limit = report.job.job_limit_seconds
        return "TimedOut", (
            f"the job passed its limit of {limit:g} s and its process did not end it; finished "
            "segments are kept: run it again to go on"
        )
    return "Failed", (
        f"output file not found; {WHY[report.verdict]} and was re-queued "
        f"{report.recoveries} times{before}"
    )


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
