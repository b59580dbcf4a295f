"""The segments of a job while they are made: the child that makes them, and who waits for them.

One child makes all pending segments of a job, one after another. The flow opens the watch over it
(`session`), and each task run of the job waits there for its own segment (`current_watch`).
"""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

from seedvr2_core.child.protocol import (
    OUTPUT_PHASE,
    Event,
    Heartbeat,
    Idle,
    Ready,
    Restore,
    SegmentDone,
    Waiting,
)
from seedvr2_core.errors import ChildFailedError, DeadlineError
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.planning import Plan
from tasks.child.guard import Child
from tasks.run import current
from tasks.schemas import PlannedJob
from tasks.settings import get_settings


class SegmentWatch:
    """The pending segments of a job and the child that makes them."""

    def __init__(self, job: PlannedJob) -> None:
        """Look which segments are on disk; a child is started when the first other is asked for."""
        self._job, self._job_dir = job, JobDir(job.job_dir)
        self._plan = read_record(self._job_dir.plan_path, Plan)
        self._pending = pending_segments(self._job_dir, self._plan)
        self.reused = job.num_segments - len(self._pending)
        """Segments that an earlier run has made."""
        self.frames_reused = sum(
            segment.num_frames
            for segment in self._plan.segments
            if segment.index not in self._pending
        )
        self._deadline = time.monotonic() + job.job_limit_seconds
        self._child: Child | None = None
        self._ready = False
        self._lost_one = False
        """A child ended before its work was done."""
        self._base_frames = 0
        """Frames finished before the running child began."""

    def is_done(self, index: int) -> bool:
        """Whether the segment is finished and on disk."""
        return index not in self._pending

    def wait_for(self, index: int) -> None:
        """Return when the segment is committed; starts the child if none runs.

        Raises:
            StalledError, DeadlineError: a limit was passed; the child is ended.
            SeedVR2Error: what the child reported, or that it died.
        """
        if self._lost_one and self._child is None:  # it may have made more than it could tell
            self._pending = pending_segments(self._job_dir, self._plan)
        try:
            if not self.is_done(index):
                self._start_child()
            limit = time.monotonic() + self._plan.limits.segment[index]
            while not self.is_done(index):
                self._take_event(index, limit)
        except BaseException:
            # Also on Prefect's own timeout, a cancellation or Ctrl-C: never leave a child behind.
            self.close()
            raise

    def close(self) -> None:
        """End the child, if any."""
        child, self._child, self._ready = self._child, None, False
        if child is not None:
            self._lost_one = True
            child.close()

    def _start_child(self) -> None:
        """Start a child on all pending segments and wait until its engine is loaded."""
        if self._child is not None:
            return
        done = set(range(self._job.num_segments)) - set(self._pending)
        self._base_frames = sum(self._plan.segments[k].num_frames for k in done)
        self._child = Child(log=current().log)
        self._child.send(
            Restore(
                job_dir=self._job.job_dir,
                source=self._job.source.path,
                device=self._job.device,
                weights_dir=get_settings().weights_folder,
                lock_dir=get_settings().locks_dir,
                segments=tuple(self._pending),
            )
        )
        load = self._plan.limits.load
        current().enter("load", stall_seconds=load, within=self._job.job_limit_seconds)
        limit = time.monotonic() + load
        while not self._ready:
            event = self._next_event(load, limit, "loading the engine")
            self._ready = isinstance(event, Ready)
            if isinstance(event, Waiting):  # it has not begun to load
                limit = time.monotonic() + load
                self._show(f"waiting for {event.whom}", 0)

    def _take_event(self, index: int, limit: float) -> None:
        """Wait for one event of the child under all limits and note it."""
        stall_seconds = self._job.stall_limit_seconds
        match self._next_event(stall_seconds, limit, f"restoring segment {index}"):
            case SegmentDone(segment=segment):
                self._pending.remove(segment)
            case Heartbeat(phase=phase, done=done):
                self._show(phase, done)
            case Idle() if not self.is_done(index):
                raise ChildFailedError(f"the child has ended its work without segment {index}")
            case _:
                pass

    def _next_event(self, stall_seconds: float, limit: float, doing: str) -> Event:
        """The child's next event, under the stall limit, this step's limit and the job's."""
        assert self._child is not None
        deadline = min(limit, self._deadline)
        try:
            return self._child.next_event(
                stall_seconds=stall_seconds, deadline=deadline, doing=doing
            )
        except DeadlineError as error:
            if time.monotonic() <= self._deadline:
                raise
            raise DeadlineError(
                f"the job passed its limit of {self._job.job_limit_seconds:g} s while {doing}; "
                "finished segments are kept: run it again to go on"
            ) from error

    def _show(self, phase: str, done: int) -> None:
        """Pass progress on; only the encoder's count tells how many frames are finished."""
        current().progress(
            phase=phase,
            frames=self._base_frames + done if phase == OUTPUT_PHASE else None,
            num_frames=self._job.num_frames,
            stall_seconds=self._job.stall_limit_seconds,
        )


_watch: ContextVar[SegmentWatch] = ContextVar("segment_watch")


@contextlib.contextmanager
def session(job: PlannedJob) -> Iterator[SegmentWatch]:
    """Watch the segments of a job in the `with` block; its child is ended at the end of it."""
    watch = SegmentWatch(job)
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)
        watch.close()


def current_watch() -> SegmentWatch:
    """The watch that `session` has opened in this context.

    Raises:
        LookupError: there is none: a task for a segment runs outside of the flow's `with` block.
    """
    return _watch.get()
