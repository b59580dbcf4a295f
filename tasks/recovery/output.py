"""Whether a lost run's output is in storage all the same.

An output's name holds the first 12 digits of its job key, the digest of the source and of every
option that changes a byte, and a storage takes a file whole or not at all. So a file of the planned
name is an output of that request. Where the job's directory can be read, its bytes must be the ones
that were made there as well; a run that was asked to start afresh takes nothing less.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from prefect import get_run_logger
from pydantic import ValidationError

from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import write_bytes
from tasks.recovery.report import RunReport
from tasks.schemas import Prospect, UpscaleResult
from tasks.settings import get_settings
from tasks.step import step
from tasks.storage import Storage, Stored, open_storage
from tasks.storage.base import candidates

NOTE = "completed by recover: the file was in storage when its run was lost"


@step(name="find-output", retries=3, retry_delay_seconds=[2, 10, 30])
def find_output(report: RunReport, *, looks: int) -> UpscaleResult | None:
    """Look for a run's output in storage, so many times.

    Returns:
        The result as the run itself would have published it; None if its output is not there.

    Raises: StorageError (retried): the storage does not say.
    """
    settings = get_settings()
    for number in range(looks):
        if number:
            time.sleep(settings.recover_look_seconds)
        found = look_once(report)
        if found is not None:
            get_run_logger().info("found %s in storage", found.filename)
            return found
    get_run_logger().info("not in storage, looked %d times", looks)
    return None


def look_once(report: RunReport) -> UpscaleResult | None:
    """The output, by what is known of it."""
    if report.job is None:
        return None
    job_dir, storage = _job_dir(report.job), open_storage(get_settings())
    saved = _saved_result(job_dir / "result.json", report)
    if saved is not None:
        # The same source may have had another name then, and with it its output.
        stored = storage.stat(saved.filename)
        if stored is not None and stored.sha256 in (saved.sha256, ""):
            return _placed(saved, stored, report)
    made = _digest_of(job_dir / "output.mp4", report)
    known = {saved.sha256 if saved else "", made} - {""}
    if report.fresh and not known:
        return None
    for stored in _taken(storage, report.job.output_name):
        # A storage may not have computed a digest yet; its name and its being whole have to do.
        if not known or stored.sha256 in known | {""}:
            return _placed(_result(report, report.job, stored, made), stored, report)
    return None


def save_result(result: UpscaleResult) -> None:
    """Write result.json, where the job's directory can be reached from here."""
    job_dir = get_settings().job_dir(result.job_key)
    if job_dir.is_dir():
        write_bytes(job_dir / "result.json", result.model_dump_json(indent=2).encode())


def _job_dir(job: Prospect) -> Path:
    return get_settings().job_dir(job.job_key)


def _saved_result(path: Path, report: RunReport) -> UpscaleResult | None:
    """What the run, or an earlier one of the same request, wrote when it was done."""
    try:
        saved = UpscaleResult.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return saved if saved.job_id == str(report.run_id) or not report.fresh else None


def _digest_of(made: Path, report: RunReport) -> str:
    """Digest of the joined file; "" if there is none, or one from before a fresh start."""
    if not made.is_file():
        return ""
    began = report.began_at
    old = began is None or made.stat().st_mtime < began.timestamp()
    return "" if report.fresh and old else file_sha256(made)


def _taken(storage: Storage, name: str) -> Iterator[Stored]:
    """What is stored under the name, and under the name with -1, -2, ... as long as it is taken."""
    for candidate in candidates(name):
        stored = storage.stat(candidate)
        if stored is None:
            return
        if stored.num_bytes:
            yield stored


def _result(report: RunReport, job: Prospect, stored: Stored, made: str) -> UpscaleResult:
    """The result of a run that did not live to write it."""
    preview = _job_dir(job) / "preview.jpg"
    return UpscaleResult(
        job_id=str(report.run_id),
        job_key=job.job_key,
        filename=stored.name,
        cdn_url=None,
        output_path=None,
        preview_path=str(preview) if preview.is_file() else None,
        input_size_mb=job.input_size_mb,
        output_size_mb=round(stored.num_bytes / 1e6, 3),
        sha256=stored.sha256 or made,
        engine=job.engine,
        width=job.width,
        height=job.height,
        frames=job.frames,
        seconds=round(report.run_seconds, 2),
        segments_reused=0,
        notes=(*job.notes, NOTE),
    )


def _placed(result: UpscaleResult, stored: Stored, report: RunReport) -> UpscaleResult:
    """The result as this run's, with today's address of the file: signed ones expire."""
    path = str(stored.path) if stored.path else None
    return result.model_copy(
        update={"job_id": str(report.run_id), "cdn_url": stored.url, "output_path": path}
    )
