"""Fetch: bring the source to this machine, whole and hashed."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import get_run_logger
from prefect.context import TaskRunContext

from seedvr2_core.errors import (
    DeadlineError,
    SeedVR2Error,
    SourceTooSlowError,
    SourceUnavailableError,
)
from tasks.run import current
from tasks.run.handover import note_source, noted_source
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings, get_settings
from tasks.sources import obtain_source
from tasks.sources.kept import keep_source, recall_source
from tasks.sources.kinds import SourceKind, kind_of
from tasks.sources.sequence import as_sequence, local_pictures
from tasks.sources.uploads import digest_in
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

    Side effects: files in WORK_DIR/intake (parts, locks) and WORK_DIR/sources/<sha256>; the same
        object in SEEDVR2_STORE, if there is one.
    Limits: SEEDVR2_FETCH_SECONDS for all attempts together; a retry goes on where the last one
        stopped.
    Raises: InvalidRequestError, InvalidVideoError, SourceRefusedError, SourceTooSlowError,
        ResourceError (final), SourceUnavailableError, DeadlineError (another process is at work on
        the same address; retried), StorageError (the store does not answer; retried).
    """
    log = get_run_logger()
    settings = get_settings()
    if kept := _recall(request, settings):
        log.info("source %s came from the store: sha256 %s", kept.name, kept.sha256)
        source = as_sequence(kept, request, settings, note=log.info, on_bytes=_beat)
        if source is not kept and keep_source(source, settings, on_bytes=_beat):
            note_source(source)
        return source
    seconds = _seconds_left(settings) if patience is None else patience

    limited = settings.model_copy(update={"fetch_seconds": max(seconds, 0.001)})
    try:
        source = obtain_source(request, limited, note=log.info, on_bytes=_beat)
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
    if keep_source(source, settings, on_bytes=_beat):
        note_source(source)
    return source


def fetch_again(request: UpscaleRequest, sha256: str, name: str) -> FetchedSource:
    """The source of a job that has fetched it, without asking its server again.

    Args:
        request: names the source.
        sha256: digest of what was fetched.
        name: its name for people.

    Raises: as `fetch`; SourceUnavailableError: what was fetched cannot be seen from here.
    """
    settings = get_settings()
    if found := recall_source(sha256, name, settings, on_bytes=_beat):
        return found
    if (request.video_url or "").startswith(("http://", "https://")):
        raise SourceUnavailableError(
            f"{name} ({sha256}) is neither in {settings.sources_dir} nor in a store; this worker "
            "needs the work directory or the store of the job's worker"
        )
    source = fetch(request)
    assert source is not None, "without a patience, fetch returns a source or raises"
    return source


def _recall(request: UpscaleRequest, settings: Settings) -> FetchedSource | None:
    """The source as another machine has kept it in the store, unless it lies here."""
    if settings.store is None or _lies_here(request):
        return None
    sha256, name = noted_source()
    if not sha256 and (sha256 := digest_in(request.video_url or "")):
        name = (request.video_url or "").partition("/")[2] or f"upload-{sha256[:8]}"
    if not sha256 or (settings.intake_dir / sha256).is_file():
        return None
    return recall_source(sha256, name, settings, on_bytes=_beat)


def _lies_here(request: UpscaleRequest) -> bool:
    """Whether the request names a file or a sequence that this machine has."""
    match kind_of(request):
        case SourceKind.FILE:
            return Path(request.video_path or "").is_file()
        case SourceKind.PICTURES:
            try:
                return bool(local_pictures(request, get_settings()))
            except SeedVR2Error:
                return False
        case _:
            return False


def _beat(num_bytes: int, total: int) -> None:
    """Tell the job's record that bytes of the source are read or written."""
    current().beat("fetch", num_bytes, total, stall_seconds=STALL_SECONDS)


def _seconds_left(settings: Settings) -> float:
    """How long the task may still take, counted from its first attempt."""
    context = TaskRunContext.get()
    began = context.task_run.start_time if context else None
    spent = datetime.now(UTC) - began if began else timedelta(0)
    return settings.fetch_seconds - spent.total_seconds()
