"""The segments' watch."""

import time

from seedvr2_core.errors import ChildFailedError, DeadlineError
from seedvr2_core.files import read_record
from seedvr2_core.job import pending_segments
from seedvr2_core.planning import Plan
from tasks.child.guard import Child, Event
from tasks.run import record
from tasks.schemas import PlannedJob
from tasks.settings import get_settings


class SegmentWatch:
    """The pending segments of a job and the child that makes them."""

    def __init__(self, job: PlannedJob) -> None:
        self._job = job
        self._plan = read_record(job.job_dir / "plan.json", Plan)
        self._pending = pending_segments(job.job_dir, self._plan)
        self.reused = job.num_segments - len(self._pending)
        self._deadline = time.monotonic() + job.job_limit_seconds
        self._child: Child | None = None
        self._ready = False
        self._lost_one = False
        self._base_frames = 0
        """Frames finished before the running child began."""

    def is_done(self, index: int) -> bool:
        """Whether the segment lies on disk, finished."""
        return index not in self._pending

    def wait_for(self, index: int) -> None:
        """Return when the segment is committed; starts the child if none runs.

        Raises:
            StalledError, DeadlineError: a limit was passed; the child is ended.
            SeedVR2Error: what the child reported, or that it died.
        """
        if self._lost_one and self._child is None:  # it may have made more than it could tell
            self._pending = pending_segments(self._job.job_dir, self._plan)
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
        self._child = Child(log=record.current().log)
        self._child.send(
            {
                "op": "restore",
                "job_dir": str(self._job.job_dir),
                "source": str(self._job.source.path),
                "device": self._job.device,
                "weights_dir": str(get_settings().weights_folder),
                "lock_dir": str(get_settings().locks_dir),
                "segments": self._pending,
            }
        )
        load = self._plan.limits.load
        record.current().enter("load", stall_limit=load, within=self._job.job_limit_seconds)
        limit = time.monotonic() + load
        while not self._ready:
            event = self._next_event(load, limit, "loading the engine")
            self._ready = event["event"] == "ready"
            if event["event"] == "waiting":  # it has not begun to load
                limit = time.monotonic() + load
                self._show(f"waiting for {event['whom']}", 0)

    def _take_event(self, index: int, limit: float) -> None:
        """Wait for one event of the child under all limits and note it."""
        event = self._next_event(self._job.stall_limit_seconds, limit, f"restoring segment {index}")
        if event["event"] == "segment_done":
            self._pending.remove(event["segment"])
        elif event["event"] == "heartbeat":
            self._show(event["phase"], event["done"])
        elif event["event"] == "idle" and not self.is_done(index):
            raise ChildFailedError(f"the child has ended its work without segment {index}")

    def _next_event(self, stall: float, limit: float, doing: str) -> Event:
        """The child's next event, under the stall limit, this step's limit and the job's."""
        assert self._child is not None
        try:
            return self._child.next_event(
                stall=stall, deadline=min(limit, self._deadline), doing=doing
            )
        except DeadlineError as error:
            if time.monotonic() <= self._deadline:
                raise
            raise DeadlineError(
                f"the job passed its limit of {self._job.job_limit_seconds:g} s while {doing}; "
                "finished segments are kept: run it again to go on"
            ) from error

    def _show(self, phase: str, done: int) -> None:
        """Pass progress on; the encoder's count is what is really finished."""
        frames = self._base_frames + done if phase == "encode" else None
        record.current().progress(
            phase=phase,
            frames=frames,
            num_frames=self._job.num_frames,
            stall_limit=self._job.stall_limit_seconds,
        )
