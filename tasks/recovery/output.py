"""Find out whether a lost run's output is in storage all the same.

The name of an output contains the first 12 digits of its job key, and the job key is a digest of
the source and of every option that changes a byte. A storage takes a file whole or not at all. So a
file with the planned name is an output of this request. Where the job's directory can be read, the
stored bytes must also be the ones that were made there. For a request with `fresh` only this second
proof counts: an earlier run may have stored a file of the same name.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from prefect import get_run_logger
from pydantic import ValidationError

from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.job import JobDir
from tasks.recovery.report import RunReport
from tasks.schemas import PreviewPart, Prospect, UpscaleResult, own_folder
from tasks.settings import get_settings
from tasks.step import step
from tasks.storage import Storage, Stored, open_storage
from tasks.storage.base import candidates
from tasks.storage.by_put import Deliveries

NOTE = "completed by recover: the file was in storage when its run was lost"


@step(name="find-output", retries=3, retry_delay_seconds=[2, 10, 30])
def find_output(report: RunReport, *, looks: int) -> UpscaleResult | None:
    """Look for a run's output in storage.

    Args:
        report: the run.
        looks: how often to look before giving up.

    Returns:
        The result as the run itself would have published it; None if its output is not there.

    Raises: StorageError (retried): the storage gives no answer.
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
    """Look once; returns what `find_output` returns."""
    if report.job is None:
        return None
    job_dir = _own_dir(report.job.job_key, report.job.preview)
    storage = _storage_of(report)
    saved = _saved_result(job_dir.result_path, report)
    if saved is not None:
        # An earlier run may have read the same source under another name; its output has that name.
        stored = storage.stat(saved.filename)
        if stored is not None and stored.sha256 in (saved.sha256, ""):
            return _placed(saved, stored, report)
    made = _digest_of(job_dir.output_path, report)
    known = {saved.sha256 if saved else "", made} - {""}
    if report.fresh and not known:
        return None
    for stored in _taken(storage, report.job.output_name):
        # A storage may not have computed the digest yet. Then the name has to be proof enough.
        if not known or stored.sha256 in known | {""}:
            return _placed(_result(report, report.job, stored, made), stored, report)
    return None


def _storage_of(report: RunReport) -> Storage | Deliveries:
    """Where the run's output would be: what a caller's address has taken is noted here."""
    previews = report.job is not None and report.job.preview is not None
    if report.delivers_to and not previews:
        return Deliveries(report.delivers_to, get_settings())
    return open_storage(get_settings())


def save_result(result: UpscaleResult) -> None:
    """Write result.json into the job's directory, if this machine has it."""
    job_dir = _own_dir(result.job_key, result.preview)
    if job_dir.path.is_dir():
        write_bytes(job_dir.result_path, result.model_dump_json(indent=2).encode())


def _own_dir(job_key: str, preview: PreviewPart | None) -> JobDir:
    """Where the result of a job lies, or that of a preview of it."""
    return JobDir(own_folder(get_settings().job_dir(job_key), preview))


def _saved_result(path: Path, report: RunReport) -> UpscaleResult | None:
    """The result.json that the run, or an earlier run of the same request, wrote at its end."""
    try:
        saved = UpscaleResult.model_validate_json(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValidationError):
        return None
    return saved if saved.job_id == str(report.run_id) or not report.fresh else None


def _digest_of(made: Path, report: RunReport) -> str:
    """SHA-256 of the joined file in the job's directory; "" if it does not count.

    It does not count if it is missing, or if the run is `fresh` and the file is older than the run.
    """
    if not made.is_file():
        return ""
    began = report.began_at
    old = began is None or made.stat().st_mtime < began.timestamp()
    return "" if report.fresh and old else file_sha256(made)


def _taken(storage: Storage | Deliveries, name: str) -> Iterator[Stored]:
    """The files stored under the name and, while these exist, under the name with -1, -2, ..."""
    for candidate in candidates(name):
        stored = storage.stat(candidate)
        if stored is None:
            return
        if stored.num_bytes:
            yield stored


def _result(report: RunReport, job: Prospect, stored: Stored, made: str) -> UpscaleResult:
    """The result of a run that was lost before it could write one."""
    job_dir = _own_dir(job.job_key, job.preview)
    preview, report_page = job_dir.preview_path, job_dir.report_path
    shown = job.preview
    return UpscaleResult(
        job_id=str(report.run_id),
        job_key=job.job_key,
        filename=stored.name,
        cdn_url=None,
        output_path=None,
        preview_path=str(preview) if preview.is_file() else None,
        report_path=str(report_page) if report_page.is_file() else None,
        source_name=job.source_name,
        input_size_mb=job.input_size_mb,
        output_size_mb=round(stored.num_bytes / 1e6, 3),
        sha256=stored.sha256 or made,
        engine=job.engine,
        width=job.width,
        height=job.height,
        frames=shown.stop - shown.first if shown else job.frames,
        seconds=round(report.run_seconds, 2),
        segments_reused=0,
        notes=(*job.notes, NOTE),
        preview=shown and _with_before(shown, job_dir),
    )


def _with_before(shown: PreviewPart, job_dir: JobDir) -> PreviewPart:
    """What a preview shows, with the clip of the source where the lost run has left it."""
    path = job_dir.before_path
    return shown.model_copy(update={"before_path": str(path) if path.is_file() else None})


def _placed(result: UpscaleResult, stored: Stored, report: RunReport) -> UpscaleResult:
    """The result with this run's id and with a new address of the file: signed ones expire."""
    path = str(stored.path) if stored.path else None
    return result.model_copy(
        update={"job_id": str(report.run_id), "cdn_url": stored.url, "output_path": path}
    )
