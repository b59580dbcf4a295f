"""Watch a run until we know whether it is lost, and arrange when `recover` looks at it again."""

import time
from datetime import UTC, datetime
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from tasks.recovery.report import RunReport, read_report
from tasks.run.appointments import appoint
from tasks.settings import get_settings
from tasks.step import step

_POLL_SECONDS = 2.0


@step(name="look", retries=3, retry_delay_seconds=[1, 5, 15])
def look(run_id: UUID) -> RunReport:
    """Read a run's state and its last beat.

    Raises:
        InvalidRequestError: there is no such run.
    """
    return read_report(run_id)


@step(name="another-looks", retries=3, retry_delay_seconds=[1, 5, 15])
def another_looks(report: RunReport) -> bool:
    """Whether a `recover` that began before this one is at work on the same run."""
    with get_client(sync_client=True) as client:
        running = recovers_at_work(client)
    ids = {str(report.run_id), str(report.asked_for)}
    same = [run for run in running if str(run.parameters.get("run_id")) in ids and run.start_time]
    same.sort(key=lambda run: (run.start_time, run.id))
    return bool(same) and str(same[0].id) != flow_run.id


def recovers_at_work(client: SyncPrefectClient) -> list[FlowRun]:
    """The runs of `recover` that are running."""
    return client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": ["recover"]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}}),
    )


@step(name="make-sure")
def make_sure(report: RunReport) -> RunReport:
    """Watch a run that seems lost, until its verdict is certain.

    Returns:
        The report, or a new one if the run changed its state; alive if its beat changed.
    """
    while report.lost:
        seen = _watch(report, _watch_seconds(report))
        if seen.state_id == report.state_id:
            return seen
        report = seen
    return report


def _watch_seconds(report: RunReport) -> float:
    """How long nothing must happen before the run counts as lost."""
    settings = get_settings()
    if report.meaning.watch == "stall limit":
        return (report.stall_limit_seconds or 0.0) + settings.recover_margin_seconds
    return settings.recover_wait_seconds


def _watch(report: RunReport, seconds: float) -> RunReport:
    """Look again and again until something happens, or until nothing has happened for so long.

    A server that does not answer proves nothing about the run: the time starts anew.
    """
    logger = get_run_logger()
    logger.info("%s: watching for %g s", report.verdict, seconds)
    quiet_since, seen = time.monotonic(), report
    while time.monotonic() - quiet_since < seconds:
        time.sleep(min(_POLL_SECONDS, seconds))
        try:
            seen = read_report(report.run_id)
        except (httpx.HTTPError, PrefectException, OSError) as error:
            logger.warning("the API does not answer, watching starts anew: %s", error)
            quiet_since = time.monotonic()
            continue
        if seen.state_id != report.state_id:
            return seen
        if seen.beat_at != report.beat_at and report.meaning.beat_refutes:
            return seen.model_copy(update={"verdict": "alive"})
    return seen.model_copy(update={"verdict": report.verdict})


@step(name="make-appointment", retries=3, retry_delay_seconds=[1, 5, 15])
def make_appointment(report: RunReport) -> None:
    """Let `recover` look at the run again.

    At a run that is alive: at its new ETA. At a lost one: when it should have been brought back, in
    case the `recover` that does so is lost as well.
    """
    settings = get_settings()
    bringing_back = 2 * settings.recover_wait_seconds
    left = bringing_back if report.lost else seconds_left(report, datetime.now(UTC))
    seconds = left + settings.recover_margin_seconds
    with get_client(sync_client=True) as client:
        if appoint(client, client.read_flow_run(report.run_id), seconds) is not None:
            get_run_logger().info("recover looks again in %.0f s at the latest", seconds)


def seconds_left(report: RunReport, now: datetime) -> float:
    """How long a job that is at work will still take, judged by its progress so far."""
    if report.job is None or report.began_at is None:
        return 0.0
    share = (report.percent or 0.0) / 100
    if share <= 0:
        return report.job.eta_seconds
    elapsed = (now - report.began_at).total_seconds()
    left = elapsed * (1 - share) / share
    limit = report.job.job_limit_seconds
    return left if limit is None else min(left, limit)
