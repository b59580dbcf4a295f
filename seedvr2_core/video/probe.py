"""Finds out what a source holds by demuxing every packet; a header alone is never believed.

`sniff_video` is the cheap check before a job begins, `probe_video` reads the whole file.
"""

import bisect
import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.files.reading import OnBytes
from seedvr2_core.video._container import (
    codec_name,
    container_zero,
    decode_pictures,
    demux_all,
    main_video,
    open_source,
    thread_kind,
    time_base_of,
)
from seedvr2_core.video._ending import Ending, Extent, Promise, by_index, ending_of, promise_of
from seedvr2_core.video.headers.read import read_headers, refuse_dolby_vision
from seedvr2_core.video.info import StreamInfo, VideoInfo, ends_early
from seedvr2_core.video.picture.changes import PacketWatch
from seedvr2_core.video.picture.color import bit_depth, refuse_unsupported, resolve_color
from seedvr2_core.video.picture.facts import frame_tags, picture_warnings, shape_of, tags

_SNIFF_PACKETS = 2000
_SNIFF_DECODED_PACKETS = 300
_LOOK_PICTURES = 16
"""Pictures decoded to see their format and whether the packets' times can be believed."""
_UNTIMED_CONTAINERS = ("avi", "asf")
_VP8_SHOWN = 0x10
"""Bit of a VP8 packet's first byte: the frame is shown (others only serve as references)."""


def sniff_video(path: Path, *, allow_damaged: bool = False) -> None:
    """Refuse a file that is plainly no usable video: read its headers, decode its first picture.

    Args:
        path: a local file.
        allow_damaged: take a file whose index says that its end is missing.

    Raises:
        InvalidVideoError: not a video, cut off before the first frame, no video stream, or cut off
            by what its index says.
        UnsupportedFormatError: a kind of video that is refused.
    """
    with open_source(path) as container:
        stream = main_video(container, path)
        refuse_unsupported(path.name, tags(stream.codec_context))
        refuse_dolby_vision(path, container, stream)
        promise = promise_of(container, stream, path)
        packets = itertools.islice(demux_all(container), _SNIFF_PACKETS)
        if not any(packet.stream_index == stream.index and packet.size for packet in packets):
            raise _no_frames(path)
        ending = by_index(promise, stream.average_rate or Fraction(25))
        if ending.refused and not allow_damaged:
            raise ends_early(path.name, ending.sentence)
    # The pictures' own tags win over the container's, so one has to be decoded.
    with open_source(path) as container:
        stream = main_video(container, path)
        pictures = decode_pictures(container, stream, most_packets=_SNIFF_DECODED_PACKETS)
        first = next(pictures, None)
        if first is None:
            raise _undecodable(path)
        refuse_unsupported(path.name, frame_tags(first))


def probe_video(
    path: Path,
    *,
    beat: Beat = no_beat,
    max_frames: int | None = None,
    max_seconds: float | None = None,
) -> VideoInfo:
    """Read a whole source and describe it.

    Only the first pictures are decoded, unless the packets' times cannot be believed. A file that
    ends early is described as it is; `VideoInfo.ends_early` says so.

    Args:
        path: a local file.
        beat: called at every read with ("probe", position in the file, its length), and at every
            picture that is decoded.
        max_frames: a longer video is refused as soon as that is seen; None: any is taken.
        max_seconds: the same for the time from the first to the last frame.

    Raises:
        InvalidVideoError: not a video, cut off before the first frame, or no video stream.
        UnsupportedFormatError: a kind of video that is refused (HDR, BT.2020), or too long.
        FileReadError: the machine failed to read the file.
    """
    on_bytes = partial(beat, "probe")
    with open_source(path, on_bytes=on_bytes) as container:
        stream = main_video(container, path)
        refuse_unsupported(path.name, tags(stream.codec_context))
        refuse_dolby_vision(path, container, stream)
        scan = _scan(container, stream, path, _Most(path, stream, max_frames, max_seconds))
        zero = container_zero(container)
    if not scan.times and not scan.untimed:
        raise _no_frames(path)
    return _describe(path, scan, zero, on_bytes)


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
    first_time: int = 2**63
    last_time: int = -(2**63)
    last_duration: int = 0
    untimed: int = 0
    """Video packets without a pts."""
    corrupt: int = 0
    guessed: bool = False
    """The container holds no presentation times; the demuxer guesses them from the order."""
    counts: Counter[int] = field(default_factory=Counter)
    promise: Promise = field(default_factory=Promise)
    """What the file says about its end."""
    extent: Extent = field(default_factory=Extent)
    watch: PacketWatch | None = None

    def add(self, packet: "Packet[Stream]") -> None:
        """Count a packet of the video that is presented."""
        self.corrupt += packet.is_corrupt
        if packet.pts is None:
            self.untimed += 1
            return
        self.times.append(packet.pts)
        self.first_time = min(self.first_time, packet.pts)
        if packet.pts > self.last_time:
            self.last_time, self.last_duration = packet.pts, packet.duration or 0


