"""Removes a finished job's pieces at once, and everything that was not used for some days.

What a run holds is not touched. The result.json of a finished job stays for good: it has the
output's digest, by which the same request finds its output in storage. This module knows nothing of
Prefect.
"""

import contextlib
import logging
import math
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic_core import from_json

from seedvr2_core.errors import DeadlineError, StorageError
from seedvr2_core.files import hold_lock
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import Masters
from tasks.job.masters import drop_copy, idle_copies, last_used, sweep_masters
from tasks.settings import Settings

logger = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0


_HEAD_BYTES = 2**16
"""What is read of a plan: its first fields name the source. The whole of it may have 160 MB."""


def remove_pieces(job_dir: JobDir) -> None:
    """Remove what a finished job's output was made of: segments, latents and the joined file.

    The caller holds the job's lock, and the output is in storage and verified.
    """
    shutil.rmtree(job_dir.segments_path, ignore_errors=True)
    job_dir.output_path.unlink(missing_ok=True)


def sweep(settings: Settings) -> list[str]:
    """Remove what has not been used for SEEDVR2_KEEP_DAYS.

    Jobs that a run holds, sources of unfinished jobs and downloads under way stay, however old.

    Returns:
        What was removed, in words.
    """
    limit = time.time() - settings.keep_days * _DAY_SECONDS
    removed = [
        f"job {job.path.name}" for job in _old_jobs(settings, limit) if _remove_job(job, limit)
    ]
    removed += [f"source {path.name}" for path in _old_sources(settings, limit)]
    removed += [f"download {stem}" for stem in _old_downloads(settings, limit)]
    removed += sweep_masters(settings, limit)
    removed += [f"helper {path.name}" for path in _old_helpers(settings, limit)]
    small = (settings.probes_dir, settings.delivered_dir, settings.again_dir)
    for path in _files(*small):
        if _mtime(path) < limit:
            path.unlink(missing_ok=True)
    return removed


def bound_copies(settings: Settings, *, job_key: str, source_sha256: str) -> list[str]:
    """Remove the oldest jobs, downloads and masters here until no more than
    SEEDVR2_STORE_CACHE_BYTES stay.

    Only where there is a store: it has them too, but for the last segments of a machine that was
    lost. What a run holds stays, its source included, and so do masters that the store lacks.
    Videos that were sent to the gateway are not copies: they stay in its intake until nobody has
    used them for SEEDVR2_KEEP_DAYS.

    Args:
        settings: of this machine.
        job_key: the job at work, which is left as it is.
        source_sha256: its source, likewise.

    Returns:
        What was removed, in words.
    """
    if settings.store is None:
        return []
    jobs = {job.path: _num_bytes(job.path) for job in _jobs(settings) if job.path.name != job_key}
    sources = {
        path: path.stat().st_size
        for path in _files(settings.sources_dir)
        if path.name != source_sha256
    }
    masters = idle_copies(settings, job_key)
    sizes = {**jobs, **sources, **masters}
    too_many = sum(sizes.values()) - settings.store_cache_bytes
    used = {path: last_used(Masters(path)) for path in masters}
    removed: list[str] = []
    if too_many <= 0:
        return removed
    at_work = {digest for path in jobs for digest in _source_at_work(JobDir(path))}
    for path in sorted(sizes, key=lambda path: used.get(path) or _last_used(path)):
        if too_many <= 0:
            break
        if path in sources:
            if path.name in at_work:
                continue
            path.unlink(missing_ok=True)
        elif path in masters:
            if not _drop_masters(settings, path):
                continue
        elif not _worth_removing(JobDir(path)) or not _remove_job(JobDir(path), math.inf):
            continue
        kind = "source" if path in sources else "master" if path in masters else "job"
        removed.append(f"{kind} {path.name}")
        too_many -= sizes[path]
    return removed


def _source_at_work(job_dir: JobDir) -> set[str]:
    """Digest of the source of a job that a run holds now; empty if nobody holds it."""
    if not job_dir.lock_path.exists():
        return set()  # to take the lock would make the file, and the job look young
    try:
        with hold_lock(job_dir.lock_path, timeout=0, on_wait=lambda: None):
            return set()
    except DeadlineError:
        return _source_of(job_dir)


def _drop_masters(settings: Settings, path: Path) -> bool:
    """Remove masters that the store has; False while it does not answer."""
    try:
        return drop_copy(settings, path)
    except StorageError as error:
        logger.warning("masters stay here: %s", error)
        return False


def _last_used(path: Path) -> float:
    """When a job or a source was last used (seconds since the epoch)."""
    return _last_touched(JobDir(path)) if path.is_dir() else _mtime(path)


