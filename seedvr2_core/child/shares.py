"""Takes the segments of a job share by share, where several processes may work on it."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seedvr2_core.child.progress import Events, alive_while_reading
from seedvr2_core.child.protocol import Taken, Waiting
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims, share_of
from seedvr2_core.job.sharing import read_sharing
from seedvr2_core.job.sidecar import read_segment, remove_leftovers
from seedvr2_core.planning import Plan, Segment
from seedvr2_core.planning.outline import outline_of

logger = logging.getLogger(__name__)
_LOOK_SECONDS = 0.25
"""Time between two looks while others make all that is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a process is to do of a job."""

    indices: tuple[int, ...]
    """Segments that were not finished when the work was asked for, rising."""
    workers: int = 1
    """By how many processes the job is shared; 1: the first share is all there is."""
    helps: str = ""
    """Id of the run that the process helps, for as long as that run wants it; "": it is that run's
    own, and waits for what the others make."""
    waits: bool = False
    """A helper waits too while nothing is free, for as long as that run wants help."""
    left_out: tuple[int, ...] = ()
    """Segments that are not finished, and that nobody was asked for."""


class Shares:
    """The shares of one process, each a list of segments that nobody else makes meanwhile."""

    def __init__(
        self,
        plan: Plan,
        job_dir: JobDir,
        claims: Claims,
        work: Work,
        events: Events,
    ) -> None:
        """Take nothing yet.

        Args:
            plan: of the job.
            job_dir: of the job.
            claims: this process's.
            work: what it is to do.
            events: is told what was taken, and that it waits.
        """
        self._plan, self._outline = plan, outline_of(plan)
        self._job_dir, self._claims = job_dir, claims
        self._workers, self._helps, self._events = work.workers, work.helps, events
        self._waits = work.waits or not work.helps
        self._left = list(work.indices)
        """Not known to be finished."""
        self._left_out = work.left_out
        self.held: list[int] = []
        """The share at hand."""

    @property
    def elsewhere(self) -> set[int]:
        """Segments that are not finished and not in the share at hand."""
        return {*self._left, *self._left_out} - set(self.held)

    def __iter__(self) -> Iterator[list[Segment]]:
        """One share after another, which must be finished before the next is asked for.

        A helper ends when nothing is free, or when no help is wanted. The run's own process waits
        for the others, and takes what they leave undone.
        """
        while True:
            if self._take():
                yield [self._plan.segments[index] for index in self.held]
                self._left = [index for index in self._left if index not in self.held]
                self._release(self.held)
            elif not self._left or not self._waits or self._is_dismissed():
                return
            else:
                self._events.emit(Waiting(whom=self._others()))
                time.sleep(_LOOK_SECONDS)

    def _take(self) -> bool:
        """Take the next share; False if nothing is free, or if no help is wanted any more."""
        while free := self._free():
            for index in share_of(self._outline, free, workers=self._workers):
                if not self._claims.take(index):
                    break  # somebody was faster
                self.held.append(index)
            self._release([index for index in self.held if self._is_finished(index)])
            # Asked after the sidecars: they are removed only after the run at work said so.
            if self._is_dismissed():
                self._release(self.held)
                self._left = []
            elif self.held:
                remove_leftovers(self._job_dir, self.held, of_job=False)
                self._events.emit(Taken(segments=tuple(self.held)))
                return True
        return False

    def _is_dismissed(self) -> bool:
        """Whether this is a helper, and the run that it helps wants none any more."""
        return bool(self._helps) and read_sharing(self._job_dir, self._helps) is None

    def _free(self) -> list[int]:
        """Segments that are neither finished nor taken."""
        self._left = [index for index in self._left if not self._is_finished(index)]
        taken = self._claims.taken_by_others(self._left)
        return [index for index in self._left if index not in taken]

    def _is_finished(self, index: int) -> bool:
        segment = self._outline.segments[index]
        alive = alive_while_reading(self._events)
        return read_segment(self._job_dir, self._outline, segment, on_bytes=alive) is not None

    def _release(self, indices: Sequence[int]) -> None:
        gone = set(indices)
        self._claims.release(gone)
        self.held = [index for index in self.held if index not in gone]

    def _others(self) -> str:
        """Who makes what is left, in words."""
        first, last = self._left[0], self._left[-1]
        which = f"segment {first}" if first == last else f"segments {first} to {last}"
        return f"the helpers that make {which}"
