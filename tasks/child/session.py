"""The segments of a job while they are made: the child that makes them, and who waits for them.

One child makes all pending segments of a job, one after another. The flow opens the watch over it
(`session`), and each task run of the job waits there for its own segment (`current_watch`). Where
the job is shared, other runs make some of the segments, each with a child of its own (`Helper`);
the watch finds what they have made by its sidecar.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from math import inf

from seedvr2_core.child.protocol import (
    Event,
    Heartbeat,
    Idle,
    Progressed,
    Ready,
    Restore,
    SegmentDone,
    Taken,
    Waiting,
)
from seedvr2_core.errors import ChildFailedError, DeadlineError, StalledError
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.job.sidecar import read_segment
from seedvr2_core.planning import Plan
from seedvr2_core.words import counted
from tasks.child.awake import awake_seconds
from tasks.child.guard import Child
from tasks.child.pace import Pace
from tasks.child.patience import Patience
from tasks.child.rates import learn
from tasks.run import current
from tasks.schemas import PlannedJob
from tasks.settings import get_settings

LOAD, RESTORE, ENCODE, WAIT = "load", "restore", "encode", "wait"
"""Phases of the record while the segments are made. In ENCODE all frames are restored, and the
encoder has yet to give out the last ones."""
_LOOK_SECONDS = 1.0
"""Time between two looks for segments that others have made."""


class SegmentWatch:
    """The pending segments of a job and the child that makes them."""

    def __init__(
        self,
        job: PlannedJob,
        *,
        workers: int = 1,
        helps: str = "",
    ) -> None:
        """Look which segments are on disk; a child is started when the first other is asked for.

        Args:
            job: the job.
            workers: by how many runs it is shared at most.
            helps: id of the run that this one helps; "": the job is this run's own.
        """
        self._job, self._job_dir = job, JobDir(job.job_dir)
        self._workers, self._helps = workers, helps
        self._plan = read_record(self._job_dir.plan_path, Plan)
        self._pending = pending_segments(self._job_dir, self._plan)
        self.source = job.source
        self.reused = job.num_segments - len(self._pending)
        """Segments that an earlier run has made."""
        self.frames_reused = sum(
            segment.num_frames
            for segment in self._plan.segments
            if segment.index not in self._pending
        )
        # Only an operator sets a limit of the job.
        limit = job.job_limit_seconds
        self._deadline = inf if limit is None else awake_seconds() + limit
        self._patience = Patience(self._job_dir, fixed=get_settings().stall_seconds is not None)
        self._child: Child | None = None
        self._pace: Pace | None = None
        """Of the running child, from when its engine is loaded."""
        self._slowest = 0.0
        """Seconds of a frame of the slowest child so far."""
        self._lost_one = False
        """A child ended before its work was done."""
        self._own: set[int] = set()
        """Segments that our child has taken."""
        self._by_others: set[int] = set()
        """Segments that other runs have made since we began."""
        self._looked_at = 0.0
        """When we looked for these, by the clock of `awake_seconds`."""

    def is_done(self, index: int) -> bool:
        """Whether the segment is finished and on disk."""
        return index not in self._pending

    def wait_for(self, index: int) -> None:
        """Return when the segment is committed; starts the child if none runs.

        Raises:
            StalledError: the child hangs. It is ended, and the next one may be silent for longer.
            DeadlineError: the operator's limit of the job was passed; the child is ended.
            SeedVR2Error: what the child reported, or that it died.
        """
        if self._lost_one and self._child is None:  # it may have made more than it could tell
            self._pending = pending_segments(self._job_dir, self._plan)
        with self._closed_on_error():
            if not self.is_done(index):
                self._start_child()
            while not self.is_done(index):
                self._take_event(f"restoring segment {index}")

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """End the child if the `with` block does not end well: also on a cancellation or Ctrl-C."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, StalledError):
                self._patience.lost()
            self.close()
            raise

    def close(self) -> None:
        """End the child, if any."""
        child, self._child = self._child, None
        if self._pace is not None:
            self._slowest, self._pace = self._pace.slowest, None
        if child is not None:
            self._lost_one = True
            child.close()

    def _start_child(self) -> None:
        """Start a child on all pending segments and wait until its engine is loaded.

        It loads none if others make or have made all of them.
        """
        if self._child is not None:
            return
        self._own = set()
        self._child = Child(log=current().log)
        self._child.send(
            Restore(
                job_dir=self._job.job_dir,
                source=self._job.source.path,
                device=self._job.device,
                weights_dir=get_settings().weights_folder,
                lock_dir=get_settings().locks_dir,
                segments=tuple(self._pending),
                workers=self._workers,
                helps=self._helps,
            )
        )
        self._show(LOAD)
        while self._pace is None:
            match self._next_event(self._load_stall, "loading the engine"):
                case Ready():
                    pending = sum(self._plan.segments[k].num_frames for k in self._pending)
                    self._pace = Pace(self._plan, pending_frames=pending, slowest=self._slowest)
                case Waiting(whom=whom):
                    self._look_at_others()
                    self._show(WAIT, f"waiting for {whom}")
                case Taken(segments=segments):
                    self._own |= set(segments)
                case Idle():
                    self._all_is_made()
                    return
                case Heartbeat(done=done, total=total) if total:
                    self._show(LOAD, f"{100 * done // total} % of the weights")
                case _:
                    pass
        self._show(RESTORE)

    def _take_event(self, doing: str) -> Event:
        """Wait for one event of the child under all limits and note it."""
        assert self._pace is not None
        event = self._next_event(self._stall, doing)
        self._note(event, self._pace)
        if self._workers > 1 or isinstance(event, Waiting):
            self._look_at_others()
        still = self._pace.stands_still(self._stall)
        if still is not None and self._pending:
            raise StalledError(
                f"no frame, window or slice was finished for {still:.0f} s while {doing}, although "
                "the child gave signs of life"
            )
        return event

    def _note(self, event: Event, pace: Pace) -> None:
        """Note what an event says."""
        match event:
            case SegmentDone(segment=segment):
                self._pending.remove(segment)
                if not self._pending and not self._by_others:
                    learn(self._plan, pace, get_settings())
            case Taken(segments=segments):
                self._own |= set(segments)
            case Waiting(whom=whom):
                pace.rest()
                self._show(WAIT, f"waiting for {whom}")
            case Progressed() as progress:
                pace.note(progress)
                self._show(self._phase(pace))
            case Heartbeat(phase="check", done=done, total=total) if total:
                self._show(ENCODE, f"{done} of {counted(total, 'frame')} checked")
            case Heartbeat():
                self._show(self._phase(pace))
            case Idle():
                self._all_is_made()
            case _:
                pass

    def _all_is_made(self) -> None:
        """The child has ended its work: others have made what it did not.

        Raises:
            ChildFailedError: nobody has.
        """
        if self._helps:
            return
        self._pending = pending_segments(self._job_dir, self._plan) if self._pending else []
        if self._pending:
            raise ChildFailedError(
                f"the child has ended its work without segment {self._pending[0]}"
            )

    def _look_at_others(self) -> None:
        """Note what other runs have made, at most once a second."""
        if awake_seconds() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = awake_seconds()
        folder = self._job_dir.segments_path
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
        for index in [k for k in self._pending if k not in self._own]:
            segment = self._plan.segments[index]
            if self._job_dir.sidecar_path(index).name not in there:
                continue
            if read_segment(self._job_dir, self._plan, segment) is not None:
                self._pending.remove(index)
                self._by_others.add(index)
                if self._pace is not None:
                    self._pace.others += segment.num_frames

    def _next_event(self, stall_seconds: float, doing: str) -> Event:
        """The child's next event, under the stall limit and the operator's limit of the job."""
        assert self._child is not None
        try:
            return self._child.next_event(
                stall_seconds=stall_seconds, deadline=self._deadline, doing=doing
            )
        except DeadlineError as error:
            raise DeadlineError(
                f"the job passed the limit of {self._job.job_limit_seconds:g} s that "
                f"SEEDVR2_JOB_SECONDS sets, while {doing}; finished segments are kept: set a "
                "larger one, or none, and run it again to go on"
            ) from error

    def _phase(self, pace: Pace) -> str:
        """What is shown; the engine's own phases follow each other too fast to be read."""
        return RESTORE if pace.frames < self._job.num_frames else ENCODE

    @property
    def _stall(self) -> float:
        """The stall limit in force."""
        return self._job.stall_limit_seconds * self._patience.factor

    @property
    def _load_stall(self) -> float:
        """The same while the engine is loaded."""
        return self._plan.limits.load * self._patience.factor

    def _kept_frames(self) -> int:
        """Frames of the segments that are on disk."""
        done = set(range(self._job.num_segments)) - set(self._pending)
        return sum(self._plan.segments[k].num_frames for k in done)

    def _show(self, phase: str, detail: str = "") -> None:
        """Pass progress on."""
        pace = self._pace
        current().progress(
            phase=phase,
            frames=pace.frames if pace else self._kept_frames(),
            num_frames=self._job.num_frames,
            work=pace.work if pace else None,
            stall_seconds=self._stall if pace else self._load_stall,
            seconds_left=pace.seconds_left(current().hands) if pace else None,
            within=None if self._deadline == inf else self._deadline - awake_seconds(),
            detail=detail,
        )


