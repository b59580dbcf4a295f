"""End a run that nobody else will end: cancel a lost one, finish a cancel that was left undone.

A state that is set by force stops no process. So a lost run is cancelled before anything else is
done with it, and its worker, if it has one, gets time to end its process.
"""

import time
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from tasks.recovery.report import RunReport
from tasks.recovery.states import MARK, cancelling, ended_by_us, move
from tasks.run.appointments import LABEL_RECOVERING
from tasks.run.attempts import end_task_runs
from tasks.run.callbacks.hook import call_back
from tasks.settings import get_settings
from tasks.step import step

_WORKER_LABEL = "prefect.worker.name"
"""Prefect's worker labels each run that it takes with its own name."""
WENT_ON = "left alone: it went on by itself"
_POLL_SECONDS = 1.0
_NO_PROCESS_SECONDS = 15.0
"""How long to wait for the worker of a run that has no process left to end."""
_NO_WORKER_SECONDS = 5.0
"""How long to wait where the worker itself has shown no sign of life for too long."""
_WORKER_SIGNS, _WORKER_MARGIN_SECONDS = 2, 10.0
"""A worker counts as gone when it has missed so many heartbeats, and so many seconds after."""
_WORKER_INTERVAL_SECONDS = 30.0
"""Time between two heartbeats of a worker that does not say it: Prefect's own default."""


@step(name="finish-cancel", retries=3, retry_delay_seconds=[1, 5, 15])
def finish_cancel(report: RunReport) -> str:
    """Make a run Cancelled that somebody cancelled and whose worker is not there to end it.

    Returns:
        What was done, in words.
    """
    told = f"{MARK}{report.meaning.why}; finished segments are kept"
    with get_client(sync_client=True) as client:
        state = Cancelled(message=told)
        if not move(client, report.run_id, report.state_id, state):
            return WENT_ON
        end_task_runs(client, report.run_id, told)
        tell_caller(client, report, state)
    return "cancelled"


@step(name="end-run", retries=3, retry_delay_seconds=[1, 5, 15])
def end_run(report: RunReport) -> bool:
    """Cancel a lost run and wait until its worker, if it has one, has ended it.

    Returns:
        Whether it is ended; False if it ended by itself, went on, or somebody else cancels it.
    """
    with get_client(sync_client=True) as client:
        label_recovering(client, report, True)
        ended = _cancel(client, report)
        if not ended:
            label_recovering(client, report, False)
        return ended


def label_recovering(client: SyncPrefectClient, report: RunReport, at_work: bool) -> None:
    """Label a run while `recover` brings it back: cancelling it then is not its end."""
    client.update_flow_run_labels(report.run_id, {LABEL_RECOVERING: at_work})


def tell_caller(client: SyncPrefectClient, report: RunReport, state: State) -> None:
    """Send the caller what the run's own hooks would send; they run only in its process."""
    run = client.read_flow_run(report.run_id)
    call_back(None, run, run.state or state)


def _cancel(client: SyncPrefectClient, report: RunReport) -> bool:
    """Cancel a run as `end_run` says, unless an earlier `recover` already has."""
    if ended_by_us(client, report.run_id) is None:
        told = f"{MARK}{report.meaning.why}, what is left of it is ended"
        ending = cancelling(told, heard_by_workers=report.meaning.has_process)
        if not move(client, report.run_id, report.state_id, ending):
            return False
    _wait_for_the_worker(client, report)
    return ended_by_us(client, report.run_id) is not None


def _wait_for_the_worker(client: SyncPrefectClient, report: RunReport) -> None:
    """Give the worker of a cancelled run time to end its process, as long as there is a worker."""
    patience = get_settings().recover_wait_seconds
    if not report.meaning.has_process:
        patience = min(patience, _NO_PROCESS_SECONDS)
    began, since = time.monotonic(), None
    while _may_be_ended(run := client.read_flow_run(report.run_id)):
        # The server's clock has written the heartbeats, and the state that we have just set.
        since = since or (run.state.timestamp if run.state else datetime.now(UTC))
        waited = time.monotonic() - began
        # It may turn out while we wait that the worker has missed its heartbeats.
        if worker_is_gone(client, run, since + timedelta(seconds=waited)):
            patience = min(patience, _NO_WORKER_SECONDS)
        if waited >= patience:
            return
        time.sleep(min(_POLL_SECONDS, patience / 2))


def worker_is_gone(client: SyncPrefectClient, run: FlowRun, now: datetime) -> bool:
    """Whether the worker that took a run has missed its heartbeats; False if it is not known.

    Args:
        client: of the server.
        run: the run.
        now: the present time by the server's clock.
    """
    name, pool = run.labels.get(_WORKER_LABEL), run.work_pool_name
    if name is None or pool is None:
        return False
    try:
        workers = client.read_workers_for_work_pool(pool)
    except ObjectNotFound:  # somebody has deleted the pool, and its workers with it
        return True
    worker = next((worker for worker in workers if worker.name == name), None)
    if worker is None or worker.last_heartbeat_time is None:
        return False
    silent = (now - worker.last_heartbeat_time).total_seconds()
    interval = worker.heartbeat_interval_seconds or _WORKER_INTERVAL_SECONDS
    return silent > _WORKER_SIGNS * interval + _WORKER_MARGIN_SECONDS


def _may_be_ended(run: FlowRun) -> bool:
    """Whether a worker may still be ending the run: it may set Crashed first, then Cancelled."""
    return run.state is not None and (run.state.is_cancelling() or run.state.is_crashed())
