"""Copies the packets of a stream; only their times change."""

import math
from collections.abc import Collection, Iterator
from fractions import Fraction

from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream

from seedvr2_core.video.carry.way import Cut, stands

_MOVED_SECONDS = Fraction(1, 2)
"""By how much a packet may lie before the one before it and still be moved behind it.
Where parts of a recording meet, their streams overlap by about 0.1 s."""
STEP_SECONDS = Fraction(1, 1000)
"""Between packets that had to be moved: more than a tick of any track of an mp4."""


class Copier:
    """Copies packets of a stream.

    Args:
        output: where the stream is added.
        template: the source's stream.
        zero: seconds that become time 0.
        name: of the stream, for notes.
        refused: packets, counted from the stream's first one, that the mp4 does not take.
        cut: the part of the film that is made; packets of sound that reach into it stay whole.
    """

    def __init__(
        self,
        output: OutputContainer,
        template: Stream,
        *,
        zero: Fraction,
        name: str,
        refused: Collection[int] = (),
        cut: Cut | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._name = name
        self._refused = refused
        self._cut = cut
        self._is_text = isinstance(template, SubtitleStream)
        self._out = output.add_stream_from_template(template, opaque=True)
        self._zero = zero
        self._count = 0
        self._last_dts: int | None = None
        self._next_dts = 0
        self._dropped = 0
        self._standing: Packet | None = None
        """The last text before a part that stands until the next one comes."""

    @property
    def stream(self) -> Stream:
        """The stream in the output."""
        return self._out

    def feed(self, packet: Packet) -> "Iterator[Packet]":
        """The packet at its new times; one that goes far back, or is refused, is left out."""
        position, self._count = self._count, self._count + 1
        shift = round(self._zero / packet.time_base)
        if self._cut is not None and not self._reaches(packet, shift):
            is_before = packet.pts is not None and packet.pts < shift
            if is_before and stands(packet) and position not in self._refused:
                self._standing = packet
            return
        if (standing := self._standing) is not None:
            self._standing = None
            yield from self._at_the_start(standing, shift)
        yield from self._moved(packet, shift, is_refused=position in self._refused)

    def _moved(self, packet: Packet, shift: int, *, is_refused: bool = False) -> "Iterator[Packet]":
        """The packet at its new times, or nothing."""
        dts = packet.dts if packet.dts is not None else packet.pts
        dts = self._next_dts if dts is None else dts - shift
        reach = math.ceil(_MOVED_SECONDS / packet.time_base)
        earliest = dts if self._last_dts is None else self._last_dts - reach
        if is_refused or not packet.size or dts < earliest:
            self._dropped += 1
            return
        pts = dts if packet.pts is None else packet.pts - shift
        if self._last_dts is not None and dts <= self._last_dts:
            dts = self._last_dts + math.ceil(STEP_SECONDS / packet.time_base)
        if not packet.duration and not self._is_text and self._last_dts is not None:
            # An mp4 would end where its last packet begins, and players would leave that out.
            packet.duration = dts - self._last_dts
        packet.pts, packet.dts = max(dts, pts), dts
        packet.stream = self._out
        self._last_dts, self._next_dts = dts, dts + (packet.duration or 1)
        yield packet

    def _reaches(self, packet: Packet, shift: int) -> bool:
        """Whether a packet reaches into the part that is made; texts are cut to it."""
        assert self._cut is not None
        if packet.pts is None:
            return True
        left = self._cut.shown(packet.pts - shift, packet.duration or 0, packet.time_base)
        if left is not None and self._is_text:
            packet.pts = packet.dts = left[0] + shift
            packet.duration = left[1]
        return left is not None

    def _at_the_start(self, packet: Packet, shift: int) -> "Iterator[Packet]":
        """A text that was there before the part begins, and stands in it."""
        packet.pts = packet.dts = shift
        yield from self._moved(packet, shift)

    def finish(self) -> "Iterator[Packet]":
        """What stands to the end; notes how many were dropped."""
        if (standing := self._standing) is not None:
            self._standing = None
            shift = round(self._zero / standing.time_base)
            yield from self._at_the_start(standing, shift)
        if self._dropped:
            told = (
                "one broken packet was"
                if self._dropped == 1
                else f"{self._dropped} broken packets were"
            )
            self.notes.append(f"{self._name}: {told} left out")
        yield from ()
