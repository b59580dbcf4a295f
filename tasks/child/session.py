"""The segments of a job while they are made: the child that makes them, and who waits for them.

One child makes all pending segments of a job, one after another. The flow opens the watch over it,
and each task run of the job waits there for its own segment (`tasks/inference.py`). Where the job
is shared, other runs make some of the segments, each with a child of its own (`Helper`); what they
have made is found by its sidecar (`pending.py`).
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
from seedvr2_core.job import JobDir
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.words import counted
from tasks.child.asking import Asking, Steps
from tasks.child.awake import awake_seconds
from tasks.child.guard import Child, WaitLimits
from tasks.child.operation import STARTING, child_for, load_detail, pass_on
from tasks.child.pace import ENCODE, RESTORE, Pace, measures_of
from tasks.child.patience import Patience
from tasks.child.pending import PendingSegments
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
        self._pending = PendingSegments(job, self._plan)
        self.source = job.source
        there = set(job.segments).difference(self._pending.indices)
        self.kept = KeptWork(
            segments=len(there),
            frames=self._pending.kept_frames,
            previewed=0 if job.preview else count_previewed(self._job_dir, there),
        )
        self._began = awake_seconds()
        self._asking = Asking(job, self._plan, workers=workers, helps=helps, divided=divided)
        self.estimated_seconds = self._asking.seconds(self._pending.indices)
        """What this run is expected to take, from now to the stored output."""
        self._purse = Purse(job, get_settings(), clock=awake_seconds, helper=helper)
        limit = job.job_limit_seconds  # an operator's
        self._deadline = inf if limit is None else awake_seconds() + limit - job.early_seconds
        self._patience = Patience(self._job_dir, fixed=get_settings().stall_seconds is not None)
        self._child: Child | None = None
        self._pace: Pace | None = None
        """Of the running child, from when its engine is loaded."""
        self._slowest = 0.0
        """Seconds of a frame of the slowest child so far."""
        self._lost_one = False
        """A child ended before its work was done."""
        self._steps = Steps(self._purse)

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
            seconds, doing = self._asking.limited(self._pending.indices)
            self._purse.check(seconds, doing=doing)

    def is_done(self, index: int) -> bool:
        """Whether the segment is finished and on disk."""
        return index not in self._pending.indices

    def look_again(self) -> None:
        """Before a wait: a child that was lost may have made more than it could tell."""
        if self._lost_one and self._child is None:
            self._pending.look_again()

    @contextlib.contextmanager
    def guarded(self, doing: str) -> Iterator[tuple[Child, WaitLimits]]:
        """The child at work, and the limits of one wait for its next event, for the `with` block.

        A child is started on all pending segments if none runs. It is ended if the block does not
        end well: also on a cancellation or Ctrl-C. Only where a warm engine cannot begin, the block
        just ends, and the next one has a fresh child.

        Args:
            doing: what is waited for, in words.

        Raises:
            StalledError: the child hangs. The next one may be silent for longer.
            DeadlineError: the operator's limit of the job was passed.
            BudgetError: the caller's was.
            SeedVR2Error: what the block has raised.
        """
        limits = WaitLimits(doing=doing, stall_seconds=inf, deadline=inf)
        try:
            child = self._child or self._start_child()
            self._purse.keep()
            limits = self._limits(doing)
            yield child, limits
            self._check_motion(limits)
        except BaseException as error:
            if self._is_warm_and_cannot_begin(error):
                current().log(f"the warm engine cannot begin, a fresh one is loaded: {error}")
                self.close()
                return
            if isinstance(error, StalledError):
                self._patience.lost()
            told = self._in_words_of_the_job(error, limits)
            self.close()
            if told is error:
                raise
            raise told from error

    def let_rest(self) -> None:
        """The work is done: the child may outlive the job, or do what is left of it."""
        child, loaded = self._child, self._steps.was_warm is not None
        if child is not None and not (loaded and let_rest(child, self._plan, self._job.device)):
            goes_on = self._job.early is not None
            self._child = pass_on(child, self._job.device, is_idle=self._is_idle, goes_on=goes_on)
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

    def _start_child(self) -> Child:
        """Ask a child for all pending segments: a warm one, if there is one and none was lost.

        It loads no engine if others make or have made all of them.
        """
        pending = self._pending.indices
        engine = self._asking.needs_engine(pending)
        warm = attach(self._plan, self._job.device) if engine and not self._lost_one else None
        self._child, self._is_idle = child_for(self._job.device, warm), False
        self._pending.child_begins()
        self._child.send(self._asking.request(pending, get_settings()))
        self._steps.begin(needs_engine=engine)
        self._show(LOAD, STARTING)
        return self._child

    def _is_warm_and_cannot_begin(self, error: BaseException) -> bool:
        """Whether an error ends a warm child before its engine was of use to this job."""
        begins_warm = self._pace is None and self._child is not None and self._child.warm
        limits = (DeadlineError, BudgetError)
        return begins_warm and isinstance(error, SeedVR2Error) and not isinstance(error, limits)

    def note(self, event: Event) -> None:
        """Note what an event of the child says."""
        self._steps.note(event, self._pace)
        if self._pace is None:
            self._note_load(event)
            return
        self._note_work(event, self._pace)
        if self._workers > 1 or isinstance(event, Waiting):
            self._look_at_others()

    def _note_load(self, event: Event) -> None:
        """Note what a child says until its engine is loaded, or it has begun without one."""
        match event:
            case Ready() | CodingAgain():
                share = self._asking.engine_share(self._pending.indices)
                self._pace = Pace(
                    self._plan,
                    pending_frames=self._pending.num_frames,
                    slowest=self._slowest,
                    num_frames=self._pending.asked_frames,
                    later_seconds=self._asking.later_seconds,
                    engine_share=1.0 if isinstance(event, Ready) else share,
                )
                self._show(RESTORE)
            case Waiting(whom=whom):
                self._look_at_others()
                self._show(WAIT, f"waiting for {whom}")
            case Taken(segments=segments):
                self._pending.child_takes(segments)
            case Idle():
                self._all_is_made()
            case Heartbeat() as beat:
                self._show(LOAD, load_detail(beat))
            case _:
                pass

    def _note_work(self, event: Event, pace: Pace) -> None:
        """Note what a child says that is at work."""
        match event:
            case SegmentDone(segment=segment):
                pace.committed(self._plan.segments[segment].num_frames)
                self._pending.child_has_made(segment)
                self._purse.save()
                if not self._pending:
                    self._learn(pace)
                elif pace.work > pace.kept_frames and not self._steps.coding:
                    self._check_next(pace)
            case Taken(segments=segments):
                self._pending.child_takes(segments)
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
        only_a_part = self._job.preview or self._job.early is not None
        if not (self._pending.by_others or self._steps.coded or only_a_part):
            learn(self._plan, pace, get_settings())

    def _all_is_made(self) -> None:
        """The child has ended its work: others have made what it did not.

        Raises:
            ChildFailedError: nobody has.
        """
        self._is_idle = True
        if self._helps:
            return
        if self._pending:
            self._pending.look_again()
        if self._pending:
            first = self._pending.indices[0]
            raise ChildFailedError(f"the child has ended its work without segment {first}")

    def _look_at_others(self) -> None:
        """Note what others have made, if it is known what our child has."""
        if self._child is not None and self._child.is_ahead:
            return
        frames = self._pending.look_at_others()
        if self._pace is not None:
            self._pace.others += frames

    def _check_next(self, pace: Pace) -> None:
        """Stop between two segments if the next one would not fit into what the caller allows.

        Raises:
            BudgetError: with the numbers.
        """
        index = self._pending.indices[0]
        frames = self._plan.segments[index].num_frames
        made = (
            pace.frames - self._pending.kept_frames
        )  # of the next one, while the last was encoded
        per_frame = pace.seconds / max(1e-9, pace.work - pace.kept_frames)
        left = max(0, frames - max(0, made)) * per_frame
        self._purse.check(left, doing=f"segment {index}")

    def _limits(self, doing: str) -> WaitLimits:
        """The limits of one wait: that of silence, and those of the job."""
        loading = self._pace is None
        return WaitLimits(
            doing="loading the engine" if loading else doing,
            stall_seconds=self._load_stall if loading else self._stall,
            deadline=min(self._deadline, awake_seconds() + max(0.0, self._purse.left)),
        )

    def _check_motion(self, limits: WaitLimits) -> None:
        """Make sure that the child not only gives signs of life, but works.

        Raises:
            StalledError: it does not.
        """
        pace = self._pace
        if pace is None or not self._pending:
            return
        still = pace.stands_still(limits["stall_seconds"])
        if still is not None:
            raise StalledError(
                f"no frame, window or slice was finished for {still:.0f} s while "
                f"{limits['doing']}, although the child gave signs of life"
            )

    def _in_words_of_the_job(self, error: BaseException, limits: WaitLimits) -> BaseException:
        """The error to raise for one that has ended a wait: which limit it was, or the same."""
        if self._child is not None and is_doubtful(self._child, error):
            return ChildFailedError(f"on a warm engine: {error}")
        in_time = awake_seconds() <= limits["deadline"]
        if in_time or isinstance(error, BudgetError) or not isinstance(error, DeadlineError):
            return error
        if self._purse.left <= 0:
            return self._purse.used_up(limits["doing"])
        return DeadlineError(
            f"the job passed the limit of {self._job.job_limit_seconds:g} s that "
            f"SEEDVR2_JOB_SECONDS sets, while {limits['doing']}; finished segments are kept: set "
            "a larger one, or none, and run it again to go on"
        )

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

    def _measures(self) -> Measures:
        """What the work is measured by."""
        done = len(self._job.segments) - len(self._pending.indices)
        return measures_of(
            self._pace,
            self._purse,
            segment=min(done + 1, self._job.num_segments),
            estimated_seconds=self.estimated_seconds,
        )

    def _show(self, phase: str, detail: str = "") -> None:
        """Pass progress on."""
        pace = self._pace
        if pace is not None:
            pace.hands = current().hands
        current().progress(
            phase=phase,
            frames=pace.frames if pace else self._pending.kept_frames,
            num_frames=self._job.num_frames,
            work=pace.work if pace else None,
            stall_seconds=self._stall if pace else self._load_stall,
            seconds_left=pace.seconds_left if pace else None,
            within=None if self._deadline == inf else self._deadline - awake_seconds(),
            detail=detail,
            measures=self._measures(),
        )
