"""Inference: a child process makes the segments, and one task run waits for each of them.

The flow opens `session(job)`. Its child works through all pending segments by itself; the task run
of segment k waits for that segment under a stall limit and a hard limit. So the engine never waits
for Prefect, and Prefect shows and retries each segment.
"""

import time
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.child.open_watch import current_watch, session
from tasks.sources.names import called_by_name
from tasks.step import step

__all__ = ["infer", "session"]


def _named(parameters: dict[str, Any]) -> str:
    """Name of a segment's task run, which counts as people do: "segment 7 of 31"."""
    return f"segment {parameters['index'] + 1} of {parameters['num_segments']}"


@step(name="infer", task_run_name=_named, retries=1, retry_delay_seconds=2)
def infer(index: int, num_segments: int) -> State[int]:
    """Wait until segment `index` of `num_segments` is restored and committed.

    It takes numbers alone: for a parameter that another task has returned, such as the job, Prefect
    would draw a line from that task to every segment.

    Returns:
        Completed, named `Reused` if the segment was there before.

    Retries: a stall, a crash and anything else that may heal, once, on a fresh child.
    """
    watch = current_watch()
    which = f"segment {index + 1} of {num_segments}"
    if watch.is_done(index):
        return Completed(name="Reused", message=f"{which} was already there", data=index)
    began = time.monotonic()
    with called_by_name(watch.source):
        watch.wait_for(index)
    # Prefect logs the state's message: with a line of our own, each segment would have two.
    return Completed(message=f"{which} restored in {time.monotonic() - began:.1f} s", data=index)
