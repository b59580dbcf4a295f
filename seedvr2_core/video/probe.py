"""Finds out what a source holds by demuxing every packet; a header alone is never believed.

`sniff_video` is the cheap check before a job begins, `probe_video` reads the whole file.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.files.mp4_index import check_index
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
    video_of,
)
from seedvr2_core.video._reasons import encrypted, looks_encrypted
from seedvr2_core.video.alpha.layer import with_alpha_layer
from seedvr2_core.video.fields.facts import Fields
from seedvr2_core.video.headers.read import read_headers, refuse_dolby_vision
from seedvr2_core.video.info import SEQUENCE_FORMAT, StreamInfo, VideoInfo, ends_early
from seedvr2_core.video.output.hdr import hdr_of
from seedvr2_core.video.picture.beside import losses, side_data
from seedvr2_core.video.picture.color import (
    bit_depth,
    has_alpha,
    refuse_unsupported,
    resolve_color,
)
from seedvr2_core.video.picture.facts import frame_tags, shape_of, tags
from seedvr2_core.video.picture.opening import (
    is_of_pictures,
    look_at_picture,
    look_at_pictures,
)
from seedvr2_core.video.probing.ending import Ending, by_index, ending_of, promise_of
from seedvr2_core.video.probing.fields import find_fields, may_be_interlaced
from seedvr2_core.video.probing.scan import Most, Scan, no_frames, refuse_encrypted, scan_file
from seedvr2_core.video.probing.times import (
    frame_times,
    last_duration,
    named_rate,
    nominal_rate,
)
from seedvr2_core.video.probing.version import prober as prober
from seedvr2_core.words import counted

if TYPE_CHECKING:
    from seedvr2_core.video.sequence.look import SequenceFacts

_SNIFF_READS = 2**12
"""Reads (of 64 KiB) at the door to find a picture; where none is found then, the probe decides."""
_LOOK = 16
"""Pictures decoded to see their format and whether the packets' times can be believed."""
_SRGB, _BT709 = 13, 1
"""Transfers by H.273. Displays show both alike, and a video that says sRGB is a rare thing."""
_FAR_SECONDS = 10
"""A file whose streams all begin later than this begins at its first picture or sound instead:
nobody waits for hours because a camera's clock counts from midnight."""


class _EnoughError(Exception):
    """So much was read at the door that the probe decides."""


class _Enough:
    """Ends the look at the door after so many reads."""

    def __init__(self) -> None:
        self._reads = 0

    def __call__(self, done: int, total: int) -> None:
        self._reads += 1
        if self.reached:
            raise _EnoughError

    @property
    def reached(self) -> bool:
        """Whether it has ended; libav may take that for the file's end."""
        return self._reads > _SNIFF_READS


def sniff_video(path: Path, *, allow_damaged: bool = False, max_frames: int | None = None) -> None:
    """Refuse a file that is plainly no usable video: read its headers, decode its first picture.

    A picture (PNG, JPEG, TIFF, WebP, EXR) is a video of one frame, a zip of pictures with their
    times is one of many.

    Args:
        path: a local file.
        allow_damaged: take a file whose index says that its end is missing.
        max_frames: a video with a longer index is refused; None: any is taken.

    Raises:
        InvalidVideoError: not a video, cut off before the first frame, no video stream, encrypted,
            or cut off by what its index says.
        UnsupportedFormatError: a kind of video that is refused, or too long.
    """
    if is_of_pictures(path):
        with open_source(path) as container:
            stream = main_video(container, path)
            for first in itertools.islice(decode_pictures(container, stream), 1):
                refuse_unsupported(path.name, frame_tags(first))
        return
    check_index(path, max_frames)
    with open_source(path) as container:
        stream = main_video(container, path)
        refuse_unsupported(path.name, tags(stream.codec_context))
        refuse_encrypted(path, stream)
        refuse_dolby_vision(path, container, stream)
        promise = promise_of(container, stream, path)
        ending = by_index(promise, named_rate(stream))
    if promise.frames and not promise.frames_there:
        raise no_frames(path)
    if ending.refused and not allow_damaged:
        raise ends_early(path.name, ending.sentence)
    enough = _Enough()
    try:
        # The pictures' own tags win over the container's, so one has to be decoded.
        with open_source(path, on_bytes=enough) as container:
            stream = main_video(container, path)
            index = stream.index
            first = next(decode_pictures(container, stream), None)
        if first is None and not enough.reached:
            raise _undecodable(path, index)
    except _EnoughError:
        return
    if first is not None:
        refuse_unsupported(path.name, frame_tags(first))


