"""What is done about a lost run: it is ended, and then completed, re-queued or failed.

Prefect has no compare-and-set for states, and a forced state stops no process. So a run is
cancelled first; and a state is set only if the run is still in the state it was judged in, which
its history proves afterwards: whatever came in between is put back, the run's own result wins.
"""

from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.states import AwaitingRetry, Completed, Failed, Running

from tasks.recovery.end import (
    WHY,
    _label_recovering,
    _said,
    _tell_caller,
    move,
    move_ended,
)
from tasks.recovery.output import save_result
from tasks.recovery.report import MARK, RunReport
from tasks.recovery.watch import seconds_left
from tasks.run import publish_result
from tasks.run.appointments import LABEL_RECOVERIES, MAX_RECOVERIES, appoint
from tasks.run.artifacts import result_published
from tasks.schemas import UpscaleResult
from tasks.settings import get_settings
from tasks.step import step


@step(name="make-appointment", retries=3, retry_delay_seconds=[1, 5, 15])
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


@step(name="say-alive", retries=3, retry_delay_seconds=[1, 5, 15])
def say_alive(report: RunReport) -> None:
    """A run that counts as crashed and beats is running: only its heartbeats were not heard."""
    with get_client(sync_client=True) as client:
        told = f"{MARK}it beats; it had been taken for crashed: {report.message}"
        move(client, report.run_id, report.state_id, Running(message=told))


@step(name="settle", retries=3, retry_delay_seconds=[1, 5, 15])
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
