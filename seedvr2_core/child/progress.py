"""Adds up how far the work is, from what the engine and the encoder report.

A heartbeat says that something is alive. `Progressed` says that finished work has become more: the
watchdog ends a child that beats and never gets ahead, and people see a bar that moves.
"""

import threading
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

from seedvr2_core.child.protocol import (
    BEAT_SECONDS,
    Event,
    Heartbeat,
    Progressed,
    encode_event,
)
from seedvr2_core.files.reading import OnBytes, no_bytes

PROGRESS_SECONDS = 0.2
"""Shortest time between two `Progressed`."""
SHARES: Mapping[str, tuple[float, float]] = {
    "restore encode": (0.0, 0.25),
    "restore dit": (0.25, 0.7),
}
"""Phases of an engine that works on a whole piece before its first frame comes out, each with the
share of the piece's work before it and after it. The rest belongs to the frames themselves, as they
are decoded. The shares are assumed; they only decide how evenly the bar moves."""


class Events(Protocol):
    """Is told of the progress; an `Emitter` in the child."""

    def emit(self, event: Event) -> None:
        """Send an event."""

    def beat(self, phase: str, done: int, total: int) -> None:
        """Send a heartbeat; the receiver may drop it if it comes too soon after the last one."""


def alive_while_reading(events: Events) -> OnBytes:
    """Signs of life while whole files are read and hashed: a segment may have gigabytes."""

    def told(done: int, total: int) -> None:
        del done, total  # of one file of many
        events.beat("hash", 0, 0)

    return told


def alive_in(phase: str, events: Events) -> OnBytes:
    """Signs of life at reads that say nothing about how far a phase is; "": there is no phase."""

    def told(done: int, total: int) -> None:
        del done, total  # of a header
        events.beat(phase, 0, 0)

    return told if phase else no_bytes


class ProgressCount:
    """Counts frames over all passes of a child; the engine's and the encoder's thread share it."""

    def __init__(self, events: Events, *, num_frames: int = 0) -> None:
        """Count up to `num_frames`, the frames of all segments that the child has taken."""
        self._events, self._num_frames = events, num_frames
        self._lock = threading.Lock()
        self._told_at = 0.0
        self._before_piece = 0
        """Frames restored before the piece at hand."""
        self._piece, self._out, self._share = 0, 0, 0.0
        """Frames of the piece at hand, how many of them are out, and what was done before those."""
        self._encoded = 0

    def take(self, num_frames: int) -> None:
        """The child has taken segments with so many frames more."""
        with self._lock:
            self._num_frames += num_frames

    def begin_pass(self, *, pending: int) -> None:
        """Begin a pass over the segments that are left.

        Args:
            pending: their frames. After a step down a ladder some count a second time.
        """
        with self._lock:
            self._before_piece = self._encoded = self._num_frames - pending
            self._piece, self._out, self._share = 0, 0, 0.0

    def begin_piece(self, num_frames: int) -> None:
        """Begin a piece of so many frames; the one before is finished."""
        with self._lock:
            self._before_piece += self._piece
            self._piece, self._out, self._share = num_frames, 0, 0.0

    def beat(self, phase: str, done: int, total: int) -> None:
        """A heartbeat of the engine, passed on; some phases also count as part of the piece."""
        self._events.beat(phase, done, total)
        if phase in SHARES and total:
            before, after = SHARES[phase]
            with self._lock:
                self._share = max(self._share, before + (after - before) * done / total)
            self._tell()

    def frame_restored(self) -> None:
        """The engine has made a frame."""
        with self._lock:
            self._out += 1
        self._tell(now=self._out == self._piece)

    def frame_encoded(self) -> None:
        """A frame has left the encoder."""
        with self._lock:
            self._encoded += 1
        self._tell(now=self._encoded == self._num_frames)

    def _tell(self, *, now: bool = False) -> None:
        """Send the numbers, unless that was done a moment ago; `now`: in any case."""
        at = time.monotonic()
        with self._lock:
            if not now and at - self._told_at < PROGRESS_SECONDS:
                return
            self._told_at = at
            share = self._share + (1 - self._share) * self._out / max(1, self._piece)
            event = Progressed(
                restored=self._before_piece + self._out,
                work=round(self._before_piece + share * self._piece, 3),
                encoded=self._encoded,
            )
        self._events.emit(event)


class Emitter:
    """Writes the child's events to the parent; its working threads share one."""

    def __init__(self, stream: TextIO) -> None:
        """Write to this stream, a line per event."""
        self._stream = stream
        self._lock = threading.Lock()
        self._last_beat: dict[str, float] = {}
        self._last_told: dict[str, tuple[int, int]] = {}

    def emit(self, event: Event) -> None:
        """Send one event."""
        line = encode_event(event)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def beat(self, phase: str, done: int, total: int) -> None:
        """Send a heartbeat; at most one per `BEAT_SECONDS` and phase, and that of its end.

        The others are dropped.
        """
        now, told = time.monotonic(), (done, total)
        at_the_end = done == total and self._last_told.get(phase) != told
        if at_the_end or now - self._last_beat.get(phase, 0.0) >= BEAT_SECONDS:
            self._last_beat[phase], self._last_told[phase] = now, told
            self.emit(Heartbeat(phase=phase, done=done, total=total))
