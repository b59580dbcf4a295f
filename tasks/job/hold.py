"""A job's directory is held by one run at a time."""

import contextlib
import shutil
from collections.abc import Iterator

from prefect import get_run_logger
from prefect.runtime import flow_run

from seedvr2_core.files import hold_lock
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.job import JobDir
from tasks.schemas import PlannedJob


@contextlib.contextmanager
def hold_job(job: PlannedJob, *, fresh: bool) -> Iterator[None]:
    """Hold the job's directory; a second run of the same request waits and reuses the result.

    Args:
        job: whose directory it is.
        fresh: forget what earlier runs left; once in the life of a run.

    Raises:
        DeadlineError: the other run still holds it after its own job limit.
    """

    def say_so() -> None:
        get_run_logger().warning("another run of the same request is at work; waiting for it")

    job_dir = JobDir(job.job_dir)
    with hold_lock(job_dir.lock_path, timeout=job.job_limit_seconds, on_wait=say_so):
        if fresh:
            _begin_afresh(job_dir)
        yield


def _begin_afresh(job_dir: JobDir) -> None:
    """Remove what is there and take the new plan, if this run has not done so before."""
    run_id, marker, planned = str(flow_run.id), job_dir.fresh_run_path, job_dir.fresh_plan_path
    if marker.exists() and marker.read_text() == run_id:
        planned.unlink(missing_ok=True)
        return
    job_dir.result_path.unlink(missing_ok=True)
    shutil.rmtree(job_dir.segments_path, ignore_errors=True)
    if planned.exists():  # not if an equal run that began afresh just before has taken it
        planned.replace(job_dir.plan_path)
    write_bytes(marker, run_id.encode())
