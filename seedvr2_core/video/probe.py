"""Finds out what a source holds by demuxing every packet; a header alone is never believed.

`sniff_video` is the cheap check before a job begins, `probe_video` reads the whole file.
"""

import bisect
import itertools
import statistics
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.video._color import (
    ColorTags,
    bit_depth,
    has_alpha,
    refuse_unsupported,
    resolve_color,
)
from seedvr2_core.video._container import (
    codec_name,
    container_zero,
    decode_pictures,
    demux_all,
    main_video,
    open_source,
    time_base_of,
)
from seedvr2_core.video.info import StreamInfo, VideoInfo

_BEAT_PACKETS = 200
_SNIFF_PACKETS = 2000
_SNIFF_DECODED_PACKETS = 300
_LOOK_PICTURES = 16
"""Pictures decoded to see their format and whether the packets' times can be believed."""
_UNTIMED_CONTAINERS = ("avi", "asf")
_VP8_SHOWN = 0x10
"""Bit of a VP8 packet's first byte: the frame is shown (others only serve as references)."""


def sniff_video(path: Path) -> None:
    """Refuse a file that is plainly no usable video: read its headers, decode its first picture.

    Raises:
        InvalidVideoError: not a video, cut off before the first frame, or no video stream.
        UnsupportedFormatError: a kind of video that is refused.
    """
    with open_source(path) as container:
        stream = main_video(container, path)
        refuse_unsupported(path.name, _tags(stream.codec_context))
        packets = itertools.islice(demux_all(container), _SNIFF_PACKETS)
        if not any(packet.stream_index == stream.index and packet.size for packet in packets):
            raise _no_frames(path)
    # The pictures' own tags win over the container's, so one has to be decoded.
    with open_source(path) as container:
        stream = main_video(container, path)
        pictures = decode_pictures(container, stream, most_packets=_SNIFF_DECODED_PACKETS)
        first = next(pictures, None)
        if first is None:
            raise _undecodable(path)
        refuse_unsupported(path.name, _frame_tags(first))


def probe_video(path: Path, *, beat: Beat = no_beat) -> VideoInfo:
    """Read a whole source and describe it.

    Only the first pictures are decoded, unless the packets' times cannot be believed.

    Args:
        path: a local file.
        beat: called about every 200 packets with ("probe", packets, 0).

    Raises:
        InvalidVideoError: not a video, cut off before the first frame, or no video stream.
        UnsupportedFormatError: a kind of video that is refused (HDR, BT.2020).
    """
    with open_source(path) as container:
        stream = main_video(container, path)
        refuse_unsupported(path.name, _tags(stream.codec_context))
        scan = _scan(container, stream, beat)
        zero = container_zero(container)
    if not scan.times and not scan.untimed:
        raise _no_frames(path)
    return _describe(path, scan, zero, beat)


def _no_frames(path: Path) -> InvalidVideoError:
    return InvalidVideoError(
        f"{path.name}: the video stream has no frames; the file is empty or cut off"
    )


def _undecodable(path: Path) -> InvalidVideoError:
    return InvalidVideoError(
        f"{path.name}: none of the video's frames can be decoded; the file is damaged"
    )


@dataclass(slots=True)
class _Scan:
    """What demuxing found; times in the video stream's ticks, raw."""

    times: list[int] = field(default_factory=list)
    last_time: int = -(2**63)
    last_duration: int = 0
    untimed: int = 0
    """Video packets without a pts."""
    corrupt: int = 0
    guessed: bool = False
    """The container holds no presentation times; the demuxer guesses them from the order."""
    counts: Counter[int] = field(default_factory=Counter)

    def add(self, packet: "Packet[Stream]") -> None:
        """Count a packet of the video that is presented."""
        self.corrupt += packet.is_corrupt
        if packet.pts is None:
            self.untimed += 1
            return
        self.times.append(packet.pts)
        if packet.pts > self.last_time:
            self.last_time, self.last_duration = packet.pts, packet.duration or 0


def _scan(container: InputContainer, stream: VideoStream, beat: Beat) -> _Scan:
    """Demux the whole file."""
    scan = _Scan()
    unordered = container.format.name in _UNTIMED_CONTAINERS
    scan.guessed = unordered and stream.codec_context.has_b_frames
    vp8 = stream.codec_context.codec.canonical_name == "vp8"
    for done, packet in enumerate(demux_all(container)):
        scan.counts[packet.stream_index] += 1
        if done % _BEAT_PACKETS == 0:
            beat("probe", done, 0)
        if packet.stream_index != stream.index or packet.is_discard or not packet.size:
            continue
        if vp8 and not bytes(packet)[0] & _VP8_SHOWN:
            continue
        scan.add(packet)
    scan.times.sort()
    return scan


