"""Lets only one run at a time work on a job's directory.

Equal requests have the same job and so the same directory. The second run waits for the first and
then finds its output. A run that is asked to start afresh empties the directory first.
"""

import contextlib
import shutil
from collections.abc import Iterator
from math import inf

from prefect import get_run_logger
from prefect.runtime import flow_run

from seedvr2_core.files import hold_lock
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.job import JobDir
from tasks.run import current
from tasks.schemas import PlannedJob


@contextlib.contextmanager
def hold_job(job: PlannedJob, *, fresh: bool) -> Iterator[None]:
    """Hold the job's directory for the length of a `with` block; waits while another run holds it.

    Args:
        job: the job.
        fresh: remove what earlier runs left. A retry of the same run does not do so again.
    """

    def say_so() -> None:
        get_run_logger().warning("another run of the same request is at work; waiting for it")

    def still_waiting() -> None:
        current().wait("another run of the same request")

    job_dir = JobDir(job.job_dir)
    with hold_lock(job_dir.lock_path, timeout=inf, on_wait=say_so, while_waiting=still_waiting):
        if fresh:
            _begin_afresh(job_dir)
        yield


def _begin_afresh(job_dir: JobDir) -> None:
    """Remove results and segments and take the new plan, if this run has not done so before."""
    run_id, marker, planned = str(flow_run.id), job_dir.fresh_run_path, job_dir.fresh_plan_path
    if marker.exists() and marker.read_text() == run_id:
        planned.unlink(missing_ok=True)
        return
    job_dir.result_path.unlink(missing_ok=True)
    shutil.rmtree(job_dir.segments_path, ignore_errors=True)
    if planned.exists():  # an equal run that has just started afresh may have taken it
        planned.replace(job_dir.plan_path)
    write_bytes(marker, run_id.encode())
