"""Makes those segments of a share that have masters: they are coded again, without an engine."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.child.commit import RestoreJob
from seedvr2_core.child.masters.session import MasterSession
from seedvr2_core.child.pipeline import Pipeline
from seedvr2_core.child.progress import Events, ProgressCount, alive_while_reading
from seedvr2_core.child.protocol import CodingAgain
from seedvr2_core.errors import SegmentError
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import (
    MasterSidecar,
    WantedMasters,
    read_master_sidecar,
    remove_master_parts,
)
from seedvr2_core.job.sidecar import read_segment
from seedvr2_core.planning import Plan, Segment
from seedvr2_core.planning.outline import outline_of

logger = logging.getLogger(__name__)

MISSING = "there is no master of it"
DAMAGED = "its master is damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coder:
    """What a child does with the masters of a job."""

    plan: Plan
    job_dir: JobDir
    source: Path
    wanted: WantedMasters
    events: Events
    progress: ProgressCount

    def code(self, pending: Sequence[Segment]) -> dict[int, str]:
        """Code those segments that have a whole master.

        Returns:
            Of each segment that is left to an engine, why; "" where there are no masters at all.

        Raises:
            SeedVR2Error: a codec or the disk failed. Segments before that are committed.
        """
        remove_master_parts(
            self.wanted.masters, self.plan.job_key, [segment.index for segment in pending]
        )
        if not self.wanted.ready:
            return dict.fromkeys((segment.index for segment in pending), "")
        left = {s.index: self._fault(s.index) for s in pending if s.index not in self.wanted.ready}
        self.events.emit(CodingAgain(active=True))
        whole = self._whole([segment for segment in pending if segment.index not in left])
        left |= {s.index: DAMAGED for s in pending if s.index not in left | whole}
        self.progress.take(self._frames(whole))
        while whole:
            broken = self._code_all(pending, whole)
            if broken is None:
                break
            left[broken] = DAMAGED
            self.progress.take(-self._frames([broken]))  # they are counted with the engine's
            whole = {k: v for k, v in whole.items() if k != broken and not self._is_done(k)}
        for index, why in left.items():
            logger.warning("segment %d is restored anew: %s", index, why)
        if left:
            self.events.emit(CodingAgain(active=False))
        return left

    def _fault(self, index: int) -> str:
        """What is wrong with a master that cannot be used."""
        return DAMAGED if self.wanted.masters.sidecar_path(index).exists() else MISSING

    def _whole(self, segments: Sequence[Segment]) -> dict[int, MasterSidecar]:
        """The masters of these segments whose bytes have the digests that they had."""
        outline, alive = outline_of(self.plan), alive_while_reading(self.events)
        found = {
            segment.index: read_master_sidecar(
                self.wanted.masters, outline, outline.segments[segment.index], on_bytes=alive
            )
            for segment in segments
        }
        return {index: sidecar for index, sidecar in found.items() if sidecar is not None}

    def _code_all(self, pending: Sequence[Segment], whole: dict[int, MasterSidecar]) -> int | None:
        """Code the segments in one pass; returns one whose master could not be read, if any."""
        alive = alive_while_reading(self.events)
        session = MasterSession(self.plan, self.wanted.masters, whole, on_bytes=alive)
        job = RestoreJob(
            plan=self.plan,
            job_dir=self.job_dir,
            source=self.source,
            device_kind="cpu",
            session=session,
            events=self.events,
            progress=self.progress,
            from_masters=whole,
        )
        segments = [segment for segment in pending if segment.index in whole]
        try:
            Pipeline(job).run(segments)
        except (SegmentError, OSError):
            if session.broken is None:
                raise
        return session.broken

    def _frames(self, indices: Iterable[int]) -> int:
        return sum(self.plan.segments[index].num_frames for index in indices)

    def _is_done(self, index: int) -> bool:
        outline = outline_of(self.plan)
        return read_segment(self.job_dir, outline, outline.segments[index]) is not None