class Helper(SegmentWatch):
    """Makes segments of a job that another run works on."""

    def work(self, enough: Callable[[Event], bool]) -> None:
        """Make what nobody else makes, until nothing of that is left.

        Args:
            enough: asked after each segment that is made, and again and again while the child waits
                for a GPU; True ends the work.

        Raises:
            StalledError, SeedVR2Error: as `wait_for`.
        """
        self._enough = enough
        with self._closed_on_error(), contextlib.suppress(_EnoughError):
            self._start_child()
            while self._pace is not None and not isinstance(self._take_event("helping"), Idle):
                pass
        self.close()

    def _next_event(self, stall_seconds: float, doing: str) -> Event:
        event = super()._next_event(stall_seconds, doing)
        if isinstance(event, SegmentDone | Waiting) and self._enough(event):
            raise _EnoughError
        return event


class _EnoughError(Exception):
    """A helper is to stop now."""


_watch: ContextVar[SegmentWatch] = ContextVar("segment_watch")


@contextlib.contextmanager
def session(job: PlannedJob, *, workers: int = 1) -> Iterator[SegmentWatch]:
    """Watch the segments of a job in the `with` block; its child is ended at the end of it.

    Args:
        job: the job.
        workers: by how many runs it is shared at most.
    """
    watch = SegmentWatch(job, workers=workers)
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
