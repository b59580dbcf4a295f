"""Fetch: bring the source to this machine, whole and hashed."""

import os

from prefect import get_run_logger

from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import get_settings
from tasks.sources import obtain_source
from tasks.step import step


@step(name="fetch", retries=5, retry_delay_seconds=[2, 8, 30, 60, 120], retry_jitter_factor=0.5)
def fetch(request: UpscaleRequest) -> FetchedSource:
    """Download an address, decode base64, or take an upload or a local file where it lies.

    Side effects: files in WORK_DIR/intake (parts, locks) and WORK_DIR/sources/<sha256>.
    Limits: SEEDVR2_FETCH_SECONDS for each attempt; a retry goes on where the last one stopped.
    Raises: InvalidRequestError, InvalidVideoError, SourceRefusedError, ResourceError (final),
        SourceUnavailableError (retried).
    """
    log = get_run_logger()
    settings = get_settings()
    source = obtain_source(request, settings, note=log.info)
    if source.path.parent in (settings.sources_dir, settings.intake_dir):
        os.utime(source.path)  # a sweep removes what has not been used for long
    log.info("source %s: %d bytes, sha256 %s", source.name, source.num_bytes, source.sha256)
    return source
