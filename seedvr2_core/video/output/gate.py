"""The last check of a finished file: it must hold exactly what the plan says.

Whatever differs, a muxer's rounding or a bug of ours, is found here, before the file is stored, and
is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import DataStream, Stream
from av.video.stream import VideoStream

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.video._container import codec_name, decode_pictures, is_cover, time_base_of
from seedvr2_core.video._segments import open_segment
from seedvr2_core.video.headers.boxes import read_tracks
from seedvr2_core.video.headers.elements import read_video_tracks
from seedvr2_core.video.headers.facts import TrackHeader
from seedvr2_core.video.info import EncoderSettings, HdrMetadata, VideoInfo
from seedvr2_core.video.output.encoders import tag_of
from seedvr2_core.video.output.formats import CODECS, ContainerSpec
from seedvr2_core.video.output.hdr import hdr_of
from seedvr2_core.video.picture.beside import side_data
from seedvr2_core.video.picture.facts import frame_tags

_LATE_SECONDS = Fraction(1, 10)
"""By how much the last packet of a track may be moved: packets that overlap are put in order."""
_CONTAINER_TICKS = 1_000_000
"""A second of a container's duration."""
_SHORT_SECONDS = 0.01
"""Rounding of the duration, and how far Matroska's milliseconds may be off."""
_COUNTED = frozenset({"aac", "opus", "vorbis", "alac", "flac"})
"""Codecs whose packets are read as they were written. Others are divided anew: PCM, E-AC-3."""
_LUMINANCE_STEPS = 20
"""By how much the highest luminance may differ, in units of 1/10000 cd/m2: AV1 has steps of 1/256.
"""
_FULL = 2
"""FFmpeg's number of full range."""
_OF_OTHER_PICTURES = frozenset(
    {"DYNAMIC_HDR_PLUS", "DYNAMIC_HDR_VIVID", "DOVI_RPU_BUFFER", "DOVI_METADATA"}
)
"""What HDR10+ and Dolby Vision say of each picture: it would be about the source's, which are gone.
"""
_READ_AS = {
    ("exr", "gbrpf32le"): "gbrpf16le",
    ("exr", "gbrapf32le"): "gbrapf16le",
    ("prores", "yuv444p10le"): "yuv444p12le",
    ("prores", "yuva444p10le"): "yuva444p12le",
}
"""Codec and pixel format -> what a decoder makes of it, where that is another one."""
_HIGHEST_LUMINANCE = 8
"""Its place in `HdrMetadata.mastering`."""


@dataclass(slots=True, kw_only=True)
class ExpectedStream:
    """A stream beside the video, as it was written."""

    kind: str
    codec: str
    num_packets: int = 0
    last: Fraction = Fraction(0)
    """When the last packet begins, in seconds."""
    end: Fraction = Fraction(0)
    """When the last one ends; 0 where none says how long it is."""

    def add(self, packet: Packet) -> None:
        """Count a packet that is written; encoders end with one that is empty."""
        if not packet.size:
            return
        self.num_packets += 1
        if packet.pts is not None:
            self.last = max(self.last, packet.pts * packet.time_base)
            if packet.duration:
                self.end = max(self.end, (packet.pts + packet.duration) * packet.time_base)


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
    chapters: Sequence[Mapping[str, object]] = ()
    """Of a folder of pictures: start and end in seconds, and title. Other files say them as the
    source does (`said.py`)."""


def check_joined(path: Path, expected: Expected, *, on_bytes: OnBytes = no_bytes) -> None:
    """Check a joined file: frames and their times, pictures, other streams, durations.

    Raises:
        SegmentError: something differs; the message names it.
        FileReadError: the machine failed to read it.
    """
    kind = expected.container
    tracks = read_tracks(path) if kind.has_index else read_video_tracks(path)
    header = next(iter(tracks), TrackHeader())
    with open_segment(path, index_only=True, demuxer=kind.demuxer, on_bytes=on_bytes) as container:
        _check_packets(path, container, expected, header)
    with open_segment(path, demuxer=kind.demuxer, on_bytes=on_bytes) as container:
        check_picture(path, container.streams.video[0], container, expected)
    if header.dolby_vision is not None:
        raise wrong(path, "Dolby Vision", header.dolby_vision, None)


