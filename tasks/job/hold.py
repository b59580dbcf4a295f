"""A job's directory is held by one run at a time."""

import contextlib
import shutil
from collections.abc import Iterator

from prefect import get_run_logger
from prefect.runtime import flow_run

from seedvr2_core.files import hold_lock
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.job.sidecar import segments_dir
from tasks.job.sweep import LOCK, RESULT
from tasks.schemas import PlannedJob

FRESH_PLAN = "plan.fresh.json"
"""The plan of a fresh start, until its run holds the job."""
_FRESH_RUN = "fresh.run"
"""Holds the id of the run that has started afresh; its own retries go on with what it made."""


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

    lock = job.job_dir / LOCK
    with hold_lock(lock, timeout=job.job_limit_seconds, on_wait=say_so):
        if fresh:
            _begin_afresh(job)
        yield


def _begin_afresh(job: PlannedJob) -> None:
    """Remove what is there and take the new plan, if this run has not done so before."""
    run_id, marker = str(flow_run.id), job.job_dir / _FRESH_RUN
    planned = job.job_dir / FRESH_PLAN
    if marker.exists() and marker.read_text() == run_id:
        planned.unlink(missing_ok=True)
        return
    (job.job_dir / RESULT).unlink(missing_ok=True)
    shutil.rmtree(segments_dir(job.job_dir), ignore_errors=True)
    if planned.exists():  # not if an equal run that began afresh just before has taken it
        planned.replace(job.job_dir / "plan.json")
    write_bytes(marker, run_id.encode())
