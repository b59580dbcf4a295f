"""Into which container the other streams go, and what is wanted of the sound."""

from dataclasses import dataclass
from fractions import Fraction

from av.packet import Packet
from av.subtitles.stream import SubtitleStream

from seedvr2_core.video.info import StreamInfo, VideoInfo
from seedvr2_core.video.output.formats import ContainerSpec

KEPT, LEFT_OUT, AS_AAC = "keep", "none", "aac"
"""What a request can want of the sound."""
_BEFORE_SECONDS = 1
"""Sound before a part of a film that decoders are given, so that they are in step at its start."""


def stands(packet: Packet) -> bool:
    """Whether it is a text that stands until the next one comes, as those of PGS do."""
    return isinstance(packet.stream, SubtitleStream) and not packet.duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A part of a film: what other streams keep of themselves. Times are the output's."""

    end: Fraction
    """Seconds; it begins at 0."""

    @classmethod
    def of(cls, info: VideoInfo) -> "Cut | None":
        """The part of the film that is made; None: all of it."""
        if not info.reading.is_excerpt:
            return None
        return cls(end=(info.pts[-1] + info.last_duration) * Fraction(*info.time_base))

    def touches(self, packet: Packet, zero: Fraction) -> bool:
        """Whether a packet of the source may be needed; `zero` are its seconds that become 0."""
        if packet.pts is None:
            return True
        start = packet.pts * packet.time_base - zero
        if stands(packet):
            return start < self.end
        stop = start + (packet.duration or 0) * packet.time_base
        return start < self.end and stop > -_BEFORE_SECONDS

    def shown(self, start: int, duration: int, time_base: Fraction) -> tuple[int, int] | None:
        """What is left of ticks (start, duration); None: nothing."""
        end = int(self.end / time_base)
        if start >= end or start + duration < 0 or (duration and start + duration == 0):
            return None
        left = max(0, start)
        return left, max(0, min(end, start + duration) - left)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryWay:
    """How a source's other streams are carried."""

    container: ContainerSpec
    audio: str = KEPT
    cut: Cut | None = None
    """The part of the film that is made; None: all of it."""

    @property
    def name(self) -> str:
        """Of the container, in notes."""
        return self.container.ending.removeprefix(".")

    def wants(self, stream: StreamInfo) -> bool:
        """Whether a stream is carried at all, if that is possible."""
        return stream.kind == "subtitle" or (stream.kind == "audio" and self.audio != LEFT_OUT)

    def may_copy(self, stream: StreamInfo) -> bool:
        """Whether a stream's packets are copied if the container takes them."""
        if stream.kind == "audio":
            return stream.codec in self.container.sound and self.audio in (KEPT, stream.codec)
        return stream.codec in self.container.text