def _describe(path: Path, scan: _Scan, zero: Fraction, beat: Beat) -> VideoInfo:
    """Decode the first pictures and describe the source."""
    with open_source(path) as container:
        stream = main_video(container, path)
        pictures = list(itertools.islice(decode_pictures(container, stream), _LOOK_PICTURES))
        if not pictures:
            raise _undecodable(path)
        first = pictures[0]
        refuse_unsupported(path.name, _frame_tags(first))
        time_base = time_base_of(stream)
        rate = _nominal_rate(stream, scan.times, time_base)
        warnings = _picture_warnings(first, stream)
        frames = _frame_times(path, pictures, scan, rate * time_base, beat)
        zero = min(zero, frames.times[0] * time_base)
        zero_ticks = round(zero / time_base)
        rotation, rotation_warnings = _rotation(first)
        return VideoInfo(
            format_name=container.format.name,
            size_bytes=path.stat().st_size,
            stream_index=stream.index,
            codec=stream.codec_context.codec.canonical_name,
            pix_fmt=first.format.name,
            bit_depth=bit_depth(first.format.name),
            width=first.width,
            height=first.height,
            rotation=rotation,
            sar=_sar(stream),
            color=resolve_color(
                _frame_tags(first),
                pix_fmt=first.format.name,
                width=first.width,
                height=first.height,
            ),
            time_base=time_base.as_integer_ratio(),
            pts=tuple(time - zero_ticks for time in frames.times),
            last_duration=_last_duration(scan, frames.times, rate, time_base),
            nominal_rate=rate.as_integer_ratio(),
            zero_offset=(zero_ticks * time_base).as_integer_ratio(),
            streams=_other_streams(container, stream, scan.counts),
            warnings=(*warnings, *rotation_warnings, *frames.warnings, *_damage(scan)),
            seekable=frames.seekable,
        )


@dataclass(frozen=True, slots=True)
class _FrameTimes:
    """When all presented frames are shown."""

    times: list[int]
    """Strictly rising, raw (not yet counted from the container's zero)."""
    seekable: bool
    warnings: tuple[str, ...]


def _frame_times(
    path: Path, pictures: Sequence[VideoFrame], scan: _Scan, ticks_rate: Fraction, beat: Beat
) -> _FrameTimes:
    """Times of the frames: from the packets if these can be believed, otherwise by decoding.

    Args:
        path: the source.
        pictures: the first ones the decoder gives.
        scan: of the packets.
        ticks_rate: nominal frames per tick.
        beat: called while decoding.
    """
    times = scan.times
    damaged = bool(scan.corrupt)
    if damaged or scan.guessed or scan.untimed or any(a == b for a, b in itertools.pairwise(times)):
        return _decoded_times(path, scan, ticks_rate, beat)
    # Packets are believed if the first decoded pictures have the same times. Frames at the start
    # that depend on a key frame outside the file are never decoded; they are left out.
    lost = 0 if pictures[0].pts is None else bisect.bisect_left(times, pictures[0].pts)
    if [picture.pts for picture in pictures] != times[lost : lost + len(pictures)]:
        return _decoded_times(path, scan, ticks_rate, beat)
    if not lost:
        return _FrameTimes(times, True, ())
    note = f"{lost} frames at the start have no key frame before them and cannot be shown"
    return _FrameTimes(times[lost:], True, (note,))


def _decoded_times(path: Path, scan: _Scan, ticks_rate: Fraction, beat: Beat) -> _FrameTimes:
    """Times from decoding the whole file, where a packet is not always one timed frame."""
    decoded: list[int | None] = []
    with open_source(path) as container:
        stream = main_video(container, path)
        # Frame threads lose pictures after a broken packet at the end (see reader.py).
        stream.thread_type = "SLICE" if scan.corrupt else "AUTO"
        for done, picture in enumerate(decode_pictures(container, stream)):
            decoded.append(picture.pts)
            if done % _BEAT_PACKETS == 0:
                beat("probe", done, 0)
    known = [time for time in decoded if time is not None]
    if len(known) == len(decoded) and all(a < b for a, b in itertools.pairwise(known)):
        return _FrameTimes(known, True, ())
    times = scan.times if len(scan.times) == len(decoded) else sorted(known)
    if len(times) != len(decoded) or any(a == b for a, b in itertools.pairwise(times)):
        times = _made_strict(times, len(decoded), 1 / ticks_rate)
    note = "the file's frame times are incomplete or repeated; they were mended in frame order"
    return _FrameTimes(times, False, (note,))


