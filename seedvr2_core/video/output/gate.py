"""The last check of a finished file: it must hold exactly what the plan says.

Whatever differs, a muxer's rounding or a bug of ours, is found here, before the file is stored, and
is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.video._container import codec_name, time_base_of
from seedvr2_core.video._segments import open_segment
from seedvr2_core.video.info import EncoderSettings, HdrMetadata, VideoInfo
from seedvr2_core.video.output.encoders import tag_of
from seedvr2_core.video.output.formats import CODECS, ContainerSpec
from seedvr2_core.video.output.hdr import hdr_of
from seedvr2_core.video.picture.beside import side_data
from seedvr2_core.video.picture.facts import frame_tags

_LATE_SECONDS = Fraction(1, 4)
"""By how much the end of a sound or text track may differ: muxers fill up and round its last
packets."""


@dataclass(slots=True, kw_only=True)
class ExpectedStream:
    """A stream beside the video, as it was written."""

    kind: str
    codec: str
    num_packets: int = 0
    end: Fraction = Fraction(0)
    """Seconds."""

    def add(self, packet: Packet) -> None:
        """Count a packet that is written; encoders end with one that is empty."""
        if not packet.size:
            return
        self.num_packets += 1
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            self.end = max(self.end, end)


def expected_of(stream: Stream) -> ExpectedStream:
    """What a stream of an output is expected to be, before its packets are counted."""
    return ExpectedStream(kind=stream.type, codec=codec_name(stream))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a finished file must hold."""

    info: VideoInfo
    settings: EncoderSettings
    container: ContainerSpec
    others: Sequence[ExpectedStream] = ()
    """In the order of the file."""

    @property
    def hdr(self) -> HdrMetadata | None:
        """What must be told beside the pictures."""
        return self.settings.hdr


def check_joined(path: Path, expected: Expected, *, on_bytes: OnBytes = no_bytes) -> None:
    """Check a joined file: frames and their times, pictures, other streams, durations.

    Raises:
        SegmentError: something differs; the message names it.
        FileReadError: the machine failed to read it.
    """
    demuxer = expected.container.demuxer
    with open_segment(path, index_only=True, demuxer=demuxer, on_bytes=on_bytes) as container:
        _check_packets(path, container, expected)
    with open_segment(path, demuxer=demuxer, on_bytes=on_bytes) as container:
        _check_picture(path, container.streams.video[0], container, expected)


def _wrong(path: Path, what: str, got: object, wanted: object) -> SegmentError:
    return SegmentError(f"{path.name}: {what}: {got}, but the plan says {wanted}")


def _check_packets(path: Path, container: InputContainer, expected: Expected) -> None:
    """The packets of all streams."""
    video = container.streams.video[0]
    others = [stream for stream in container.streams if stream.type in ("audio", "subtitle")]
    kinds = [(stream.type, codec_name(stream)) for stream in others]
    wanted = [(stream.kind, stream.codec) for stream in expected.others]
    if sorted(kinds) != sorted(wanted):
        raise _wrong(path, "other streams", kinds, wanted)
    found = {
        stream.index: ExpectedStream(kind=stream.type, codec=codec_name(stream))
        for stream in others
    }
    clock = _ShownTimes(path, video, expected)
    for packet in container.demux(video, *others):
        if not packet.size:
            continue
        if packet.stream_index == video.index:
            clock.add(packet)
        else:
            found[packet.stream_index].add(packet)
    clock.finish()
    for got, want in zip(found.values(), expected.others, strict=True):
        _check_stream(path, got, want)


class _ShownTimes:
    """Checks the times of the video's packets as they come."""

    def __init__(self, path: Path, stream: Stream, expected: Expected) -> None:
        self._path, self._expected = path, expected
        self._base = time_base_of(stream)
        self._exact = expected.container.clock is None
        self._shown: list[Fraction] = []
        self._last_dts: int | None = None
        self._end = Fraction(0)

    def add(self, packet: Packet) -> None:
        """Check a packet's decode time, note when it is shown."""
        pts, dts = packet.pts, packet.dts
        if pts is None or (self._exact and not self._is_in_order(pts, dts)):
            raise SegmentError(
                f"{self._path.name}: packet at pts {pts}, dts {dts} after {self._last_dts}"
            )
        self._last_dts = dts
        if not packet.is_discard:
            self._shown.append(pts * self._base)
            self._end = max(self._end, (pts + (packet.duration or 0)) * self._base)

    def _is_in_order(self, pts: int, dts: int | None) -> bool:
        return dts is not None and dts <= pts and (self._last_dts is None or dts > self._last_dts)

    def finish(self) -> None:
        """Compare all times with the plan's."""
        info, unit = self._expected.info, Fraction(*self._expected.info.time_base)
        wanted = [pts * unit for pts in info.pts]
        shown = sorted(self._shown)
        if len(shown) != len(wanted):
            raise _wrong(self._path, "frames", len(shown), len(wanted))
        most = Fraction(0) if self._exact else self._base / 2
        for index, (got, want) in enumerate(zip(shown, wanted, strict=True)):
            if abs(got - want) > most:
                raise _wrong(self._path, f"time of frame {index}", f"{got} s", f"{want} s")
        end = wanted[-1] + info.last_duration * unit
        if self._exact and self._end != end:
            raise _wrong(self._path, "end of the last frame", f"{self._end} s", f"{end} s")


def _check_stream(path: Path, got: ExpectedStream, want: ExpectedStream) -> None:
    """Packets and end of another stream.

    mp4 writes empty texts of its own between subtitles, and PCM is divided anew when it is read.
    """
    counted = want.kind == "audio" and not want.codec.startswith("pcm")
    if counted and got.num_packets != want.num_packets:
        what = f"packets of the {got.codec} track"
        raise _wrong(path, what, got.num_packets, want.num_packets)
    if want.num_packets and abs(got.end - want.end) > _LATE_SECONDS:
        what = f"end of the {got.codec} track"
        raise _wrong(path, what, f"{float(got.end):.3f} s", f"{float(want.end):.3f} s")


def _check_picture(
    path: Path, stream: VideoStream, container: InputContainer, expected: Expected
) -> None:
    """The first picture: size, depth, colour tags, HDR metadata."""
    settings = expected.settings
    try:
        first = next(container.decode(stream))
    except (av.error.FFmpegError, StopIteration) as error:
        raise SegmentError(f"{path.name}: its first picture cannot be decoded") from error
    tags, color = frame_tags(first), settings.color
    wanted_tag = tag_of(settings) if expected.container.has_index else ""
    for what, got, want in (
        ("codec", codec_name(stream), CODECS[settings.codec].libav_name or settings.codec),
        ("kind of samples", stream.codec_context.codec_tag if wanted_tag else "", wanted_tag),
        ("size", (first.width, first.height), (settings.width, settings.height)),
        ("pixel format", first.format.name.replace("yuvj", "yuv"), settings.pix_fmt),
        ("colour matrix", tags.matrix, color.matrix),
        ("colour primaries", tags.primaries, color.primaries),
        ("colour transfer", tags.transfer, color.transfer),
        ("full range", tags.range == _FULL, color.full_range),
        ("HDR metadata", hdr_of(side_data(first)), expected.hdr),
    ):
        if got != want:
            raise _wrong(path, what, got, want)


_FULL = 2
"""FFmpeg's number of full range."""
