"""Batch inference: the child that owns the engine, and the task that waits for one segment.

The flow opens `session(plan)`. The child works through all pending segments by itself; the task
run of segment k is the watchdog that waits for it under a stall and a hard limit. Tasks take the
job and an index only: a registry finds the session.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.child.session import SegmentWatch
from tasks.schemas import PlannedJob
from tasks.step import step

_sessions: dict[Path, "SegmentWatch"] = {}


@contextlib.contextmanager
def session(job: PlannedJob) -> Iterator["SegmentWatch"]:
    """Everything the tasks of one job share; ends the child on the way out, whatever happened."""
    opened = SegmentWatch(job)
    _sessions[job.job_dir] = opened
    try:
        yield opened
    finally:
        del _sessions[job.job_dir]
        opened.close()


@step(name="infer", task_run_name="infer-segment-{index}", retries=1, retry_delay_seconds=2)
def infer(job: PlannedJob, index: int) -> State[int]:
    """Wait until segment `index` is restored and committed.

    Returns:
        Completed, named `Reused` if the segment was there before.

    Retries: a stall, a crash and anything else that may heal, once, on a fresh child.
    """
    opened = _sessions[job.job_dir]
    if opened.is_done(index):
        return Completed(name="Reused", message=f"segment {index} was already there", data=index)
    began = time.monotonic()
    opened.wait_for(index)
    seconds = time.monotonic() - began
    get_run_logger().info("segment %d of %d done in %.1f s", index + 1, job.num_segments, seconds)
    return Completed(message=f"segment {index} restored", data=index)