def displayed_size(path: Path) -> tuple[int, int]:
    """(width, height) of a video's first picture as displayed, in whole pixels.

    Rotation, hidden edges and the shape of its pixels count; nothing else is read.

    Raises:
        InvalidVideoError: not a video, or its first picture cannot be decoded.
    """
    with open_source(path) as container:
        stream = main_video(container, path)
        first = next(decode_pictures(container, stream), None)
        if first is None:
            raise _undecodable(path, stream.index)
        shape = shape_of(first, stream, read_headers(path, container).of(container, stream).edges)
    width, height = round(shape.width * Fraction(*shape.sar)), shape.height
    return (height, width) if shape.rotation in (90, 270) else (width, height)


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
        InvalidVideoError: not a video, cut off before the first frame, encrypted, or no video
            stream.
        UnsupportedFormatError: a kind of video that is refused, or too long.
        FileReadError: the machine failed to read the file.
    """
    on_bytes = partial(beat, "probe")
    most = Most(path, max_frames, max_seconds)
    if (still := look_at_picture(path)) is not None:
        one = Scan(0, times=[0], last_duration=1, of_pictures=True)
        info = _with_alpha(path, _describe(path, one, on_bytes), on_bytes)
        return _with_kind(info, info.size_bytes, still.notes, codec=still.kind, format=still.kind)
    if (pictures := look_at_pictures(path, on_bytes)) is not None:
        return _describe_sequence(path, pictures, most, on_bytes)
    check_index(path, max_frames)
    scan = scan_file(path, most, on_bytes)
    if not scan.num_packets:
        raise _undecodable(path, scan.stream)
    info = _with_alpha(path, _describe(path, scan, on_bytes), on_bytes)
    return replace(info, fields=_fields(path, info, on_bytes))


def _describe_sequence(
    path: Path, pictures: "SequenceFacts", most: Most, on_bytes: OnBytes
) -> VideoInfo:
    """Describe a sequence of pictures, of which the first one is decoded."""
    times = list(pictures.pts)
    most.check(len(times), times[-1] / pictures.scale)
    scan = Scan(0, times=times, last_duration=pictures.last_duration, of_pictures=True)
    info = _with_alpha(path, _describe(path, scan, on_bytes), on_bytes)
    if pictures.rate is not None:
        info = replace(info, nominal_rate=pictures.rate.as_integer_ratio())
    if info.color.transfer == _SRGB:
        info = replace(info, color=replace(info.color, transfer=_BT709))
    info = replace(info, fields=_fields(path, info, on_bytes))
    return _with_kind(
        info, pictures.num_bytes, pictures.notes, codec=pictures.kind, format=SEQUENCE_FORMAT
    )


def _with_kind(
    info: VideoInfo, num_bytes: int, notes: Sequence[str], *, codec: str, format: str
) -> VideoInfo:
    """What is said of pictures: they were read as PNGs, whose bytes say nothing of the file's."""
    bits = round(8 * num_bytes / (info.num_frames * info.width * info.height), 4)
    told = (*info.warnings, *notes)
    return replace(info, codec=codec, format_name=format, bits_per_pixel=bits, warnings=told)


def _with_alpha(path: Path, info: VideoInfo, on_bytes: OnBytes) -> VideoInfo:
    """Look at the alpha of some pictures where there may be some."""
    if not has_alpha(info.pix_fmt):
        return with_alpha_layer(path, info, on_bytes)
    from seedvr2_core.video.alpha.look import find_alpha  # loads numpy

    return replace(info, alpha=find_alpha(path, info, on_bytes))


def _fields(path: Path, info: VideoInfo, on_bytes: OnBytes) -> Fields:
    """Look at the fields of some pictures where the video may be interlaced."""
    if not may_be_interlaced(info):
        return Fields()
    with open_source(path, on_bytes=on_bytes) as container:
        stream = video_of(container, path, info.stream_index)
        stream.thread_type = thread_kind(stream)
        return find_fields(container, stream, info)


def _undecodable(path: Path, index: int) -> InvalidVideoError:
    """The error for a video of which no picture can be decoded: it says why where that shows."""
    if looks_encrypted(path):
        return encrypted(path.name)
    with open_source(path) as container:
        stream = video_of(container, path, index)
        packets = [packet for packet in demux_all(container, stream) if packet.size]
        if any(packet.has_sidedata("encryption_info") for packet in packets):
            return encrypted(path.name)
    if not packets:
        return no_frames(path)
    return InvalidVideoError(
        f"{path.name}: none of the video's frames can be decoded; the file is damaged"
    )


