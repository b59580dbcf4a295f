"""Carries the other streams of a source (audio, subtitles) into an mp4, packet by packet.

A stream that cannot be carried is named in a note; only the video can make a job fail.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av.error
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import CodecContext
from av.codec.context import Flags as CodecFlags
from av.container import InputContainer, OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.stream import Disposition, Stream

from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.video._container import demux_all, open_source
from seedvr2_core.video.info import StreamInfo, VideoInfo

COPIED_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})
"""Audio codecs that mp4 holds and players read; others become AAC."""

_AAC_BITS_PER_CHANNEL = 96_000
_AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_AAC_RATES = frozenset(
    {7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
)
_FALLBACK_RATE = 48_000
_AAC_SAMPLES = 1024
_FILLED_SECONDS = 2
"""Gaps in converted sound that are filled with silence."""


class Copier:
    """Copies packets; only their times change.

    Args:
        output: where the stream is added.
        template: the source's stream.
        zero: seconds that become time 0.
        name: of the stream, for notes.
    """

    def __init__(
        self, output: OutputContainer, template: Stream, zero: Fraction, name: str
    ) -> None:
        self.notes: list[str] = []
        self._name = name
        self._out = output.add_stream_from_template(template, opaque=True)
        self._shift = round(zero / template.time_base) if template.time_base else 0
        self._last_dts: int | None = None
        self._next_dts = 0
        self._dropped = 0

    @property
    def stream(self) -> Stream:
        """The stream in the output."""
        return self._out

    def feed(self, packet: Packet) -> "Iterator[Packet]":
        """The packet at its new times; one that does not come after the last one is dropped."""
        dts = packet.dts if packet.dts is not None else packet.pts
        dts = self._next_dts if dts is None else dts - self._shift
        if not packet.size or (self._last_dts is not None and dts <= self._last_dts):
            self._dropped += 1
            return
        pts = dts if packet.pts is None else max(dts, packet.pts - self._shift)
        packet.pts, packet.dts = pts, dts
        packet.stream = self._out
        self._last_dts, self._next_dts = dts, dts + (packet.duration or 1)
        yield packet

    def finish(self) -> "Iterator[Packet]":
        """No packets, since none are held back; notes how many were dropped."""
        if self._dropped:
            self.notes.append(f"{self._name}: {self._dropped} broken packets were left out")
        yield from ()


class Transcoder:
    """Decodes an audio stream and encodes it as AAC, at the times that the source gives it.

    Small gaps become silence. After a long one the sound goes on at its own time: silence of hours
    would have to be made, and to be held in memory.

    Args:
        output: where the stream is added.
        template: the source's stream.
        first: its first decodable frame, which tells rate and layout.
        zero: seconds that become time 0.
        name: of the stream, for notes.
    """

    def __init__(
        self,
        output: OutputContainer,
        template: AudioStream,
        *,
        first: AudioFrame,
        zero: Fraction,
        name: str,
    ) -> None:
        self.notes = [f"{name}: {template.codec_context.codec.canonical_name} became AAC"]
        self._name = name
        self._zero = zero
        self._first = first
        rate = first.sample_rate if first.sample_rate in _AAC_RATES else _FALLBACK_RATE
        layout = _AAC_LAYOUTS.get(first.layout.nb_channels, "stereo")
        self._rate, self._layout = rate, layout
        self._graph = _resampling_graph(first, rate, layout)
        # A stream cannot be removed from the output, so a trial shows first whether AAC opens.
        trial = CodecContext.create("aac", "w")
        assert isinstance(trial, AudioCodecContext)
        _set_up_aac(trial, rate, layout)
        trial.open()
        out = output.add_stream("aac", rate=rate)
        assert isinstance(out, AudioStream)
        _set_up_aac(out.codec_context, rate, layout)
        self._out = out
        self._failed = 0
        self._next_sample = 0

    @property
    def stream(self) -> Stream:
        """The stream in the output."""
        return self._out

    def feed(self, packet: Packet) -> "Iterator[Packet]":
        """The AAC packets that are ready; a packet that cannot be decoded is counted."""
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError:
            self._failed += 1
            return
        for frame in frames:
            if isinstance(frame, AudioFrame):
                yield from self._take(frame)

    def _take(self, frame: AudioFrame) -> "Iterator[Packet]":
        first = self._first
        if (frame.format.name, frame.layout.name, frame.sample_rate) != (
            first.format.name,
            first.layout.name,
            first.sample_rate,
        ):
            self._failed += 1
            return
        start = self._next_sample
        if frame.pts is not None and frame.time_base is not None:
            start = round((frame.pts * frame.time_base - self._zero) * first.sample_rate)
        if start - self._next_sample > _FILLED_SECONDS * first.sample_rate:
            yield from self._break_off()
            self._graph = _resampling_graph(first, self._rate, self._layout)
        self._next_sample = start + frame.samples
        frame.pts, frame.time_base = start, Fraction(1, first.sample_rate)
        self._graph.push(frame)
        yield from self._encode()

    def _encode(self, *, least: int = 0) -> "Iterator[Packet]":
        """Encode what the graph has ready, without frames of fewer samples than `least`."""
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, AudioFrame)
            if frame.samples >= least:
                yield from self._out.encode(frame)

    def _break_off(self) -> "Iterator[Packet]":
        """Encode what the graph holds back before a gap.

        The encoder takes a short frame only at the very end, so the last one is filled up with
        silence; a rest of that silence is left out.
        """
        first = self._first
        samples = math.ceil(2 * _AAC_SAMPLES * first.sample_rate / self._rate)
        silence = AudioFrame(first.format.name, first.layout.name, samples)
        for plane in silence.planes:
            plane.update((b"\x80" if "u8" in first.format.name else b"\0") * plane.buffer_size)
        silence.sample_rate = first.sample_rate
        silence.pts, silence.time_base = self._next_sample, Fraction(1, first.sample_rate)
        self._graph.push(silence)
        self._graph.push(None)
        yield from self._encode(least=_AAC_SAMPLES)

    def finish(self) -> "Iterator[Packet]":
        """The AAC packets that were held back."""
        self._graph.push(None)
        yield from self._encode()
        yield from self._out.encode(None)
        if self._failed:
            self.notes.append(f"{self._name}: {self._failed} broken packets became silence")


def _set_up_aac(context: AudioCodecContext, rate: int, layout: str) -> None:
    """The encoder's settings."""
    context.sample_rate = rate
    context.layout = layout
    context.format = "fltp"
    context.time_base = Fraction(1, rate)
    context.bit_rate = _AAC_BITS_PER_CHANNEL * context.layout.nb_channels
    context.flags |= CodecFlags.bitexact.value


