"""Opens the watch over a job's segments for the flow, and hands it to the task runs that wait."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from tasks.child.preview import note_previewed
from tasks.child.session import SegmentWatch
from tasks.schemas import PlannedJob

_watch: ContextVar[SegmentWatch] = ContextVar("segment_watch")


@contextlib.contextmanager
def session(job: PlannedJob, *, workers: int = 1, divided: bool = False) -> Iterator[SegmentWatch]:
    """Watch the segments of a job in the `with` block; its child is ended at the end of it.

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
    finally:
        _watch.reset(token)
        watch.close()


def current_watch() -> SegmentWatch:
    """The watch that `session` has opened in this context.

    Raises:
        LookupError: there is none: a task for a segment runs outside of the flow's `with` block.
    """
    return _watch.get()
