"""The segments of a job that are still to be made, and who has made the others."""

from collections.abc import Iterable

from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.job.sidecar import read_segment
from seedvr2_core.planning.outline import PlanOutline
from tasks.child.awake import awake_seconds
from tasks.run import current
from tasks.schemas import PlannedJob

_LOOK_SECONDS = 1.0
"""Time between two looks for segments that others have made."""


class PendingSegments:
    """Which segments of a job this run has still to make or to wait for."""

    def __init__(self, job: PlannedJob, plan: PlanOutline) -> None:
        """Look which segments are on disk."""
        self._job, self._job_dir, self._plan = job, JobDir(job.job_dir), plan
        self._own: set[int] = set()
        """Segments that our child has taken."""
        self.by_others: set[int] = set()
        """Segments that other runs have made since we began."""
        self._looked_at = 0.0
        """When we looked for these, by the clock of `awake_seconds`."""
        self.indices: list[int] = []
        """The segments, in the order of the film."""
        self.look_again()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.indices)

    @property
    def num_frames(self) -> int:
        """Their frames."""
        return sum(self._plan.segments[index].num_frames for index in self.indices)

    @property
    def asked_frames(self) -> int:
        """Frames of all segments that the run was asked for."""
        return sum(self._plan.segments[index].num_frames for index in self._job.segments)

    @property
    def kept_frames(self) -> int:
        """Frames of those that are made."""
        return self.asked_frames - self.num_frames

    def look_again(self) -> None:
        """Look at the disk: segments that are there are read, with signs of life."""
        told, only = current().still_alive, self._job.segments
        self.indices = pending_segments(self._job_dir, self._plan, only=only, on_bytes=told)

    def child_begins(self) -> None:
        """A child of ours begins, which has taken no segment yet."""
        self._own = set()

    def child_takes(self, indices: Iterable[int]) -> None:
        """Our child makes these: nobody else does."""
        self._own |= set(indices)

    def child_has_made(self, index: int) -> None:
        """Our child has made a segment."""
        self.indices = [k for k in self.indices if k != index]

    def look_at_others(self) -> int:
        """Note what others have made, at most once a second.

        Returns:
            The frames that are new.
        """
        if awake_seconds() - self._looked_at < _LOOK_SECONDS:
            return 0
        self._looked_at = awake_seconds()
        folder = self._job_dir.segments_path
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
        frames = 0
        for index in [k for k in self.indices if k not in self._own]:
            segment = self._plan.segments[index]
            if self._job_dir.sidecar_path(index).name not in there:
                continue
            told = current().still_alive
            if read_segment(self._job_dir, self._plan, segment, on_bytes=told) is not None:
                self.indices.remove(index)
                self.by_others.add(index)
                frames += segment.num_frames
        return frames
