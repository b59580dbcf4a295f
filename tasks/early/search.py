"""Looks for the cuts of a long video in a child of its own, while another child restores.

A SeedVR2 model needs the cuts, and to find them all the whole video is decoded. But those of the
first minute are settled as soon as that minute was looked at, so the segments there can be made
then. The search runs on the processor: with a GPU, the memory there is the engine's.
"""

from dataclasses import dataclass
from pathlib import Path

from prefect.runtime import deployment

from seedvr2_core.child.protocol import FindCuts, Heartbeat
from seedvr2_core.errors import SeedVR2Error, SegmentError
from seedvr2_core.files import read_record
from tasks.child import Child
from tasks.child.operation import STALL_SECONDS, STARTING, drop_engine
from tasks.run import current
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings

SEARCH_DEVICE = "cpu"
FIRST_MARK = 1500
"""Frames of which the cuts are waited for before the first segments are made: about a minute."""
LEAST_MARKS = 8
"""A video that is shorter than so many times this is looked through first: its search is short."""


class CutsUnknownError(Exception):
    """The search has failed, and is to be made again in the ordinary way, with its retries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The cuts of a video's beginning, which are those of the whole video."""

    until: int
    """Frame up to which they are all."""
    path: Path
    """A `CutList`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Detected:
    """What we need of a file of cuts first."""

    detector: str


def may_begin_early(request: UpscaleRequest, settings: Settings) -> bool:
    """Whether a job may be begun before its cuts are known, if its video is long.

    A deployed job is not: others find the cuts for it. Nor is one that shares its work or its
    pieces with others, and none that can be planned with all cuts alone: a part of a film, and
    `lab`, which refuses long shots.
    """
    shares = settings.store is not None or request.keep_master or request.max_workers > 1
    in_part = request.preview or request.start or request.end
    return not (deployment.id or shares or in_part or request.color_correction == "lab")


def marks_of(num_frames: int) -> tuple[int, ...]:
    """Frames up to which the cuts are told while the search goes on; none of a short video."""
    if num_frames < LEAST_MARKS * FIRST_MARK:
        return ()
    doublings = range((num_frames // FIRST_MARK).bit_length())
    return tuple(mark for k in doublings if (mark := FIRST_MARK << k) < num_frames)


class EarlySearch:
    """The child that looks for the cuts; it ends with the `with` block."""

    def __init__(self, request: FindCuts) -> None:
        """Start it. Who waits for the first mark hears of its progress."""
        self._request, self._last = request, 0
        self._done = False
        current().progress(phase=request.phase, detail=STARTING, stall_seconds=STALL_SECONDS)
        self._child = Child(log=current().log)
        self._child.send(request)

    def __enter__(self) -> "EarlySearch":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def check(self) -> None:
        """Take in what the child has said; it waits for nothing.

        Raises:
            CutsUnknownError: it has failed.
        """
        while not self._done and (self._child.is_ahead or not self._child.alive):
            self._hear(shown=False)

    def more(self) -> Settled | None:
        """Wait until more cuts are settled than at the last call; None: the search is done.

        What an earlier run has found out counts, so that it is not waited for a second time.

        Raises:
            CutsUnknownError: it has failed.
        """
        while True:
            self.check()
            if self._done:
                return None
            there = [mark for mark in self._request.marks if mark > self._last and self._is(mark)]
            if there:
                self._last = there[-1]
                return Settled(until=self._last, path=self._request.settled_path(self._last))
            drop_engine()  # no device is held while there is nothing to do
            self._hear(shown=True)

    def _is(self, mark: int) -> bool:
        """Whether today's detector has settled the cuts up to a mark."""
        path = self._request.settled_path(mark)
        try:
            return read_record(path, _Detected).detector == self._request.settled_by(mark)
        except (FileNotFoundError, SegmentError):
            return False

    def _hear(self, *, shown: bool) -> None:
        """Wait for the next thing that the child says."""
        try:
            event = self._child.next_event(
                stall_seconds=STALL_SECONDS, doing="looking for cuts while restoring"
            )
        except SeedVR2Error as error:
            raise CutsUnknownError(str(error)) from error
        if shown and isinstance(event, Heartbeat):
            current().beat(event.phase, event.done, event.total, stall_seconds=STALL_SECONDS)
        if self._request.is_answered_by(event):
            self._done = True
            self._child.close()
