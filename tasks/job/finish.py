"""A job's directory: held by one run at a time, searched for a finished output, then closed."""

from prefect import get_run_logger
from prefect.runtime import flow_run
from pydantic import ValidationError

from seedvr2_core.files import read_record
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.files.space import check_room
from seedvr2_core.job import deviations
from seedvr2_core.job.sidecar import finished_sizes, sidecar_path
from seedvr2_core.job.space import bytes_needed
from seedvr2_core.planning import Plan
from tasks.job.sweep import RESULT, remove_pieces, sweep
from tasks.run import publish_result
from tasks.schemas import JoinedVideo, PlannedJob, StoredVideo, UpscaleResult
from tasks.settings import get_settings
from tasks.step import step
from tasks.storage import open_storage


@step(name="find-finished", retries=3, retry_delay_seconds=[2, 8, 30])
def find_finished(job: PlannedJob, *, seconds: float) -> UpscaleResult | None:
    """The job's output, if an earlier run stored it and the storage still has these bytes.

    Args:
        job: held by this run.
        seconds: that this run took so far.

    Side effects: result.json and the result artifact, as `finish`.
    Raises: StorageError (retried).
    """
    earlier = _read_result(job)
    if earlier is None:
        return None
    found = open_storage(get_settings()).stat(earlier.filename)
    if found is None or found.sha256 != earlier.sha256:
        get_run_logger().warning("%s is not in storage any more; made again", earlier.filename)
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
    """What an earlier run wrote last, if anything that can be read."""
    path = job.job_dir / RESULT
    if not path.exists():
        return None
    try:
        return UpscaleResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        get_run_logger().warning("%s is not readable (%d errors)", path, error.error_count())
        return None


@step(name="make-room", retries=1, retry_delay_seconds=2)
def make_room(job: PlannedJob) -> None:
    """Remove what is older than SEEDVR2_KEEP_DAYS, then see that what is missing fits the disk.

    Side effects: see `tasks.job.sweep`.
    Raises: ResourceError with both numbers (final).
    """
    for what in sweep(get_settings()):
        get_run_logger().info("removed %s, unused for %g days", what, get_settings().keep_days)
    plan = read_record(job.job_dir / "plan.json", Plan)
    # Digests are looked at when the work begins; here a glance is enough.
    pending = [s for s in plan.segments if not sidecar_path(job.job_dir, s.index).exists()]
    need = bytes_needed(plan, pending, finished_sizes(job.job_dir, plan))
    check_room(job.job_dir, need, doing="the job")


@step(name="finish", retries=10, retry_delay_seconds=[1, 2, 5, 10, 30, 30, 30, 30, 30, 30])
def finish(
    job: PlannedJob,
    joined: JoinedVideo,
    stored: StoredVideo,
    *,
    seconds: float,
    segments_reused: int,
) -> UpscaleResult:
    """The result: to disk first, then to Prefect as an artifact; then the job's pieces go.

    Side effects: writes jobs/<job_key>/result.json; removes segments, latents and the joined file
        (not where SEEDVR2_KEEP_SEGMENTS is on).
    Retries: while the Prefect server is away, for about three minutes.
    """
    plan = read_record(job.job_dir / "plan.json", Plan)
    result = UpscaleResult(
        job_id=str(flow_run.id),
        job_key=job.job_key,
        filename=stored.name,
        cdn_url=stored.url,
        output_path=str(stored.path) if stored.path else None,
        preview_path=str(joined.preview) if joined.preview else None,
        input_size_mb=round(job.source.num_bytes / 1e6, 3),
        output_size_mb=round(stored.num_bytes / 1e6, 3),
        sha256=stored.sha256,
        engine=job.engine,
        width=job.width,
        height=job.height,
        frames=joined.num_frames,
        seconds=round(seconds, 2),
        segments_reused=segments_reused,
        notes=(*job.notes, *joined.notes, *deviations(job.job_dir, plan)),
    )
    return _close(job, result)


def _close(job: PlannedJob, result: UpscaleResult) -> UpscaleResult:
    """Record the result and remove what it was made of."""
    write_bytes(job.job_dir / RESULT, result.model_dump_json(indent=2).encode())
    publish_result(result)
    if not get_settings().keep_segments:
        remove_pieces(job.job_dir)
    return result
