"""How fast a child gets ahead: frames done, time left, and whether it has stopped getting ahead."""

from dataclasses import replace

from seedvr2_core.child.protocol import Progressed
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.plan import FrameSeconds
from seedvr2_core.planning.timing import FINISH_SECONDS, progress_limit, report_seconds
from tasks.child.awake import awake_seconds
from tasks.child.time_left import Sway, WorkSoFar, done_share, seconds_left, seconds_left_range
from tasks.run.measures import Measures
from tasks.run.spending import Purse
from tasks.settings import get_settings

RESTORE, ENCODE = "restore", "encode"
"""Phases of the record while segments are made. In ENCODE all frames are restored, and the encoder
has yet to give out the last ones."""


def frame_seconds_of(plan: PlanOutline) -> FrameSeconds:
    """Predicted seconds of a frame; plans of earlier versions have only the whole time."""
    if plan.frame_seconds is not None:
        return plan.frame_seconds
    per_frame = plan.eta_seconds / max(1, plan.num_frames)
    mpx = plan.width * plan.height / 1e6
    return FrameSeconds(engine=per_frame, encoder=0.0, beside=True, mpx=mpx)


class Pace:
    """The progress of one child, from when its engine is ready."""

    def __init__(
        self,
        plan: PlanOutline,
        *,
        pending_frames: int,
        slowest: float = 0.0,
        engine_share: float = 1.0,
        num_frames: int | None = None,
        later_seconds: float = 0.0,
    ) -> None:
        """Count from now on.

        Args:
            plan: of the job.
            pending_frames: frames of the segments that the child was asked for.
            slowest: seconds of a frame that an earlier child of the job took.
            engine_share: how much of them an engine makes; the rest is coded from masters.
            num_frames: frames of all segments that are wanted; None: of the whole job.
            later_seconds: predicted for what other children make of it afterwards.
        """
        self._plan, self.pending_frames = plan, pending_frames
        self._later_seconds = later_seconds
        self._num_frames = num_frames or plan.num_frames
        self.kept_frames = self._num_frames - pending_frames
        """Frames that were finished before this child began."""
        frame = frame_seconds_of(plan)
        self._frame = replace(frame, engine=frame.engine * engine_share)
        self._slowest = max(slowest, frame.seconds)
        self._began = self._moved_at = awake_seconds()
        self._now = Progressed(restored=0, work=0.0, encoded=0)
        self._checked = self._of_last = 0
        self._most_work = 0.0
        self._sway = Sway()
        self.others = 0
        """Frames of the pending ones that other runs have made."""
        self.hands = 1
        """How many runs work on the job now, this one included."""

    def rest(self) -> None:
        """The child waits for others: standing still is no fault of its own."""
        self._moved_at = awake_seconds()

    def note(self, progress: Progressed) -> None:
        """Take what the child says."""
        self._now = progress
        if progress.work + progress.encoded / 1e6 > self._most_work:
            self._most_work = progress.work + progress.encoded / 1e6
            self._moved_at = awake_seconds()
            self._sway.note(awake=self.seconds, done=self._at.done(self._frame))

    def committed(self, num_frames: int) -> None:
        """Note that a segment of the child's own was checked and has its place."""
        self._checked, self._of_last = self._checked + num_frames, 0

    def checked(self, num_frames: int) -> None:
        """Note how many frames of the last segment are checked: nothing else goes on meanwhile."""
        self._of_last = num_frames

    @property
    def frames(self) -> int:
        """Restored frames of the job."""
        return self.kept_frames + self.others + self._now.restored

    @property
    def phase(self) -> str:
        """What is shown; the engine's own phases follow each other too fast to be read."""
        return RESTORE if self.frames < self._num_frames else ENCODE

    @property
    def work(self) -> float:
        """Work done for the job, in frames: a frame is whole when it is restored and encoded."""
        share = done_share(self._frame, replace(self._at, num_frames=self.pending_frames))
        return self.kept_frames + self.others + share * self.pending_frames

    @property
    def seconds(self) -> float:
        """Awake seconds since the engine was ready."""
        return awake_seconds() - self._began

    @property
    def slowest(self) -> float:
        """Seconds of a frame: predicted, or as measured, whichever is more.

        Measured up to the last progress, so that standing still does not count as being slow.
        """
        if self._most_work < 1:
            return self._slowest
        return max(self._slowest, (self._moved_at - self._began) / self._most_work)

    @property
    def seconds_left(self) -> float:
        """Seconds until the run ends: the job's output is stored and its report is made."""
        left = seconds_left(self._frame, self._at)
        return left + self._rest(left)

    @property
    def seconds_left_range(self) -> tuple[float, float]:
        """The least and the most that `seconds_left` may be."""
        rest = self._rest(seconds_left(self._frame, self._at))
        return seconds_left_range(self._frame, self._at, rest=rest, sway=self._sway.deviation)

    @property
    def _at(self) -> WorkSoFar:
        """What is known of the work."""
        return WorkSoFar(
            num_frames=self.pending_frames - self.others,
            work=self._now.work,
            encoded=self._now.encoded,
            checked=min(self._now.encoded, self._checked + self._of_last),
            awake=self.seconds,
            hands=self.hands,
        )

    def _rest(self, left: float) -> float:
        """Predicted seconds beside that work: of what is made later, of the report, if there is
        one, which has a share of the run's time, and of the run's end.
        """
        later = self._later_seconds
        report = report_seconds(self.seconds + left + later) if get_settings().report else 0.0
        return later + report + FINISH_SECONDS

    @property
    def frames_per_second(self) -> float | None:
        """Frames that this child has restored a second so far; None before the first."""
        restored, seconds = self._now.restored, self._moved_at - self._began
        return restored / seconds if restored and seconds > 0 else None

    def stands_still(self, stall_seconds: float) -> float | None:
        """Seconds without any progress, if that is longer than it may be; else None."""
        still = awake_seconds() - self._moved_at
        limit = progress_limit(self._plan, stall_seconds=stall_seconds, per_frame=self.slowest)
        return still if still > limit else None


def measures_of(
    pace: Pace | None, purse: Purse, *, segment: int, estimated_seconds: float
) -> Measures:
    """What the work is measured by.

    Args:
        pace: of the running child; None before its engine is loaded.
        purse: what the job has spent.
        segment: the one at work, counted from 1.
        estimated_seconds: what the run is expected to take.
    """
    low, high = pace.seconds_left_range if pace else (None, None)
    rate = pace.frames_per_second if pace else None
    return Measures(
        segment=segment,
        frames_per_second=None if rate is None else round(rate, 2),
        seconds_left_low=None if low is None else round(low, 1),
        seconds_left_high=None if high is None else round(high, 1),
        estimated_seconds=round(estimated_seconds, 1),
        gpu_seconds=purse.gpu_seconds,
        cost=purse.cost,
    )