def _num_bytes(folder: Path) -> int:
    """Bytes of the files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            total += path.stat().st_size
    return total


def _old_sources(settings: Settings, limit: float) -> Iterator[Path]:
    """Remove sources and uploads that nobody has asked for since `limit`; yields each one."""
    used = _sources_in_use(settings)
    for path in _files(settings.sources_dir, settings.intake_dir):
        is_source = re.fullmatch("[0-9a-f]{64}", path.name) and path.name not in used
        if is_source and _mtime(path) < limit:  # fetch sets the time of what it hands out
            path.unlink(missing_ok=True)
            yield path


def _old_downloads(settings: Settings, limit: float) -> Iterator[str]:
    """Remove unfinished downloads and notes on finished ones, from before `limit`; yields each."""
    intake = settings.intake_dir
    for part in [*intake.glob("*.part"), *intake.glob("*.json")]:
        if part.name.startswith(".") or _mtime(part) >= limit:
            continue
        lock = part.with_suffix(".lock")
        with (
            contextlib.suppress(DeadlineError),  # it is under way
            hold_lock(lock, timeout=0, on_wait=lambda: None),
        ):
            part.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            yield part.name


def _jobs(settings: Settings) -> Iterator[JobDir]:
    """Every job of the work directory."""
    return (JobDir(path) for path in settings.jobs_dir.glob("*") if path.is_dir())


def _old_jobs(settings: Settings, limit: float) -> list[JobDir]:
    """Jobs that were not touched since `limit` and have something to remove."""
    return [job for job in _jobs(settings) if _worth_removing(job) and _last_touched(job) < limit]


def _worth_removing(job_dir: JobDir) -> bool:
    """Whether the directory holds more than what stays of a finished job."""
    if not job_dir.result_path.exists():
        return True
    return bool(set(job_dir.path.iterdir()) - {job_dir.result_path, job_dir.lock_path})


def _last_touched(job_dir: JobDir) -> float:
    """When anything in the job's directory was last written (seconds since the epoch)."""
    return max(_mtime(path) for path in (job_dir.path, *job_dir.path.rglob("*")))


def _remove_job(job_dir: JobDir, limit: float) -> bool:
    """Remove an old job except for its result; False if a run holds it or has just used it."""
    try:
        with hold_lock(job_dir.lock_path, timeout=0, on_wait=lambda: None):
            if _last_touched_but_lock(job_dir) >= limit:
                return False
            for path in job_dir.path.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path not in (job_dir.result_path, job_dir.lock_path):
                    path.unlink()
            if not job_dir.result_path.exists():
                shutil.rmtree(job_dir.path)  # with the lock's file, last: others may wait for it
            return True
    except DeadlineError:
        return False


def _last_touched_but_lock(job_dir: JobDir) -> float:
    """As `_last_touched`, without what taking the lock may change: its file and the directory."""
    files = (path for path in job_dir.path.rglob("*") if path != job_dir.lock_path)
    return max((_mtime(path) for path in files), default=0.0)


def _sources_in_use(settings: Settings) -> set[str]:
    """Digests of the sources of jobs that are not finished: they may be resumed."""
    used: set[str] = set()
    for job_dir in _jobs(settings):
        if not job_dir.result_path.exists():
            used |= _source_of(job_dir)
    return used


def _source_of(job_dir: JobDir) -> set[str]:
    """Digest of a job's source; empty where no plan can be read: the job cannot be resumed."""
    for path in (job_dir.outline_path, job_dir.plan_path):
        with contextlib.suppress(OSError, ValueError):
            if path.is_file() and (sha256 := _source_in(path)):
                return {sha256}
    return set()


def _source_in(path: Path) -> str | None:
    """The digest of the source in a plan or its outline; None if its beginning names none.

    Raises:
        ValueError: it begins like no record.
    """
    with path.open("rb") as file:
        told = from_json(file.read(_HEAD_BYTES), allow_partial=True)
    sha256 = told.get("source_sha256") if isinstance(told, dict) else None
    return sha256 if isinstance(sha256, str) else None


def _old_helpers(settings: Settings, limit: float) -> Iterator[Path]:
    """Remove what killed helpers of other machines' jobs have left; yields each folder."""
    for folder in list(settings.helpers_dir.glob("*")):
        if _last_touched(JobDir(folder)) < limit:
            shutil.rmtree(folder, ignore_errors=True)
            yield folder


def _files(*folders: Path) -> Iterator[Path]:
    """The files in these folders."""
    return (path for folder in folders for path in folder.glob("*") if path.is_file())


def _mtime(path: Path) -> float:
    """When the file was last written; 0 if it was removed meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
