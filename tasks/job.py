"""A job's directory: held by one run at a time, and closed with the job's result."""

import contextlib
import shutil
from collections.abc import Iterator

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from seedvr2_core.records import write_bytes
from seedvr2_core.segments import segments_dir
from tasks.locks import hold_lock
from tasks.record import publish_result
from tasks.retry import retryable
from tasks.schemas import JoinedVideo, PlannedJob, StoredVideo, UpscaleResult


@contextlib.contextmanager
def hold_job(job: PlannedJob, *, fresh: bool) -> Iterator[None]:
    """Hold the job's directory; a second run of the same request waits and reuses the result.

    Raises:
        DeadlineError: the other run still holds it after its own job limit.
    """

    def say_so() -> None:
        get_run_logger().warning("another run of the same request is at work; waiting for it")

    lock = job.job_dir / "job.lock"
    with hold_lock(lock, timeout=job.job_limit_seconds, on_wait=say_so):
        if fresh:
            shutil.rmtree(segments_dir(job.job_dir), ignore_errors=True)
        yield


@task(
    name="finish",
    retries=10,
    retry_delay_seconds=[1, 2, 5, 10, 30, 30, 30, 30, 30, 30],
    retry_condition_fn=retryable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def finish(
    job: PlannedJob,
    joined: JoinedVideo,
    stored: StoredVideo,
    *,
    seconds: float,
    segments_reused: int,
) -> UpscaleResult:
    """The result: to disk first, then to Prefect as an artifact.

    Side effects: writes jobs/<job_key>/result.json.
    Retries: while the Prefect server is away, for about three minutes.
    """
    result = UpscaleResult(
        job_id=str(flow_run.id),
        job_key=job.job_key,
        filename=stored.name,
        cdn_url=stored.url,
        output_path=str(stored.path) if stored.path else None,
        preview_path=str(joined.preview) if joined.preview else None,
        input_size_mb=round(job.source.size_bytes / 1e6, 3),
        output_size_mb=round(stored.size_bytes / 1e6, 3),
        sha256=stored.sha256,
        engine=job.engine,
        width=job.width,
        height=job.height,
        frames=joined.num_frames,
        seconds=round(seconds, 2),
        segments_reused=segments_reused,
        notes=(*job.notes, *joined.notes),
    )
    write_bytes(job.job_dir / "result.json", result.model_dump_json(indent=2).encode())
    publish_result(result)
    return result