def _made_strict(times: Sequence[int], count: int, nominal_ticks: Fraction) -> list[int]:
    """`count` strictly rising times that stay as near as can be to the given rising ones."""
    if len(times) != count:
        start = times[0] if times else 0
        step = max(nominal_ticks, Fraction(1))
        return [start + round(i * step) for i in range(count)]
    strict: list[int] = []
    for time in times:
        strict.append(time if not strict else max(time, strict[-1] + 1))
    return strict


def _damage(scan: _Scan) -> tuple[str, ...]:
    """A warning if the demuxer found damaged packets."""
    if not scan.corrupt:
        return ()
    return (f"{scan.corrupt} packets of the video are damaged or cut off",)


def _nominal_rate(stream: VideoStream, times: Sequence[int], time_base: Fraction) -> Fraction:
    """The header's frame rate if it is within a factor of 1.5 of the times' rate, else theirs."""
    steps = [b - a for a, b in itertools.pairwise(times) if b > a]
    named = [rate for rate in (stream.guessed_rate, stream.average_rate) if rate]
    if not steps:
        return named[0] if named else Fraction(25)
    measured = 1 / (Fraction(statistics.median(steps)) * time_base)
    for rate in named:
        if Fraction(2, 3) <= rate / measured <= Fraction(3, 2):
            return rate
    return measured.limit_denominator(1001) or Fraction(1, 1001)


def _last_duration(scan: _Scan, times: Sequence[int], rate: Fraction, time_base: Fraction) -> int:
    """How many ticks the last frame is shown: as its packet says, else as the others are."""
    if scan.last_duration > 0:
        return scan.last_duration
    steps = [b - a for a, b in itertools.pairwise(times)]
    usual = statistics.median(steps) if steps else 1 / (rate * time_base)
    return max(1, round(usual))


def _tags(context: VideoCodecContext) -> ColorTags:
    return ColorTags(
        range=context.color_range,
        matrix=context.colorspace,
        primaries=context.color_primaries,
        transfer=context.color_trc,
    )


def _frame_tags(frame: VideoFrame) -> ColorTags:
    return ColorTags(
        range=frame.color_range,
        matrix=frame.colorspace,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
    )


def _sar(stream: VideoStream) -> tuple[int, int]:
    """Sample aspect ratio from container or codec; (1, 1) if unknown or absurd."""
    sar = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not sar or not Fraction(1, 16) <= sar <= 16:
        return 1, 1
    return sar.as_integer_ratio()


def _rotation(frame: VideoFrame) -> tuple[int, tuple[str, ...]]:
    """Clockwise degrees (a multiple of 90) that make the picture upright, and warnings."""
    # FFmpeg's angle is counter-clockwise: how far the display matrix turns the coded picture.
    clockwise = -frame.rotation % 360
    turns = round(clockwise / 90) % 4 * 90
    warnings: list[str] = []
    if clockwise % 90:
        warnings.append(f"a rotation of {clockwise} degrees was taken as {turns}")
    if _is_mirrored(frame):
        warnings.append("the display matrix mirrors the picture; that is not applied")
    return turns, tuple(warnings)


def _is_mirrored(frame: VideoFrame) -> bool:
    """Whether the display matrix flips the picture (negative determinant)."""
    for entry in frame.side_data:
        if getattr(getattr(entry, "type", None), "name", "") == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(entry))  # type: ignore[arg-type]
            return a * d - b * c < 0
    return False


def _picture_warnings(frame: VideoFrame, stream: VideoStream) -> tuple[str, ...]:
    """What is lost or doubtful about the pictures."""
    warnings: list[str] = []
    name = frame.format.name
    if frame.interlaced_frame:
        warnings.append("the video is interlaced; it is restored as it is, not deinterlaced")
    if has_alpha(name) or stream.metadata.get("alpha_mode") == "1":
        warnings.append("the video has transparency (alpha), which is dropped")
    if bit_depth(name) > 8:
        warnings.append(f"the video has {bit_depth(name)} bits a sample; it is restored as 8 bits")
    return tuple(warnings)


def _other_streams(
    container: InputContainer, video: VideoStream, counts: Counter[int]
) -> tuple[StreamInfo, ...]:
    """All streams but the one that is restored."""
    return tuple(
        StreamInfo(
            index=stream.index,
            kind=stream.type,
            codec=codec_name(stream),
            language=stream.language if stream.language != "und" else None,
            num_packets=counts[stream.index],
        )
        for stream in container.streams
        if stream.index != video.index
    )
