"""The segments of a job while they are made: the child that makes them, and who waits for them.

One child makes all pending segments of a job, one after another. The flow opens the watch over it,
and each task run of the job waits there for its own segment (`open_watch.py`). Where the job is
shared, other runs make some of the segments, each with a child of its own (`Helper`); the watch
finds what they have made by its sidecar.
"""

import contextlib
from collections.abc import Iterator
from math import inf

from seedvr2_core.child.protocol import (
    CodingAgain,
    Event,
    Heartbeat,
    Idle,
    Progressed,
    Ready,
    SegmentDone,
    Taken,
    Waiting,
)
from seedvr2_core.errors import (
    BudgetError,
    ChildFailedError,
    DeadlineError,
    SeedVR2Error,
    StalledError,
)
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.job.sidecar import read_segment
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.words import counted
from tasks.child.asking import Asking, Steps
from tasks.child.awake import awake_seconds
from tasks.child.guard import Child
from tasks.child.operation import STARTING, child_for, load_detail, pass_on
from tasks.child.pace import ENCODE, RESTORE, Pace, measures_of
from tasks.child.patience import Patience
from tasks.child.preview import count_previewed
from tasks.child.rates import learn
from tasks.child.warm import attach, is_doubtful, let_rest
from tasks.request.shared import KeptWork
from tasks.run import current
from tasks.run.measures import Measures
from tasks.run.spending import Purse
from tasks.schemas import Account, PlannedJob
from tasks.settings import get_settings

