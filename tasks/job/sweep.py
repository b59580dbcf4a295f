"""What is removed, and when: a finished job's pieces at once, what nobody came back for by age.

Nothing that a run holds is touched. Of a finished job `result.json` stays for good: it holds the
output's digest, by which the same request finds its output in storage. Knows no Prefect.
"""

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from seedvr2_core.errors import DeadlineError, SegmentError
from seedvr2_core.files import hold_lock, read_record
from seedvr2_core.job.sidecar import segments_dir
from seedvr2_core.planning import Plan
from tasks.settings import Settings

RESULT, LOCK = "result.json", "job.lock"
_DAY_SECONDS = 86_400.0


def remove_pieces(job_dir: Path) -> None:
    """Remove what made a finished job's output: segments, latents and the joined file.

    The caller holds the job's lock and has its output in storage, verified.
    """
    shutil.rmtree(segments_dir(job_dir), ignore_errors=True)
    (job_dir / "output.mp4").unlink(missing_ok=True)


def sweep(settings: Settings) -> list[str]:
    """Remove what is older than the settings keep it; returns what was removed, in words.

    Jobs that a run holds, sources of such jobs and downloads under way stay, however old.
    """
    limit = time.time() - settings.keep_days * _DAY_SECONDS
    removed = [
        f"job {path.name}" for path in _old_jobs(settings, limit) if _remove_job(path, limit)
    ]
    removed += [f"source {path.name}" for path in _old_sources(settings, limit)]
    removed += [f"download {stem}" for stem in _old_downloads(settings, limit)]
    for path in _files(settings.probes_dir):
        if _mtime(path) < limit:
            path.unlink(missing_ok=True)
    return removed


def _old_sources(settings: Settings, limit: float) -> Iterator[Path]:
    """Sources and uploads that nobody asked for since; removed as they are yielded."""
    used = _sources_in_use(settings)
    for path in _files(settings.sources_dir, settings.intake_dir):
        is_source = re.fullmatch("[0-9a-f]{64}", path.name) and path.name not in used
        if is_source and _mtime(path) < limit:  # fetch touches what it hands out
            path.unlink(missing_ok=True)
            yield path


def _old_downloads(settings: Settings, limit: float) -> Iterator[str]:
    """Downloads that were never finished, and what is known of those that were."""
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


def _old_jobs(settings: Settings, limit: float) -> list[Path]:
    folders = (path for path in settings.jobs_dir.glob("*") if path.is_dir())
    return [path for path in folders if _worth_removing(path) and _last_touched(path) < limit]


def _worth_removing(job_dir: Path) -> bool:
    """Whether there is more than what stays of a finished job."""
    names = {path.name for path in job_dir.iterdir()}
    return RESULT not in names or bool(names - {RESULT, LOCK})


def _last_touched(job_dir: Path) -> float:
    """When anything in the job's directory was written last."""
    return max(_mtime(path) for path in (job_dir, *job_dir.rglob("*")))


def _remove_job(job_dir: Path, limit: float) -> bool:
    """Remove an old job, but for its result; False if a run holds it after all."""
    try:
        with hold_lock(job_dir / LOCK, timeout=0, on_wait=lambda: None):
            if _last_touched_but_lock(job_dir) >= limit:
                return False
            for path in job_dir.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name not in (RESULT, LOCK):
                    path.unlink()
            if not (job_dir / RESULT).exists():
                shutil.rmtree(job_dir)  # the lock's file last: others may wait for it
            return True
    except DeadlineError:
        return False


def _last_touched_but_lock(job_dir: Path) -> float:
    """As `_last_touched`; taking the lock may have made its file and so touched the directory."""
    files = (path for path in job_dir.rglob("*") if path.name != LOCK)
    return max((_mtime(path) for path in files), default=0.0)


def _sources_in_use(settings: Settings) -> set[str]:
    """Digests of the sources of jobs that are not finished: they may be resumed."""
    used: set[str] = set()
    for path in settings.jobs_dir.glob("*/plan.json"):
        if not (path.parent / RESULT).exists():
            try:
                used.add(read_record(path, Plan).source_sha256)
            except (SegmentError, FileNotFoundError):
                continue  # no plan that could be resumed
    return used


def _files(*folders: Path) -> Iterator[Path]:
    return (path for folder in folders for path in folder.glob("*") if path.is_file())


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # removed meanwhile