def _resampling_graph(first: AudioFrame, rate: int, layout: str) -> Graph:
    """Turns decoded audio into AAC's format: frames of 1024 samples, gaps filled with silence."""
    graph = Graph()
    source = graph.add_abuffer(
        sample_rate=first.sample_rate,
        format=first.format.name,
        layout=first.layout.name,
        time_base=Fraction(1, first.sample_rate),
    )
    steps = [
        graph.add("aresample", f"{rate}:async=1"),
        graph.add("aformat", f"sample_fmts=fltp:sample_rates={rate}:channel_layouts={layout}"),
        graph.add("asetnsamples", f"n={_AAC_SAMPLES}:p=0"),
        graph.add("abuffersink"),
    ]
    previous = source
    for step in steps:
        previous.link_to(step)
        previous = step
    graph.configure()
    return graph


def first_audio_frame(path: Path, index: int, on_bytes: OnBytes = no_bytes) -> AudioFrame | None:
    """The first frame that decodes from an audio stream, None if there is none."""
    with open_source(path, on_bytes=on_bytes) as container:
        stream = container.streams[index]
        for packet in demux_all(container, stream):
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if isinstance(frame, AudioFrame) and frame.sample_rate:
                    return frame
    return None


def add_carriers(
    output: OutputContainer,
    source: InputContainer,
    path: Path,
    info: VideoInfo,
    *,
    on_bytes: OnBytes = no_bytes,
) -> tuple[dict[int, Copier | Transcoder], list[str]]:
    """Add every stream that can be carried to the output.

    Args:
        output: has its video stream and is not written yet.
        source: open, before its first packet is read.
        path: of the source.
        info: of the source.
        on_bytes: called while the source is read.

    Returns:
        Carriers by index of the source's stream, and notes about what is left behind.
    """
    carriers: dict[int, Copier | Transcoder] = {}
    notes: list[str] = []
    for kind in ("audio", "subtitle"):
        for stream in info.streams:
            if stream.kind != kind:
                continue
            carrier = _carrier(
                output, source.streams[stream.index], path, info, stream, notes, on_bytes
            )
            if carrier is not None:
                _copy_labels(source.streams[stream.index], carrier.stream)
                carriers[stream.index] = carrier
    # An mp4 keeps its chapters as a data track too; chapters travel with the container.
    told = ("audio", "subtitle", "data") if source.chapters() else ("audio", "subtitle")
    left = [stream for stream in info.streams if stream.kind not in told]
    notes += [f"{_name(stream)} is not carried over" for stream in left]
    return carriers, notes


def _name(stream: StreamInfo) -> str:
    language = f", {stream.language}" if stream.language else ""
    return f"{stream.kind} stream {stream.index} ({stream.codec}{language})"


def _carrier(
    output: OutputContainer,
    template: Stream,
    path: Path,
    info: VideoInfo,
    stream: StreamInfo,
    notes: list[str],
    on_bytes: OnBytes,
) -> Copier | Transcoder | None:
    """How one stream is carried; None (and a note) if it cannot be."""
    name, zero = _name(stream), Fraction(*info.zero_offset)
    if not stream.num_packets:
        notes.append(f"{name} is empty and not carried over")
        return None
    if stream.kind == "subtitle":
        if stream.codec == "mov_text":
            return Copier(output, template, zero, name)
        notes.append(f"{name} is not carried over")
        return None
    try:
        first = first_audio_frame(path, stream.index, on_bytes)
        if first is None or not isinstance(template, AudioStream):
            notes.append(f"{name} cannot be decoded and is not carried over")
            return None
        if stream.codec in COPIED_AUDIO:
            return Copier(output, template, zero, name)
        return Transcoder(output, template, first=first, zero=zero, name=name)
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        notes.append(f"{name} is not carried over: {error}")
        return None


def _copy_labels(template: Stream, out: Stream) -> None:
    """Language, title and role of a stream."""
    for key in ("language", "title", "handler_name"):
        if key in template.metadata:
            out.metadata[key] = template.metadata[key]
    kept = Disposition.default | Disposition.forced | Disposition.hearing_impaired
    out.disposition = template.disposition & (kept | Disposition.visual_impaired)