LOAD, WAIT = "load", "wait"
"""Phases of the record while no segment is made."""
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
        helper: int = 0,
        divided: bool = False,
    ) -> None:
        """Look which segments are on disk; a child is started when the first other is asked for.

        Args:
            job: the job.
            workers: by how many runs it is shared at most.
            helps: id of the run that this one helps; "": the job is this run's own.
            helper: which helper of that run this is, counted from 1.
            divided: the flow's process says what is for this child (`tasks.parts.division`).
        """
        self._job, self._job_dir = job, JobDir(job.job_dir)
        self._workers, self._helps = workers, helps
        self._plan = read_record(self._job_dir.outline_path, PlanOutline)
        self._pending = self._look_at_kept()
        self.source = job.source
        there = set(job.segments).difference(self._pending)
        self.kept = KeptWork(
            segments=len(there),
            frames=self._kept_frames(),
            previewed=0 if job.preview else count_previewed(self._job_dir, there),
        )
        self._began = awake_seconds()
        self._asking = Asking(job, self._plan, workers=workers, helps=helps, divided=divided)
        self.estimated_seconds = self._asking.seconds(self._pending)
        """What this run is expected to take, from now to the stored output."""
        self._purse = Purse(job, get_settings(), clock=awake_seconds, helper=helper)
        limit = job.job_limit_seconds  # an operator's
        self._deadline = inf if limit is None else awake_seconds() + limit
        self._patience = Patience(self._job_dir, fixed=get_settings().stall_seconds is not None)
        self._child: Child | None = None
        self._pace: Pace | None = None
        """Of the running child, from when its engine is loaded."""
        self._slowest = 0.0
        """Seconds of a frame of the slowest child so far."""
        self._lost_one = False
        """A child ended before its work was done."""
        self._steps = Steps(self._purse)
        self._own: set[int] = set()
        """Segments that our child has taken."""
        self._by_others: set[int] = set()
        """Segments that other runs have made since we began."""
        self._looked_at = 0.0
        """When we looked for these, by the clock of `awake_seconds`."""

    @property
    def account(self) -> Account:
        """What this run was expected to take and what it took, so far."""
        return Account(
            estimated_seconds=round(self.estimated_seconds, 1),
            taken_seconds=round(awake_seconds() - self._began, 1),
            gpu_seconds=self._purse.gpu_seconds,
            cost=self._purse.cost,
            device=self._job.device,
            seed=self._job.seed,
            engine_was_warm=self._steps.was_warm,
        )

    def check_budget(self) -> None:
        """Refuse to begin what would spend more than the caller allows.

        Where nothing was measured on this machine, the job begins, and is stopped at the limit.

        Raises:
            BudgetError: with the numbers.
        """
        if self._pending and not self._job.eta_is_guess:
            seconds, doing = self._asking.limited(self._pending)
            self._purse.check(seconds, doing=doing)

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
            self._pending = self._look_at_kept()
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
            doubtful = self._child is not None and is_doubtful(self._child, error)
            self.close()
            if doubtful:
                raise ChildFailedError(f"on a warm engine: {error}") from error
            raise

    def let_rest(self) -> None:
        """The work is done: the child may outlive the job, or do what is left of it."""
        child, loaded = self._child, self._steps.was_warm is not None
        if child is not None and not (loaded and let_rest(child, self._plan, self._job.device)):
            self._child = pass_on(child, self._job.device, is_idle=self._is_idle)
        self.close()

    def close(self) -> None:
        """End the child, if any."""
        child, self._child = self._child, None
        if self._pace is not None:
            self._slowest, self._pace = self._pace.slowest, None
        if child is not None:
            self._lost_one = True
            child.close()
        self._purse.rest()

    def _start_child(self) -> None:
        """Start a child on all pending segments, if none runs; a warm one, if it can begin."""
        if self._child is not None:
            return
        engine = self._asking.needs_engine(self._pending)
        warm = attach(self._plan, self._job.device) if engine and not self._lost_one else None
        try:
            self._load(child_for(self._job.device, warm))
        except SeedVR2Error as error:
            if warm is None or isinstance(error, DeadlineError | BudgetError):
                raise
            current().log(f"the warm engine cannot begin, a fresh one is loaded: {error}")
            self.close()
            self._load(Child(log=current().log))

    def _load(self, child: Child) -> None:
        """Ask a child for all pending segments, and wait until its engine is loaded.

        It loads none if others make or have made all of them.
        """
        self._child, self._own, self._is_idle = child, set(), False
        child.send(self._asking.request(self._pending, get_settings()))
        self._steps.begin(needs_engine=self._asking.needs_engine(self._pending))
        self._show(LOAD, STARTING)
        while self._pace is None:
            event = self._next_event(self._load_stall, "loading the engine")
            self._steps.note(event, None)
            match event:
                case Ready() | CodingAgain():
                    share = self._asking.engine_share(self._pending)
                    self._pace = Pace(
                        self._plan,
                        pending_frames=self._pending_frames(),
                        slowest=self._slowest,
                        num_frames=self._job.num_frames,
                        engine_share=1.0 if isinstance(event, Ready) else share,
                    )
                case Waiting(whom=whom):
                    self._look_at_others()
                    self._show(WAIT, f"waiting for {whom}")
                case Taken(segments=segments):
                    self._own |= set(segments)
                case Idle():
                    self._all_is_made()
                    return
                case Heartbeat() as beat:
                    self._show(LOAD, load_detail(beat))
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
        self._steps.note(event, pace)
        match event:
            case SegmentDone(segment=segment):
                pace.committed(self._plan.segments[segment].num_frames)
                self._pending = [k for k in self._pending if k != segment]
                self._purse.save()
                if not self._pending:
                    self._learn(pace)
                elif pace.work > pace.kept_frames and not self._steps.coding:
                    self._check_next(pace)
            case Taken(segments=segments):
                self._own |= set(segments)
            case Waiting(whom=whom):
                pace.rest()
                self._show(WAIT, f"waiting for {whom}")
            case Progressed() as progress:
                pace.note(progress)
                self._show(pace.phase, self._steps.detail)
            case Heartbeat(phase="check", done=done, total=total) if total:
                pace.checked(done)
                self._show(ENCODE, f"{done} of {counted(total, 'frame')} checked")
            case Heartbeat():
                self._show(pace.phase, self._steps.detail)
            case Idle():
                self._all_is_made()

    def _learn(self, pace: Pace) -> None:
        """Correct what is known of this machine, if it has made the whole job."""
        if not (self._by_others or self._steps.coded or self._job.preview):
            learn(self._plan, pace, get_settings())

    def _all_is_made(self) -> None:
        """The child has ended its work: others have made what it did not.

        Raises:
            ChildFailedError: nobody has.
        """
        self._is_idle = True
        if self._helps:
            return
        self._pending = self._look_at_kept() if self._pending else []
        if self._pending:
            raise ChildFailedError(
                f"the child has ended its work without segment {self._pending[0]}"
            )

    def _look_at_others(self) -> None:
        """Note what others have made, at most once a second, if it is known what our child has."""
        ahead = self._child is not None and self._child.is_ahead
        if ahead or awake_seconds() - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = awake_seconds()
        folder = self._job_dir.segments_path
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
        for index in [k for k in self._pending if k not in self._own]:
            segment = self._plan.segments[index]
            if self._job_dir.sidecar_path(index).name not in there:
                continue
            told = current().still_alive
            if read_segment(self._job_dir, self._plan, segment, on_bytes=told) is not None:
                self._pending.remove(index)
                self._by_others.add(index)
                if self._pace is not None:
                    self._pace.others += segment.num_frames

    def _check_next(self, pace: Pace) -> None:
        """Stop between two segments if the next one would not fit into what the caller allows.

        Raises:
            BudgetError: with the numbers.
        """
        frames = self._plan.segments[self._pending[0]].num_frames
        made = pace.frames - self._kept_frames()  # of the next one, while the last was encoded
        per_frame = pace.seconds / max(1e-9, pace.work - pace.kept_frames)
        left = max(0, frames - max(0, made)) * per_frame
        self._purse.check(left, doing=f"segment {self._pending[0]}")

    def _next_event(self, stall_seconds: float, doing: str) -> Event:
        """The child's next event, under the stall limit and the limits of the job."""
        assert self._child is not None
        self._purse.keep()
        deadline = min(self._deadline, awake_seconds() + max(0.0, self._purse.left))
        try:
            return self._child.next_event(
                stall_seconds=stall_seconds, deadline=deadline, doing=doing
            )
        except DeadlineError as error:
            if self._purse.left <= 0:
                raise self._purse.used_up(doing) from error
            raise DeadlineError(
                f"the job passed the limit of {self._job.job_limit_seconds:g} s that "
                f"SEEDVR2_JOB_SECONDS sets, while {doing}; finished segments are kept: set a "
                "larger one, or none, and run it again to go on"
            ) from error

    @property
    def _stall(self) -> float:
        """The stall limit in force."""
        if self._steps.loading:  # the engine is loaded after what had masters
            return self._load_stall
        return self._job.stall_limit_seconds * self._patience.factor

    @property
    def _load_stall(self) -> float:
        """The same while the engine is loaded."""
        return self._plan.limits.load * self._patience.factor

    def _look_at_kept(self) -> list[int]:
        """Segments that are to be made; those that are kept are read, with signs of life."""
        told, only = current().still_alive, self._job.segments
        return pending_segments(self._job_dir, self._plan, only=only, on_bytes=told)

    def _pending_frames(self) -> int:
        return sum(self._plan.segments[k].num_frames for k in self._pending)

    def _measures(self) -> Measures:
        """What the work is measured by."""
        done = self._job.num_segments - len(self._pending)
        return measures_of(
            self._pace,
            self._purse,
            segment=min(done + 1, self._job.num_segments),
            estimated_seconds=self.estimated_seconds,
        )

    def _kept_frames(self) -> int:
        return self._job.num_frames - self._pending_frames()

    def _show(self, phase: str, detail: str = "") -> None:
        """Pass progress on."""
        pace = self._pace
        if pace is not None:
            pace.hands = current().hands
        current().progress(
            phase=phase,
            frames=pace.frames if pace else self._kept_frames(),
            num_frames=self._job.num_frames,
            work=pace.work if pace else None,
            stall_seconds=self._stall if pace else self._load_stall,
            seconds_left=pace.seconds_left if pace else None,
            within=None if self._deadline == inf else self._deadline - awake_seconds(),
            detail=detail,
            measures=self._measures(),
        )