def check_beside(path: Path, expected: Expected, *, on_bytes: OnBytes = no_bytes) -> None:
    """Check the file that has the streams beside the video, where that is a folder of pictures.

    Raises:
        SegmentError: something differs; the message names it.
        FileReadError: the machine failed to read it.
    """
    demuxer = expected.container.demuxer
    with open_segment(path, demuxer=demuxer, on_bytes=on_bytes) as container:
        _check_packets(path, container, expected)


def wrong(path: Path, what: str, got: object, wanted: object) -> SegmentError:
    """The error for what is not as the plan says."""
    return SegmentError(f"{path.name}: {what}: {got}, but the plan says {wanted}")


def _check_packets(
    path: Path, container: InputContainer, expected: Expected, header: TrackHeader | None = None
) -> None:
    """The packets of all streams; beside a folder of pictures there is no video and no header."""
    video = None if expected.container.pictures else container.streams.video[0]
    others = [stream for stream in container.streams if _is_carried(stream, expected)]
    found = {stream.index: expected_of(stream) for stream in others}
    kinds, wanted = (list(map(_kind_of, one)) for one in (found.values(), expected.others))
    if sorted(kinds) != sorted(wanted):
        raise wrong(path, "other streams", kinds, wanted)
    clock = None if video is None else _ShownTimes(path, video, expected)
    for packet in container.demux(*([] if video is None else [video]), *others):
        if not packet.size:
            continue
        if packet.stream_index in found:
            found[packet.stream_index].add(packet)
        elif clock is not None:
            clock.add(packet)
    if clock is not None:
        clock.finish()
        _check_duration(path, container, expected, header)
    # Of one kind they are in the order of the file; covers come last, wherever they were written.
    both = (sorted(streams, key=_kind_of) for streams in (found.values(), expected.others))
    for got, want in zip(*both, strict=True):
        _check_stream(path, got, want)


def _kind_of(stream: ExpectedStream) -> tuple[str, str]:
    return stream.kind, stream.codec


def _is_carried(stream: Stream, expected: Expected) -> bool:
    """Whether it is one of the source's: muxers make tracks of data of their own."""
    if isinstance(stream, DataStream):
        return _kind_of(expected_of(stream)) in map(_kind_of, expected.others)
    is_kept_cover = bool(expected.container.covers) and is_cover(stream)
    return stream.type in ("audio", "subtitle") or is_kept_cover


def _check_duration(
    path: Path, container: InputContainer, expected: Expected, header: TrackHeader | None
) -> None:
    """How long the file says it is.

    Matroska, whose duration counts from zero and not from the first frame: not shorter than the
    video, no longer if that is alone. What libav tells about an mp4 is made of the decode times, so
    there the video's own header is read.
    """
    info = expected.info
    wanted = float((info.pts[-1] + info.last_duration) * Fraction(*info.time_base))
    if expected.container.has_index:
        end = None if header is None else header.end
        if end is None or (abs(end - wanted) > _SHORT_SECONDS and info.pts[0] >= 0):
            got = "unknown" if end is None else f"{float(end):.3f} s"
            raise wrong(path, "end of the video", got, f"{wanted:.3f} s")
        return
    # Of a frame that lasts less than its clock can say, the file says nothing.
    told = (container.duration or 0) / _CONTAINER_TICKS
    if told < wanted - _SHORT_SECONDS or (not expected.others and told > wanted + _SHORT_SECONDS):
        raise wrong(path, "end of the file", f"{told:.3f} s", f"{wanted:.3f} s")