class _Most:
    """The longest video that is taken."""

    def __init__(
        self, path: Path, stream: VideoStream, max_frames: int | None, max_seconds: float | None
    ) -> None:
        self._name = path.name
        self._frames = max_frames
        self._seconds = max_seconds
        self._ticks = None if max_seconds is None else max_seconds / time_base_of(stream)

    def check(self, num_frames: int, ticks: int = 0) -> None:
        """Refuse a video that is known to have so many frames, and to last so long.

        Raises:
            UnsupportedFormatError: that is too much.
        """
        if self._frames is not None and num_frames > self._frames:
            raise UnsupportedFormatError(
                f"{self._name}: the video has more than {self._frames} frames, the most that are "
                "taken here (SEEDVR2_MAX_FRAMES); cut it into parts"
            )
        if self._ticks is not None and ticks > self._ticks:
            raise UnsupportedFormatError(
                f"{self._name}: the video lasts longer than {self._seconds:g} s, the most that is "
                "taken here (SEEDVR2_MAX_VIDEO_SECONDS); cut it into parts"
            )


def _scan(container: InputContainer, stream: VideoStream, path: Path, most: _Most) -> _Scan:
    """Demux the whole file."""
    most.check(len(stream.index_entries))
    scan = _Scan(promise=promise_of(container, stream, path))
    scan.watch = watch = PacketWatch(stream)
    unordered = container.format.name in _UNTIMED_CONTAINERS
    scan.guessed = unordered and stream.codec_context.has_b_frames
    vp8 = stream.codec_context.codec.canonical_name == "vp8"
    for packet in demux_all(container):
        scan.counts[packet.stream_index] += 1
        scan.extent.add(packet)
        if packet.stream_index != stream.index or packet.is_discard or not packet.size:
            continue
        if vp8 and not bytes(packet)[0] & _VP8_SHOWN:
            continue
        scan.add(packet)
        watch.add(packet)
        most.check(len(scan.times) + scan.untimed, scan.last_time - scan.first_time)
    scan.times.sort()
    return scan


