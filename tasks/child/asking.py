"""What the child of a job is asked for, and what that takes: from masters, or with the engine."""

from collections.abc import Sequence

from seedvr2_core.child.protocol import CodingAgain, Event, Ready, Restore, Waiting
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import wanted_masters
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.timing import job_seconds
from tasks.child.pace import Pace, frame_seconds_of
from tasks.child.preview import unfinished_others
from tasks.child.warm import make_way
from tasks.run.spending import Purse
from tasks.schemas import PlannedJob
from tasks.settings import Settings


class Asking:
    """Knows which segments of a job have masters, as far as it was looked at them."""

    def __init__(
        self,
        job: PlannedJob,
        plan: PlanOutline,
        *,
        workers: int = 1,
        helps: str = "",
        divided: bool = False,
    ) -> None:
        """Read what the run at work has written down of masters; else as `SegmentWatch`."""
        self._job, self._plan = job, plan
        self._workers, self._helps, self._divided = workers, helps, divided
        wanted = wanted_masters(JobDir(job.job_dir))
        self._ready = frozenset(wanted.ready) if wanted is not None else frozenset[int]()

    def request(self, pending: Sequence[int], settings: Settings) -> Restore:
        """The request for all pending segments.

        Where the job is divided between machines, the child takes all that is free here at once.
        """
        return Restore(
            job_dir=self._job.job_dir,
            source=self._job.source.path,
            device=self._job.device,
            weights_dir=settings.weights_folder,
            lock_dir=settings.locks_dir,
            segments=tuple(pending),
            left_out=unfinished_others(self._job, self._plan),
            workers=1 if self._divided else self._workers,
            helps=self._helps,
            waits=self._divided,
        )

    def needs_engine(self, pending: Sequence[int]) -> bool:
        """Whether some of the segments have no master, so that the device is needed."""
        return not self._ready.issuperset(pending)

    def engine_share(self, pending: Sequence[int]) -> float:
        """How much of the segments' frames an engine makes, 0 to 1."""
        left = [index for index in pending if index not in self._ready]
        return self._frames(left) / max(1, self._frames(pending))

    def seconds(self, pending: Sequence[int]) -> float:
        """What they are expected to take, from now to the stored output."""
        frames = self._frames(pending)
        coded = frames - self._frames([index for index in pending if index not in self._ready])
        return job_seconds(frame_seconds_of(self._plan), frames, coded=coded)

    def device_seconds(self, pending: Sequence[int]) -> float:
        """For how long of that the device is held; 0 if all of them have masters."""
        return self.seconds(pending) if self.needs_engine(pending) else 0.0

    def limited(self, pending: Sequence[int]) -> tuple[float, str]:
        """Seconds that the caller's limit is held against before anything is made, and of what.

        A preview is to show what the limit will say to the whole job.
        """
        if self._job.preview is not None:
            return self._job.preview.whole_seconds, "the whole job"
        return self.device_seconds([*pending, *self._later]), "what is left"

    @property
    def later_seconds(self) -> float:
        """What those segments are expected to take that wait until all cuts are known."""
        return frame_seconds_of(self._plan).seconds * self._frames(self._later)

    @property
    def _later(self) -> list[int]:
        if self._job.early is None:
            return []
        asked = set(self._job.segments)
        return [segment.index for segment in self._plan.segments if segment.index not in asked]

    def _frames(self, indices: Sequence[int]) -> int:
        return sum(self._plan.segments[index].num_frames for index in indices)


class Steps:
    """Which step a child is at: it codes from masters, loads the engine, or restores with it.

    The job holds its device from the start of the load on, but while the child waits for it.
    """

    def __init__(self, purse: Purse) -> None:
        """No child runs."""
        self._purse = purse
        self.coding = False
        """Segments are coded from masters."""
        self.loading = False
        """The engine is being loaded."""
        self.coded = False
        """A child has coded from masters, which says nothing of the engine's speed."""
        self.was_warm: bool | None = None
        """Whether an earlier job had loaded the engine; None: none was needed."""

    @property
    def detail(self) -> str:
        """What people are told of the step beside the count of frames."""
        return "coded from the master" if self.coding else ""

    def begin(self, *, needs_engine: bool) -> None:
        """A child begins."""
        self.coding, self.loading = False, needs_engine
        if needs_engine:
            self._purse.hold()

    def note(self, event: Event, pace: Pace | None) -> None:
        """Note what an event says about the step."""
        match event:
            case CodingAgain(active=active):
                self.coding, self.loading, self.coded = active, not active, True
                self._purse.rest()
            case Ready(warm=warm):
                self.was_warm, self.coding, self.loading = warm, False, False
                self._purse.hold()
            case Waiting(lock=lock):
                if self.loading:
                    self._purse.rest()
                if lock:
                    make_way(lock)
            case _ if self.loading:
                self._purse.hold()
                if pace is not None:
                    pace.rest()
            case _:
                pass
