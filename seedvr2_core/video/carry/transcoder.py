"""Decodes sound and encodes it anew, at the times that the source gives it.

Sound goes through two graphs. The first one turns what the decoder gives into the target's rate,
layout and sample format; it is built anew wherever the source's format changes. The second one
fills small gaps with silence and cuts the sound into the encoder's packets. After a long gap the
sound goes on at its own time: silence of hours would have to be made, and to be held in memory.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import av.error
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Stream

from seedvr2_core.video.carry.sound import SoundFormat, SoundTarget
from seedvr2_core.video.carry.way import Cut

_FILLED_SECONDS = 2
"""Gaps that are filled with silence."""


class Transcoder:
    """Encodes a track anew.

    Args:
        output: where the stream is added.
        template: the source's stream.
        target: what it becomes; the encoder takes it.
        muxer: FFmpeg's name of what writes the output.
        cut: the part of the film that is made; the sound is cut to the sample.
        zero: seconds that become time 0.
        name: of the stream, for notes.
        notes: what is known already.
    """

    def __init__(
        self,
        output: OutputContainer,
        template: AudioStream,
        *,
        target: SoundTarget,
        muxer: str,
        zero: Fraction,
        name: str,
        notes: Sequence[str],
        cut: Cut | None = None,
    ) -> None:
        self.notes = list(notes)
        self._name = name
        self._zero = zero
        self._template = template
        self._target = target
        self._packet_samples = target.packet_samples(muxer)
        self._out = target.add_to(output)
        self._format: SoundFormat | None = None
        self._shaping: Graph | None = None
        self._end = None if cut is None else round(cut.end * target.rate)
        self._cutting = _cutting(target, self._packet_samples, self._end)
        self._failed = 0
        self._next_sample = 0

    @property
    def stream(self) -> Stream:
        """The stream in the output."""
        return self._out

    def feed(self, packet: Packet) -> "Iterator[Packet]":
        """The packets that are ready; a packet that cannot be decoded is counted."""
        frames, failed = decoded_sound(packet)
        self._failed += failed
        for frame in frames:
            yield from self._take(frame)

    def _take(self, frame: AudioFrame) -> "Iterator[Packet]":
        rate, format_ = self._target.rate, SoundFormat.of(frame)
        time = Fraction(self._next_sample, rate)
        if frame.pts is not None and frame.time_base is not None:
            time = frame.pts * frame.time_base - self._zero
        start = round(time * rate)
        if self._is_outside(start, frame.samples * rate // frame.sample_rate):
            return
        if start - self._next_sample > _FILLED_SECONDS * rate:
            yield from self._leave_gap(start)
        if format_ != self._format:
            yield from self._end_shaping()
            self._format, self._shaping = format_, _shaping(format_, self._target)
        assert self._shaping is not None
        self._next_sample = start + round(Fraction(frame.samples * rate, format_.rate))
        frame.pts, frame.time_base = round(time * format_.rate), Fraction(1, format_.rate)
        self._shaping.push(frame)
        yield from self._cut(_pulled(self._shaping))

    def _is_outside(self, start: int, samples: int) -> bool:
        """Whether sound lies before or behind the part that is made."""
        return self._end is not None and (start >= self._end or start + samples <= 0)

    def _cut(self, frames: Iterator[AudioFrame]) -> "Iterator[Packet]":
        for frame in frames:
            self._cutting.push(frame)
            yield from self._encode(_pulled(self._cutting))

    def _encode(self, frames: Iterator[AudioFrame]) -> "Iterator[Packet]":
        for frame in frames:
            yield from self._out.encode(frame)

    def _end_shaping(self) -> "Iterator[Packet]":
        if self._shaping is not None:
            self._shaping.push(None)
            yield from self._cut(_pulled(self._shaping))
            self._shaping = self._format = None

    def _leave_gap(self, stop: int) -> "Iterator[Packet]":
        """Encode what the graphs hold back, so that the sound goes on at sample `stop`.

        The encoder takes a short frame only at the very end, so the last one is filled up.
        """
        yield from self._end_shaping()
        self._cutting.push(None)
        for frame in _pulled(self._cutting):
            yield from self._encode(_filled(frame, self._target, self._packet_samples))
        if self._target.needs_every_sample:
            yield from self._encode(_silence(self._target, self._next_sample, stop))
        self._cutting = _cutting(self._target, self._packet_samples, self._end)

    def finish(self) -> "Iterator[Packet]":
        """The packets that were held back."""
        frames, _ = _flushed(self._template)
        for frame in frames:
            yield from self._take(frame)
        yield from self._end_shaping()
        self._cutting.push(None)
        yield from self._encode(_pulled(self._cutting))
        yield from self._out.encode(None)
        if self._failed:
            told = "one broken packet" if self._failed == 1 else f"{self._failed} broken packets"
            self.notes.append(f"{self._name}: {told} became silence")


def decoded_sound(packet: Packet) -> tuple[list[AudioFrame], bool]:
    """The frames of a packet, and whether it cannot be decoded."""
    try:
        frames = packet.decode()
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError):
        return [], True
    return _usable(frames), False


def _flushed(stream: AudioStream) -> tuple[list[AudioFrame], bool]:
    """What the decoder holds back at the end."""
    try:
        return _usable(stream.codec_context.decode(None)), False
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError):
        return [], True


def _usable(frames: Sequence[object]) -> list[AudioFrame]:
    return [f for f in frames if isinstance(f, AudioFrame) and f.sample_rate and f.samples]


def _linked(graph: Graph, steps: Sequence[tuple[str, str | None]], source: object) -> Graph:
    previous = source
    for name, args in [*steps, ("abuffersink", None)]:
        step = graph.add(name, args)
        previous.link_to(step)  # type: ignore[attr-defined]
        previous = step
    graph.configure()
    return graph


def _from(rate: int, layout: str, sample_format: str, *steps: tuple[str, str | None]) -> Graph:
    """A graph that is fed with frames."""
    graph = Graph()
    source = graph.add_abuffer(
        sample_rate=rate, format=sample_format, layout=layout, time_base=Fraction(1, rate)
    )
    return _linked(graph, steps, source)


def _formats(target: SoundTarget) -> tuple[str, str]:
    given = f"sample_fmts={target.sample_format}:sample_rates={target.rate}"
    return "aformat", f"{given}:channel_layouts={target.layout}"


def _shaping(format_: SoundFormat, target: SoundTarget) -> Graph:
    """Decoded sound -> the target's rate, layout and sample format."""
    steps: list[tuple[str, str | None]] = []
    if format_.is_unnamed:
        # The resampler would have to guess which speakers these are.
        same = "|".join(f"c{i}=c{i}" for i in range(format_.channels))
        steps.append(("pan", f"{format_.speakers}|{same}"))
    steps += [("aresample", f"{target.rate}"), _formats(target)]
    return _from(format_.rate, format_.layout, format_.sample_format, *steps)