def _describe(path: Path, scan: _Scan, zero: Fraction, on_bytes: OnBytes) -> VideoInfo:
    """Decode the first pictures and describe the source."""
    with open_source(path, on_bytes=on_bytes) as container:
        stream = main_video(container, path)
        first, looked_at = _first_pictures(container, stream)
        if first is None:
            raise _undecodable(path)
        refuse_unsupported(path.name, frame_tags(first))
        time_base = time_base_of(stream)
        rate = _nominal_rate(stream, scan.times, time_base)
        warnings = picture_warnings(first, stream)
        frames = _frame_times(path, looked_at, scan, rate * time_base, on_bytes)
        zero = min(zero, frames.times[0] * time_base)
        zero_ticks = round(zero / time_base)
        header = read_headers(path, container).of(container, stream)
        shape = shape_of(first, stream, header.edges)
        ending = _ending(scan, stream, frames.times, rate)
        changes = scan.watch.warnings(zero) if scan.watch else ()
        return VideoInfo(
            format_name=container.format.name,
            size_bytes=path.stat().st_size,
            stream_index=stream.index,
            codec=stream.codec_context.codec.canonical_name,
            pix_fmt=first.format.name,
            bit_depth=bit_depth(first.format.name),
            width=shape.width,
            height=shape.height,
            rotation=shape.rotation,
            mirrored=shape.mirrored,
            crop=shape.crop,
            sar=shape.sar,
            codec_sar=shape.codec_sar,
            color=resolve_color(
                frame_tags(first),
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
            warnings=(
                *(*warnings, *shape.warnings, *changes),
                *(*frames.warnings, *_damage(scan, ending)),
            ),
            seekable=frames.seekable,
            ends_early=ending.sentence if ending.refused else "",
        )


def _first_pictures(
    container: InputContainer, stream: VideoStream
) -> tuple[VideoFrame | None, list[int | None]]:
    """The first picture, None if there is none, and the times of the first 16.

    One picture is held at a time: of the largest that are taken, 16 have 6 GB.
    """
    first: VideoFrame | None = None
    times: list[int | None] = []
    for picture in itertools.islice(decode_pictures(container, stream), _LOOK_PICTURES):
        first = first or picture
        times.append(picture.pts)
    return first, times


@dataclass(frozen=True, slots=True)
class _FrameTimes:
    """When all presented frames are shown."""

    times: list[int]
    """Strictly rising, raw (not yet counted from the container's zero)."""
    seekable: bool
    warnings: tuple[str, ...]


def _frame_times(
    path: Path,
    looked_at: Sequence[int | None],
    scan: _Scan,
    ticks_rate: Fraction,
    on_bytes: OnBytes,
) -> _FrameTimes:
    """Times of the frames: from the packets if these can be believed, otherwise by decoding.

    Args:
        path: the source.
        looked_at: times of the first pictures that the decoder gives.
        scan: of the packets.
        ticks_rate: nominal frames per tick.
        on_bytes: called while the file is read and decoded.
    """
    times = scan.times
    damaged = bool(scan.corrupt)
    if damaged or scan.guessed or scan.untimed or any(a == b for a, b in itertools.pairwise(times)):
        return _decoded_times(path, scan, ticks_rate, on_bytes)
    # Packets are believed if the first decoded pictures have the same times. Frames at the start
    # that depend on a key frame outside the file are never decoded; they are left out.
    lost = 0 if looked_at[0] is None else bisect.bisect_left(times, looked_at[0])
    if list(looked_at) != times[lost : lost + len(looked_at)]:
        return _decoded_times(path, scan, ticks_rate, on_bytes)
    if not lost:
        return _FrameTimes(times, True, ())
    note = f"{lost} frames at the start have no key frame before them and cannot be shown"
    return _FrameTimes(times[lost:], True, (note,))


def _decoded_times(path: Path, scan: _Scan, ticks_rate: Fraction, on_bytes: OnBytes) -> _FrameTimes:
    """Times from decoding the whole file, where a packet is not always one timed frame."""
    decoded: list[int | None] = []
    with open_source(path, on_bytes=on_bytes) as container:
        stream = main_video(container, path)
        # Frame threads lose pictures after a broken packet at the end (see reader.py).
        stream.thread_type = "SLICE" if scan.corrupt else thread_kind(stream)
        for picture in decode_pictures(container, stream):
            decoded.append(picture.pts)
            on_bytes(len(decoded), 0)
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


def _ending(scan: _Scan, stream: VideoStream, times: Sequence[int], rate: Fraction) -> Ending:
    """Whether the file ends before it says that it does."""
    time_base = time_base_of(stream)
    seconds = [time * time_base for time in times]
    return ending_of(scan.promise, scan.extent, stream.index, seconds, rate)


def _damage(scan: _Scan, ending: Ending) -> tuple[str, ...]:
    """Warnings if the demuxer found damaged packets or the file ends early."""
    told = (ending.sentence,) if ending.sentence else ()
    if not scan.corrupt:
        return told
    return (f"{scan.corrupt} packets of the video are damaged or cut off", *told)


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
