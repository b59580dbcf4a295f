"""Tasks on a job's directory: look for an output that is finished, make room, record the result."""

from pathlib import Path

from prefect import get_run_logger
from prefect.runtime import flow_run
from pydantic import ValidationError

from seedvr2_core.errors import ResourceError, StorageError
from seedvr2_core.files import read_record
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.files.space import check_room
from seedvr2_core.job import JobDir, deviations
from seedvr2_core.job.sidecar import finished_sizes
from seedvr2_core.job.space import bytes_needed
from seedvr2_core.planning import Plan
from tasks.job.sweep import remove_pieces, sweep
from tasks.run import publish_result
from tasks.schemas import JoinedVideo, PlannedJob, StoredVideo, UpscaleResult
from tasks.settings import get_settings
from tasks.step import step
from tasks.storage import open_storage


@step(name="find-finished", retries=3, retry_delay_seconds=[2, 8, 30])
def find_finished(job: PlannedJob, *, seconds: float) -> UpscaleResult | None:
    """The job's output, if an earlier run stored it and the storage still has the same bytes.

    Args:
        job: the job, which this run holds.
        seconds: how long this run has taken so far.

    Returns:
        The result, as this run's; None if the output must be made.

    Side effects: as `finish`, where there is a result.
    Raises: StorageError (retried).
    """
    earlier = _read_result(job)
    if earlier is None:
        return None
    found = open_storage(get_settings()).stat(earlier.filename)
    if found is None or found.sha256 != earlier.sha256:
        get_run_logger().warning(
            "%s is not in storage any more; it is made again", earlier.filename
        )
        return None
    get_run_logger().info("%s is in storage already", earlier.filename)
    changes = {
        "job_id": str(flow_run.id),
        "cdn_url": found.url,
        "output_path": str(found.path) if found.path else None,
        "seconds": round(seconds, 2),
        "segments_reused": job.num_segments,
    }
    return _close(job, earlier.model_copy(update=changes))


def _read_result(job: PlannedJob) -> UpscaleResult | None:
    """The result that an earlier run has written; None if there is none that can be read."""
    path = JobDir(job.job_dir).result_path
    if not path.is_file():
        return None
    try:
        return UpscaleResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        get_run_logger().warning(
            "%s is no readable result (%d errors) and is ignored", path, error.error_count()
        )
        return None


@step(name="make-room", retries=1, retry_delay_seconds=2)
def make_room(job: PlannedJob) -> None:
    """Remove what is older than SEEDVR2_KEEP_DAYS, then check that the job fits on the disk.

    Side effects: see `tasks.job.sweep`.
    Raises: ResourceError: the disk has too little room; the message has both numbers (final).
    """
    for what in sweep(get_settings()):
        get_run_logger().info("removed %s, unused for %g days", what, get_settings().keep_days)
    job_dir = JobDir(job.job_dir)
    plan = read_record(job_dir.plan_path, Plan)
    # Digests are compared when the work begins; for an estimate the sidecars are enough.
    pending = [s for s in plan.segments if not job_dir.sidecar_path(s.index).is_file()]
    need = bytes_needed(plan, pending, finished_sizes(job_dir, plan))
    check_room(job_dir.path, need, doing="the job")


@step(name="finish", retries=10, retry_delay_seconds=[1, 2, 5, 10, 30, 30, 30, 30, 30, 30])
def finish(
    job: PlannedJob,
    joined: JoinedVideo,
    stored: StoredVideo,
    *,
    seconds: float,
    segments_reused: int,
) -> UpscaleResult:
    """Record the result, on disk first and then in Prefect, and remove the job's pieces.

    Args:
        job: the job, which this run holds.
        joined: the joined file.
        stored: the same file in storage, verified.
        seconds: how long this run has taken.
        segments_reused: how many segments an earlier run had made.

    Side effects: writes jobs/<job_key>/result.json and the result artifact; removes segments,
        latents and the joined file (unless SEEDVR2_KEEP_SEGMENTS is on).
    Retries: for about three minutes, in case the Prefect server is away.
    """
    job_dir = JobDir(job.job_dir)
    plan = read_record(job_dir.plan_path, Plan)
    result = UpscaleResult(
        job_id=str(flow_run.id),
        job_key=job.job_key,
        filename=stored.name,
        cdn_url=stored.url,
        output_path=str(stored.path) if stored.path else None,
        preview_path=str(joined.preview) if joined.preview else None,
        preview_url=_store_preview(joined, stored),
        input_size_mb=round(job.source.num_bytes / 1e6, 3),
        output_size_mb=round(stored.num_bytes / 1e6, 3),
        sha256=stored.sha256,
        engine=job.engine,
        width=job.width,
        height=job.height,
        frames=joined.num_frames,
        seconds=round(seconds, 2),
        segments_reused=segments_reused,
        notes=(*job.notes, *joined.notes, *deviations(job_dir, plan)),
    )
    return _close(job, result)


def _store_preview(joined: JoinedVideo, stored: StoredVideo) -> str | None:
    """Store the before/after picture beside a video that has a public address.

    Returns:
        The picture's address; None if there is no picture or no address. A storage that does not
        take the picture does not fail the job.
    """
    if joined.preview is None or stored.url is None:
        return None
    name = f"{Path(stored.name).stem}.preview{joined.preview.suffix}"
    try:
        return open_storage(get_settings()).put(joined.preview, name).url
    except (StorageError, ResourceError) as error:
        get_run_logger().warning("the before/after picture is not stored: %s", error)
        return None


def _close(job: PlannedJob, result: UpscaleResult) -> UpscaleResult:
    """Record the result and remove the pieces that it was made of."""
    job_dir = JobDir(job.job_dir)
    write_bytes(job_dir.result_path, result.model_dump_json(indent=2).encode())
    publish_result(result)
    if not get_settings().keep_segments:
        remove_pieces(job_dir)
    return result