def _describe(path: Path, scan: Scan, on_bytes: OnBytes) -> VideoInfo:
    """Decode the first pictures and describe the source."""
    with open_source(path, on_bytes=on_bytes) as container:
        stream = video_of(container, path, scan.stream)
        first, looked_at = _first_pictures(container, stream, 1 if scan.of_pictures else _LOOK)
        if first is None:
            raise _undecodable(path, scan.stream)
        refuse_unsupported(path.name, frame_tags(first))
        raw_base = time_base_of(stream)
        usual = nominal_rate(stream, scan.times, raw_base)
        rate = named_rate(stream) if scan.untimed else usual
        step = 1 / (rate * raw_base)
        pixels = first.width * first.height
        frames = frame_times(path, looked_at, scan, step, on_bytes, pixels=pixels)
        time_base = raw_base / frames.finer
        rate = nominal_rate(stream, frames.times, time_base) if scan.untimed else usual
        zero = _zero(container, scan, frames.times[0] * time_base)
        zero_ticks = round(zero / time_base)
        header = read_headers(path, container).of(container, stream)
        shape = shape_of(first, stream, header.edges)
        seconds = [time * time_base for time in frames.times]
        ending = ending_of(scan.promise, scan.extent, scan.stream, seconds, rate)
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
            last_duration=last_duration(scan, frames, rate, time_base),
            nominal_rate=rate.as_integer_ratio(),
            zero_offset=(zero_ticks * time_base).as_integer_ratio(),
            streams=_other_streams(container, stream, scan.counts),
            timeline=scan.timeline,
            hdr=hdr_of(side_data(first)),
            warnings=(
                *(*losses(side_data(first)), *shape.warnings, *changes),
                *header.warnings,
                *(*frames.warnings, *_told(scan, ending, zero, container)),
            ),
            seekable=frames.seekable,
            ends_early=ending.sentence if ending.refused else "",
            bits_per_pixel=round(8 * scan.num_bytes / (len(frames.times) * pixels), 4),
        )


def _zero(container: InputContainer, scan: Scan, first_shown: Fraction) -> Fraction:
    """The time, in exact seconds, that becomes 0 in the output.

    Broadcast containers count from anywhere, the others from 0; but where nothing happens for long
    after that, it is the first picture or the first sound.
    """
    zero = min(container_zero(container), first_shown)
    sounds = [
        scan.extent.starts[stream.index]
        for stream in container.streams.audio
        if stream.index in scan.extent.starts
    ]
    earliest = min([first_shown, *sounds])
    return earliest if earliest - zero > _FAR_SECONDS else zero


def _first_pictures(
    container: InputContainer, stream: VideoStream, count: int = _LOOK
) -> tuple[VideoFrame | None, list[int | None]]:
    """The first picture, None if there is none, and the times of the first ones.

    One picture is held at a time: of the largest that are taken, 16 have 6 GB.
    """
    first: VideoFrame | None = None
    times: list[int | None] = []
    for picture in itertools.islice(decode_pictures(container, stream), count):
        first = first or picture
        times.append(picture.pts)
    return first, times


def _told(scan: Scan, ending: Ending, zero: Fraction, container: InputContainer) -> list[str]:
    """Warnings about the file: damaged packets, its end, its parts and its clock."""
    told: list[str] = []
    if scan.corrupt:
        are = "is" if scan.corrupt == 1 else "are"
        told.append(f"{counted(scan.corrupt, 'packet')} of the video {are} damaged or cut off")
    if ending.sentence:
        told.append(ending.sentence)
    if scan.late:
        told.append("a stream that appears only after the start of the file is not carried over")
    parts = sum(shift.stream == scan.stream for shift in scan.timeline.shifts)
    if parts:
        told.append(
            f"the file was joined from {parts + 1} parts that each have a clock of their own; they "
            "were put behind each other"
        )
    elif scan.timeline.shifts:
        told.append("the clock of a sound or text track begins anew; it goes on where it was")
    if abs(zero - container_zero(container)) > _FAR_SECONDS:
        told.append(f"the file's clock begins at {float(zero):.0f} s; the output's begins at 0")
    return told


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