def _cutting(target: SoundTarget, packet_samples: int, end: int | None) -> Graph:
    """Sound of the target's kind -> frames for the encoder, small gaps filled with silence.

    Args:
        target: what it becomes.
        packet_samples: of a packet.
        end: only samples from 0 up to this one are kept; None: all.
    """
    part = [] if end is None else [("atrim", f"start_pts=0:end_pts={end}")]
    return _from(
        *(target.rate, target.layout, target.sample_format),
        *part,
        ("aresample", f"{target.rate}:async=1"),
        _formats(target),
        ("asetnsamples", f"n={packet_samples}:p=0"),
    )


def _filled(frame: AudioFrame, target: SoundTarget, samples: int) -> Iterator[AudioFrame]:
    """The frame, filled up with silence."""
    graph = _from(
        *(target.rate, target.layout, target.sample_format),
        ("apad", f"whole_len={samples}"),
        ("asetnsamples", f"n={samples}:p=0"),
    )
    graph.push(frame)
    graph.push(None)
    yield from _pulled(graph)


def _silence(target: SoundTarget, start: int, stop: int) -> Iterator[AudioFrame]:
    """Frames of silence for the samples [start, stop)."""
    graph = Graph()
    source = graph.add("anullsrc", f"channel_layout={target.layout}:sample_rate={target.rate}")
    _linked(graph, [("atrim", f"end_sample={stop - start}"), _formats(target)], source)
    for frame in _pulled(graph):
        assert frame.pts is not None
        frame.pts += start
        yield frame


def _pulled(graph: Graph) -> Iterator[AudioFrame]:
    """What is ready at the end of a graph."""
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, AudioFrame)
        yield frame
