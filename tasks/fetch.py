"""Fetch: bring the source to this machine, whole and hashed."""

import os
from datetime import UTC, datetime, timedelta

from prefect import get_run_logger
from prefect.context import TaskRunContext

from seedvr2_core.errors import DeadlineError, SourceTooSlowError, SourceUnavailableError
from tasks.run import current
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings, get_settings
from tasks.sources import obtain_source
from tasks.step import step

STALL_SECONDS = 2 * 3600.0
"""Longest silence. Servers have limits of their own, far shorter; only a disk can be silent, which
syncs a source that has come, or hangs."""
TOO_LATE = (SourceTooSlowError, SourceUnavailableError, DeadlineError)
"""Errors of a source that nobody refuses, but that has not come for all the time it was given."""


@step(name="fetch", retries=5, retry_delay_seconds=[2, 8, 30, 60, 120], retry_jitter_factor=0.5)
def fetch(request: UpscaleRequest, *, patience: float | None = None) -> FetchedSource | None:
    """Download an address, decode base64, or take an upload or a local file where it lies.

    Args:
        request: names the source.
        patience: seconds after which to give up quietly; None: as long as the limit allows. What
            has come is kept, so that another process can go on.

    Returns:
        The source; None if it could not be had within the patience.

    Side effects: files in WORK_DIR/intake (parts, locks) and WORK_DIR/sources/<sha256>.
    Limits: SEEDVR2_FETCH_SECONDS for all attempts together; a retry goes on where the last one
        stopped.
    Raises: InvalidRequestError, InvalidVideoError, SourceRefusedError, SourceTooSlowError,
        ResourceError (final), SourceUnavailableError, DeadlineError (another process is at work on
        the same address; retried).
    """
    log, record = get_run_logger(), current()
    settings = get_settings()
    seconds = _seconds_left(settings) if patience is None else patience

    def told(done: int, total: int) -> None:
        record.beat("fetch", done, total, stall_seconds=STALL_SECONDS)

    limited = settings.model_copy(update={"fetch_seconds": max(seconds, 0.001)})
    try:
        source = obtain_source(request, limited, note=log.info, on_bytes=told)
    except (SourceUnavailableError, DeadlineError) as error:
        if patience is not None:
            log.info("the source is not here after %g s: %s", patience, error)
            return None
        if _seconds_left(settings) > 0:
            raise
        raise SourceTooSlowError(
            f"the source was not whole within {settings.fetch_seconds:g} s over all attempts "
            f"(SEEDVR2_FETCH_SECONDS); what came is kept, run it again to go on: {error}"
        ) from error
    if source.path.parent in (settings.sources_dir, settings.intake_dir):
        os.utime(source.path)  # a sweep removes what has not been used for long
    log.info("source %s: %d bytes, sha256 %s", source.name, source.num_bytes, source.sha256)
    return source


def _seconds_left(settings: Settings) -> float:
    """How long the task may still take, counted from its first attempt."""
    context = TaskRunContext.get()
    began = context.task_run.start_time if context else None
    spent = datetime.now(UTC) - began if began else timedelta(0)
    return settings.fetch_seconds - spent.total_seconds()