class _ShownTimes:
    """Checks the times of the video's packets as they come."""

    def __init__(self, path: Path, stream: Stream, expected: Expected) -> None:
        self._path, self._expected = path, expected
        self._base = time_base_of(stream)
        self._exact = expected.container.clock is None
        self._shown: list[Fraction] = []
        self._last_dts: int | None = None

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

    def _is_in_order(self, pts: int, dts: int | None) -> bool:
        return dts is not None and dts <= pts and (self._last_dts is None or dts > self._last_dts)

    def finish(self) -> None:
        """Compare all times with the plan's."""
        info, unit = self._expected.info, Fraction(*self._expected.info.time_base)
        # Matroska has no time before 0; there all streams begin so much later.
        shift = Fraction(0) if self._exact else max(Fraction(0), -info.pts[0] * unit)
        wanted = [pts * unit + shift for pts in info.pts]
        shown = sorted(self._shown)
        if len(shown) != len(wanted):
            raise wrong(self._path, "frames", len(shown), len(wanted))
        most = Fraction(0) if self._exact else self._base / 2
        for index, (got, want) in enumerate(zip(shown, wanted, strict=True)):
            if abs(got - want) > most:
                raise wrong(self._path, f"time of frame {index}", f"{got} s", f"{want} s")


def _check_stream(path: Path, got: ExpectedStream, want: ExpectedStream) -> None:
    """Packets of a track of sound. Text is written by muxers in pieces of their own."""
    if want.kind != "audio":
        if want.num_packets and not got.num_packets:
            raise wrong(path, f"packets of the {got.codec} track", 0, want.num_packets)
        return
    if want.codec not in _COUNTED:
        if got.end and want.end and abs(got.end - want.end) > _LATE_SECONDS:
            ends = (f"{float(end):.3f} s" for end in (got.end, want.end))
            raise wrong(path, f"end of the {got.codec} track", *ends)
        return
    if got.num_packets != want.num_packets:
        what = f"packets of the {got.codec} track"
        raise wrong(path, what, got.num_packets, want.num_packets)
    if abs(got.last - want.last) > _LATE_SECONDS:
        what = f"last packet of the {got.codec} track"
        raise wrong(path, what, f"{float(got.last):.3f} s", f"{float(want.last):.3f} s")


def check_picture(
    path: Path, stream: VideoStream, container: InputContainer, expected: Expected
) -> None:
    """Check the first picture: size, depth, colour tags, HDR metadata.

    Raises:
        SegmentError: something differs; the message names it.
    """
    settings = expected.settings
    try:
        first = next(decode_pictures(container, stream))
    except (av.error.FFmpegError, StopIteration) as error:
        raise SegmentError(f"{path.name}: its first picture cannot be decoded") from error
    tags, color, beside = frame_tags(first), settings.color, side_data(first)
    pix_fmt = _READ_AS.get((settings.codec, settings.pix_fmt), settings.pix_fmt)
    wanted_tag = tag_of(settings) if expected.container.has_index else ""
    for what, got, want in (
        ("codec", codec_name(stream), CODECS[settings.codec].libav_name or settings.codec),
        ("kind of samples", stream.codec_context.codec_tag if wanted_tag else "", wanted_tag),
        ("size", (first.width, first.height), (settings.width, settings.height)),
        ("pixel format", first.format.name.replace("yuvj", "yuv"), pix_fmt),
        ("colour matrix", tags.matrix, color.matrix),
        ("colour primaries", tags.primaries, color.primaries),
        ("colour transfer", tags.transfer, color.transfer),
        ("full range", tags.range == _FULL, color.full_range),
        ("shape of a pixel", stream.sample_aspect_ratio or 1, 1),
        ("interlaced", first.interlaced_frame, False),
        ("metadata of each picture", sorted(_OF_OTHER_PICTURES & beside.keys()), []),
    ):
        if got != want:
            raise wrong(path, what, got, want)
    if not _is_same(found := hdr_of(beside), settings.hdr):
        raise wrong(path, "HDR metadata", found, settings.hdr)


def _is_same(got: HdrMetadata | None, want: HdrMetadata | None) -> bool:
    """Whether HDR metadata is the same, but for what a codec rounds."""
    if got is None or want is None or not got.mastering or not want.mastering:
        return got == want
    off = [abs(a - b) for a, b in zip(got.mastering, want.mastering, strict=True)]
    return got.light_level == want.light_level and all(
        step <= (_LUMINANCE_STEPS if i == _HIGHEST_LUMINANCE else 1) for i, step in enumerate(off)
    )
