"""Inference: a child process makes the segments, and one task run waits for each of them.

The flow opens `session(job)`. Its child works through all pending segments by itself; the task run
of segment k waits for that segment under a stall limit and a hard limit. So the engine never waits
for Prefect, and Prefect shows and retries each segment.
"""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.child.operation import drop_engine
from tasks.child.preview import note_previewed
from tasks.child.session import SegmentWatch
from tasks.schemas import PlannedJob
from tasks.sources.names import called_by_name
from tasks.step import step

_watch: ContextVar[SegmentWatch] = ContextVar("segment_watch")


def _named(parameters: dict[str, Any]) -> str:
    """Name of a segment's task run, which counts as people do: "segment 7 of 31"."""
    about = "about " if parameters.get("about") else ""
    return f"segment {parameters['index'] + 1} of {about}{parameters['num_segments']}"


@contextlib.contextmanager
def session(job: PlannedJob, *, workers: int = 1, divided: bool = False) -> Iterator[SegmentWatch]:
    """Watch the segments of a job in the `with` block; at its end the child ends, or is left over.

    Args:
        job: the job.
        workers: by how many runs it is shared at most.
        divided: the machines share no disk (`tasks.parts.division`).
    """
    watch = SegmentWatch(job, workers=workers, divided=divided)
    if job.preview is not None:
        note_previewed(job)
    token = _watch.set(watch)
    try:
        watch.check_budget()
        yield watch
        watch.let_rest()
        if job.early is None:
            drop_engine()  # of the early part, where nothing was left to make
    finally:
        _watch.reset(token)
        watch.close()


def wait_for(watch: SegmentWatch, index: int) -> None:
    """Return when a segment is committed. This is the watchdog: each wait is under limits.

    A child is started if none runs, and ended if it fails or hangs, or the wait is given up.

    Raises:
        StalledError: the child hangs. The next one may be silent for longer.
        DeadlineError, BudgetError: the operator's limit of the job was passed, or the caller's.
        SeedVR2Error: what the child reported, or that it died.
    """
    watch.look_again()
    while not watch.is_done(index):
        with watch.guarded(f"restoring segment {index}") as (child, limits):
            watch.note(child.next_event(**limits))


@step(name="infer", task_run_name=_named, retries=1, retry_delay_seconds=2)
def infer(index: int, num_segments: int, *, about: bool = False) -> State[int]:
    """Wait until segment `index` of `num_segments` (or `about` so many) is restored and committed.

    It takes numbers alone: for a parameter that another task has returned, such as the job, Prefect
    would draw a line from that task to every segment.

    It runs inside of `session`, which has opened the watch.

    Returns:
        Completed, named `Reused` if the segment was there before.

    Retries: a stall, a crash and anything else that may heal, once, on a fresh child.
    """
    watch = _watch.get()
    which = _named({"index": index, "num_segments": num_segments, "about": about})
    if watch.is_done(index):
        return Completed(name="Reused", message=f"{which} was already there", data=index)
    began = time.monotonic()
    with called_by_name(watch.source):
        wait_for(watch, index)
    # Prefect logs the state's message: with a line of our own, each segment would have two.
    return Completed(message=f"{which} restored in {time.monotonic() - began:.1f} s", data=index)
