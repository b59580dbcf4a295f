"""Turns subtitles that are text into the kind of text that the container holds."""

import math
from collections.abc import Iterator
from fractions import Fraction

import av.error
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream

from seedvr2_core.video.carry.copier import STEP_SECONDS
from seedvr2_core.video.carry.way import Cut

TEXTS = frozenset({"subrip", "ass", "ssa", "webvtt", "mov_text", "text"})
"""Codecs of subtitles that are text, not pictures."""
_STYLED = frozenset({"ass", "ssa"})


class TextConverter:
    """Decodes texts and encodes them anew, at the times that the source gives them.

    Args:
        output: where the stream is added.
        template: the source's stream.
        codec: what its texts become: "mov_text" or "subrip".
        zero: seconds that become time 0.
        name: of the stream, for notes.
        cut: the part of the film that is made; texts are shown no longer than it.
    """

    def __init__(
        self,
        output: OutputContainer,
        template: SubtitleStream,
        *,
        codec: str,
        zero: Fraction,
        name: str,
        cut: Cut | None = None,
    ) -> None:
        source = template.codec_context
        styles = "; its styles are lost" if source.codec.canonical_name in _STYLED else ""
        self.notes = [f"{name} became {codec}{styles}"]
        self._name = name
        self._template = template
        self._zero = zero
        self._cut = cut
        self._out = output.add_stream(codec)
        source.open(strict=False)
        encoder = self._out.codec_context
        assert isinstance(source, SubtitleCodecContext)
        assert isinstance(encoder, SubtitleCodecContext)
        encoder.subtitle_header = source.subtitle_header
        self._encoder = encoder
        self._last: int | None = None
        self._failed = 0

    @property
    def stream(self) -> Stream:
        """The stream in the output."""
        return self._out

    def feed(self, packet: Packet) -> "Iterator[Packet]":
        """The text at its new time; one that cannot be read is counted."""
        if not packet.size or packet.pts is None:
            return
        time, duration = packet.pts - round(self._zero / packet.time_base), packet.duration or 0
        if self._cut is not None:
            left = self._cut.shown(time, duration, packet.time_base)
            if left is None:
                return
            time, duration = left
        try:
            texts = self._template.decode2(packet)
            if texts is None or not len(texts):
                return  # an empty text that only ends the one before
            made = self._encoder.encode_subtitle(texts)
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            self._failed += 1
            return
        if self._last is not None and time <= self._last:
            time = self._last + math.ceil(STEP_SECONDS / packet.time_base)
        self._last = time
        made.pts = made.dts = time
        made.duration, made.time_base = duration, packet.time_base
        made.stream = self._out
        yield made

    def finish(self) -> "Iterator[Packet]":
        """No packets, since none are held back; notes how many could not be read."""
        if self._failed:
            told = "one text" if self._failed == 1 else f"{self._failed} texts"
            self.notes.append(f"{self._name}: {told} could not be read and are left out")
        yield from ()
