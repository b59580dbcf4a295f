"""Watch a run until we know whether it is lost, and arrange when `recover` looks at it again."""

import time
from datetime import UTC, datetime, timedelta
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
from tasks.run.clock import server_now
from tasks.run.record import ALIVE_SECONDS
from tasks.settings import get_settings
from tasks.step import step

_POLL_SECONDS = 2.0
_WRITE_SECONDS = 6.0
"""How often the watcher itself writes to the server, to see whether others can."""
_SLOW_SECONDS = 5.0
"""A server that takes so long for a write and a read may not have taken a sign of life."""
_SIGNS = 3.0
"""How many signs of life a process must miss to count as gone."""
_WATCHED_SHARE = 2 / 3
"""How much of that time we must watch it ourselves, and see that the server answers."""
_LATEST_LOOK_SECONDS = 6 * 3600.0
"""Longest time between two looks at a run that is at work."""
_BRING_BACK_SECONDS = 600.0
"""Longest time that a `recover` needs for a run once it has watched it."""
LABEL_UNTIL = "recover_until"
"""Until when a run of `recover` may be at work on a run (ISO time); after that it is lost."""


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
    """The runs of `recover` that are running, without those whose time is over."""
    running = client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": ["recover"]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}}),
    )
    now = server_now(client)
    return [run for run in running if not is_over(run, now)]


def is_over(run: FlowRun, now: datetime) -> bool:
    """Whether the time in which a run of `recover` may be at work is over: its process is gone."""
    until = run.labels.get(LABEL_UNTIL)
    if until is not None:
        return now > datetime.fromisoformat(str(until))
    began = run.start_time or (run.state.timestamp if run.state else now)
    return now > began + timedelta(seconds=_BRING_BACK_SECONDS)


def _say_until(seconds: float) -> None:
    """Label our own run with the time until which it may be at work."""
    with get_client(sync_client=True) as client:
        until = server_now(client) + timedelta(seconds=seconds + _BRING_BACK_SECONDS)
        client.update_flow_run_labels(UUID(flow_run.id), {LABEL_UNTIL: until.isoformat()})


@step(name="make-sure")
def make_sure(report: RunReport) -> RunReport:
    """Watch a run that seems lost, until its verdict is certain.

    Returns:
        The report, or a new one if the run changed its state; alive if its beat changed.
    """
    behind_us = _seconds_on_our_way(report)
    while report.lost:
        seconds = _watch_seconds(report)
        seen = _watch(report, max(seconds - behind_us, _WATCHED_SHARE * seconds))
        if seen.state_id == report.state_id:
            return seen
        report, behind_us = seen, 0.0
    return report


def _seconds_on_our_way(report: RunReport) -> float:
    """How long the run has already shown no sign while our own run was on its way to here.

    The server has written down our run, that a worker took it and that it runs, so it has taken
    what others wrote as well. Both ends of this time, and the sign of life, are by its own clock.
    """
    if report.verdict != "gone":
        return 0.0
    with get_client(sync_client=True) as client:
        own = client.read_flow_run(UUID(flow_run.id))
    times = (own.created, own.expected_start_time, report.renewed_at)
    if own.start_time is None or own.created is None:
        return 0.0
    since = max(time for time in times if time is not None)
    return max(0.0, (own.start_time - since).total_seconds())


def _watch_seconds(report: RunReport) -> float:
    """How long nothing must happen before the run counts as lost."""
    settings = get_settings()
    if report.meaning.watch == "stall limit":
        return (report.stall_limit_seconds or 0.0) + settings.recover_margin_seconds
    alive_seconds = ALIVE_SECONDS if report.began_at is None else report.alive_seconds
    if report.meaning.watch == "sign" and alive_seconds is not None:
        return min(_SIGNS * alive_seconds, settings.recover_wait_seconds)
    return settings.recover_wait_seconds


def _watch(report: RunReport, seconds: float) -> RunReport:
    """Look again and again until something happens, or until nothing has happened for so long.

    A server that does not answer, or that takes long to read or to write, proves nothing about the
    run, whose process writes to it too: the time starts anew.
    """
    logger = get_run_logger()
    logger.info("%s: watching for %g s", report.verdict, seconds)
    quiet_since, wrote, seen = time.monotonic(), -_WRITE_SECONDS, report
    while time.monotonic() - quiet_since < seconds:
        time.sleep(min(_POLL_SECONDS, seconds))
        asked = time.monotonic()
        try:
            if asked - wrote > _WRITE_SECONDS:
                _say_until(seconds)
                wrote = time.monotonic()
            seen = read_report(report.run_id)
        except (httpx.HTTPError, PrefectException, OSError) as error:
            logger.warning("the API does not answer, watching starts anew: %s", error)
            quiet_since = time.monotonic()
            continue
        if time.monotonic() - asked > _SLOW_SECONDS:
            logger.warning("the API is slow, watching starts anew")
            quiet_since = time.monotonic()
        if seen.state_id != report.state_id:
            return seen
        if _refuted(report, seen):
            return seen.model_copy(update={"verdict": "alive"})
    return seen.model_copy(update={"verdict": report.verdict})


def _refuted(report: RunReport, seen: RunReport) -> bool:
    """Whether a sign of life has come since the report that proves its verdict wrong."""
    beat = report.meaning.beat_refutes and seen.beat_at != report.beat_at
    return beat or (report.meaning.sign_refutes and seen.renewed_at != report.renewed_at)


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
        return min(report.job.eta_seconds, _LATEST_LOOK_SECONDS)
    elapsed = (now - report.began_at).total_seconds()
    return min(elapsed * (1 - share) / share, _LATEST_LOOK_SECONDS)
