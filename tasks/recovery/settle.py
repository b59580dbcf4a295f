"""Give a run its state: Running if it was wrongly taken for crashed; Completed, AwaitingRetry or
Failed after it was ended.
"""

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.states import AwaitingRetry, Completed, Failed, Running

from tasks.recovery.end import WENT_ON, label_recovering, tell_caller
from tasks.recovery.output import save_result
from tasks.recovery.report import RunReport
from tasks.recovery.states import MARK, earliest_start, move, move_ended, read_states
from tasks.request.shared import output_key_of
from tasks.run import RESULT_KEY, publish_result
from tasks.run.appointments import LABEL_RECOVERIES, MAX_RECOVERIES
from tasks.run.artifacts import newest_artifact
from tasks.run.attempts import end_task_runs
from tasks.run.clock import server_now
from tasks.run.retention import callers_own, keep_output
from tasks.schemas import UpscaleResult
from tasks.settings import get_settings
from tasks.step import step


@step(name="say-alive", retries=3, retry_delay_seconds=[1, 5, 15])
def say_alive(report: RunReport) -> None:
    """Make a run Running again that counts as crashed and beats.

    Prefect calls a run crashed when it does not receive its heartbeats; the run may be well.
    """
    with get_client(sync_client=True) as client:
        told = f"{MARK}it beats; it had been taken for crashed: {report.message}"
        move(client, report.run_id, report.state_id, Running(message=told))


@step(name="settle", retries=3, retry_delay_seconds=[1, 5, 15])
def settle(report: RunReport, output: UpscaleResult | None) -> str:
    """Complete, re-queue or fail a run that was ended.

    Args:
        report: the run.
        output: its output in storage, if there is one.

    Returns:
        What was done, in words.
    """
    with get_client(sync_client=True) as client:
        if output is not None:
            done = _complete(client, report, output)
        elif report.may_requeue:
            done = _requeue(client, report)
        else:
            done = _fail(client, report)
        label_recovering(client, report, False)
    return done


def _complete(client: SyncPrefectClient, report: RunReport, output: UpscaleResult) -> str:
    """Publish the result that the run did not, and make the run Completed."""
    if not newest_artifact(client, report.run_id, RESULT_KEY):
        run = client.read_flow_run(report.run_id)
        given, default = run.parameters, get_settings().expires_in
        tags, metadata = str(given.get("tags") or ""), str(given.get("metadata") or "")
        own = callers_own(tags, metadata, given.get("expires_in"), default)
        output = output.model_copy(update=own)
        save_result(output)
        publish_result(output)
        keep_output(client, run, output_key_of(output.job_key, output.preview), output.expires_at)
    told = f"{MARK}{report.meaning.why}, but its output is stored: {output.filename}"
    return _close(client, report, Completed(message=told), f"completed: {output.filename}")


def _requeue(client: SyncPrefectClient, report: RunReport) -> str:
    """Let a worker take the same run again; it goes on with the segments that are finished."""
    number = report.recoveries + 1
    # The label comes first: if we are lost in between, an attempt is used up and none is won.
    client.update_flow_run_labels(report.run_id, {LABEL_RECOVERIES: number})
    told = f"{MARK}{report.meaning.why}; re-queued, {number} of {MAX_RECOVERIES}"
    now, earliest = server_now(client), earliest_start(read_states(client, report.run_id))
    state = AwaitingRetry(scheduled_time=max(now, earliest or now), message=told)
    return f"re-queued, {number}" if move_ended(client, report.run_id, state) else WENT_ON


def _fail(client: SyncPrefectClient, report: RunReport) -> str:
    """Give the run up."""
    name, message = _last_words(report)
    return _close(client, report, Failed(name=name, message=message), f"failed: {message}")


def _close(client: SyncPrefectClient, report: RunReport, state: State, done: str) -> str:
    """Set a final state and tell the caller; returns what was done, in words."""
    if not move_ended(client, report.run_id, state):
        return WENT_ON
    end_task_runs(client, report.run_id, f"{MARK}{report.meaning.why}")
    tell_caller(client, report, state)
    return done


def _last_words(report: RunReport) -> tuple[str, str]:
    """Name and message of the final state of a run that is given up."""
    before = f"; before that: {report.state}: {report.message}" if report.message else ""
    if report.verdict == "overdue" and report.deadline is not None:
        return "TimedOut", (
            f"the job passed its time limit at {report.deadline:%Y-%m-%d %H:%M:%S} UTC and its "
            "process did not end it; finished segments are kept: run it again to go on"
        )
    if report.helps is not None:
        return "Failed", (
            f"{report.meaning.why} and was re-queued {report.recoveries} times; job {report.helps} "
            f"goes on without this helper{before}"
        )
    return "Failed", (
        f"output file not found; {report.meaning.why} and was re-queued "
        f"{report.recoveries} times{before}"
    )
