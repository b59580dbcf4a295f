"""Reads frames of a source by index: upright, in R'G'B', with their exact times.

Frames are found by their presentation time: seek to a key frame at or before the wanted one, decode
on, and check; a seek that landed too late is repeated from earlier. What the decoder never delivers
(damage) is replaced by its neighbour, within limits.
"""

import bisect
import logging
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.frames import Frame
from seedvr2_core.video._container import (
    decode_pictures,
    demux_all,
    open_source,
    thread_kind,
    time_base_of,
)
from seedvr2_core.video.fields.frames import frames_of_fields
from seedvr2_core.video.foreign import media_errors_told
from seedvr2_core.video.info import Reading, VideoInfo
from seedvr2_core.video.picture.convert import Converter

_log = logging.getLogger(__name__)

_EARLIER_SECONDS = (0, 2, 10)
"""How far before the wanted time each attempt seeks; the last one begins at the file's start."""
_MOST_MISSING_IN_A_ROW = 25
_MOST_MISSING_SHARE = 0.05
_ALWAYS_MENDED = 3
_UNMATCHED = -1


def read_frames(
    path: Path,
    info: VideoInfo,
    start: int,
    stop: int,
    *,
    deep: bool = False,
    alpha: bool = False,
    on_bytes: OnBytes = no_bytes,
) -> Iterator[Frame]:
    """Yield the presented frames [start, stop), lazily.

    Args:
        path: the source that `info` describes.
        info: from `probe_video`.
        start: index of the first frame; below 0 are those of the film before this part of it.
        stop: index after the last frame, <= info.num_frames.
        deep: give uint16, as sources and outputs of more than 8 bits need it.
        alpha: give each frame its alpha too, where the picture has some.
        on_bytes: called before every read of the file, also on the way to the first frame, which
            may be long: not every file can be read from its middle.

    Yields:
        Frames in order: uint8 or uint16 R'G'B' full range, rotation applied, pts =
        info.time_of(index).

    Raises:
        InvalidVideoError: more than 25 frames in a row, or 5 % of the file's (but at
            least 3), cannot be decoded.
        FileReadError: the machine failed to read the file.
        ValueError: the range does not lie in the file.
    """
    first = -info.reading.first if info.reading.film else 0
    if not first <= start <= stop <= info.num_frames:
        raise ValueError(f"frames [{start}, {stop}) do not lie in [{first}, {info.num_frames})")
    if start == stop:
        return
    convert = Converter(info, deep=deep)
    with media_errors_told(path, "its frames are read"):
        for index, picture in read_pictures(path, info, start, stop, on_bytes):
            rgb, own = convert.with_alpha(picture) if alpha else (convert(picture), None)
            yield Frame(rgb=rgb, pts=info.time_of(index), index=index, alpha=own)


def read_alphas(
    path: Path,
    info: VideoInfo,
    start: int,
    stop: int,
    *,
    deep: bool = False,
    on_bytes: OnBytes = no_bytes,
) -> Iterator[np.ndarray]:
    """Yield the alpha of the frames [start, stop), and nothing of their colour.

    Args, Raises: as `read_frames`.

    Yields:
        (H, W), uint8 or uint16, upright; opaque where a picture has no alpha.
    """
    convert, kind = Converter(info, deep=deep), np.uint16 if deep else np.uint8
    width, height = info.upright_size
    with media_errors_told(path, "its alpha is read"):
        for _, picture in read_pictures(path, info, start, stop, on_bytes):
            alpha = convert.alpha(picture)
            yield np.full((height, width), np.iinfo(kind).max, kind) if alpha is None else alpha


def read_pictures(
    path: Path, info: VideoInfo, start: int, stop: int, on_bytes: OnBytes = no_bytes
) -> Iterator[tuple[int, VideoFrame]]:
    """(index, picture) of the frames [start, stop): as coded, or made of fields; gaps mended.

    Raises:
        InvalidVideoError: as `read_frames`.
    """
    reading = info.reading
    if not (reading.method or reading.film):
        yield from _mended(path, info, start, stop, on_bytes)
        return
    # All pictures of the file, with the times that they have on the clock of the frames.
    whole = replace(info, pts=reading.pts or reading.film, reading=Reading())

    def pictures(first: int, end: int) -> Iterator[tuple[int, VideoFrame]]:
        return _mended(path, whole, first, end, on_bytes, num_frames=info.num_frames)

    offset = reading.first
    wanted = (start + offset, stop + offset)
    made = frames_of_fields(pictures, reading, *wanted) if reading.method else pictures(*wanted)
    for index, frame in made:
        yield index - offset, frame


def _mended(
    path: Path,
    info: VideoInfo,
    start: int,
    stop: int,
    on_bytes: OnBytes,
    *,
    num_frames: int | None = None,
) -> Iterator[tuple[int, VideoFrame]]:
    """(index, decoded picture as coded) of the file's pictures [start, stop), gaps mended.

    Args:
        path: the source that `info` describes.
        info: of all its pictures.
        start: first picture.
        stop: the one after the last.
        on_bytes: called before every read of the file.
        num_frames: of the job; a share of them may be missing. None: all of `info`.

    Raises:
        InvalidVideoError: as `read_frames`.
    """
    mender = _Mender(path, info.num_frames if num_frames is None else num_frames)
    pictures = _pictures_near(path, info, start, stop, on_bytes)
    for index, picture, delivered in _without_gaps(pictures, start, stop):
        mender.count(index, delivered=delivered)
        yield index, picture
    if not mender.counted:
        raise InvalidVideoError(f"{path.name}: no frame can be decoded from frame {start} on")


def _without_gaps(
    pictures: Iterator[tuple[int, VideoFrame]], start: int, stop: int
) -> Iterator[tuple[int, VideoFrame, bool]]:
    """(index, picture, whether it is the frame's own) for every frame of [start, stop).

    A missing frame shows the picture before it; where there is none, the one after it.
    """
    expected = start
    previous: VideoFrame | None = None
    for index, picture in pictures:
        for missing in range(expected, min(index, stop)):
            yield missing, previous or picture, False
        if start <= index < stop:
            yield index, picture, True
        previous = picture
        expected = max(expected, index + 1)
        if expected >= stop:
            return
    if previous is not None:
        for missing in range(expected, stop):
            yield missing, previous, False


class _Mender:
    """Counts frames that the decoder did not deliver and raises when there are too many."""

    def __init__(self, path: Path, num_frames: int) -> None:
        self._name = path.name
        self._most = max(_ALWAYS_MENDED, int(_MOST_MISSING_SHARE * num_frames))
        self._missing = 0
        self._in_a_row = 0
        self.counted = 0

    def count(self, index: int, *, delivered: bool) -> None:
        """Note whether frame `index` is its own picture or a neighbour's."""
        self.counted += 1
        if delivered:
            self._in_a_row = 0
            return
        self._missing += 1
        self._in_a_row += 1
        if self._in_a_row > _MOST_MISSING_IN_A_ROW or self._missing > self._most:
            raise InvalidVideoError(
                f"{self._name}: {self._missing} frames up to frame {index} cannot be decoded "
                f"(at most {_MOST_MISSING_IN_A_ROW} in a row and {self._most} in all are mended)"
            )
        _log.warning("%s: frame %d cannot be decoded; its neighbour is shown", self._name, index)


def _pictures_near(
    path: Path, info: VideoInfo, start: int, stop: int, on_bytes: OnBytes
) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded pictures with their frame index, rising, from at or before `start` on."""
    index = start - 1
    for index, picture in _decoded_near(path, info, start, on_bytes, threads="AUTO"):
        yield index, picture
    if index + 1 >= stop:
        return
    # With frame threads a broken packet near the end also loses the pictures after it, because PyAV
    # stops draining at the error. With slice threads every picture comes that can be decoded.
    first = index + 1
    for index, picture in _decoded_near(path, info, first, on_bytes, threads="SLICE"):
        if index >= first:
            yield index, picture


def _decoded_near(
    path: Path, info: VideoInfo, start: int, on_bytes: OnBytes, *, threads: str
) -> Iterator[tuple[int, VideoFrame]]:
    """One pass of decoding, beginning at a key frame at or before `start`."""
    if not info.seekable:
        with open_source(path, on_bytes=on_bytes) as container:
            stream = _video(container, info, threads)
            yield from enumerate(decode_pictures(container, stream), -info.reading.first)
        return
    if info.timeline.shifts:
        yield from _decoded_after_walk(path, info, start, on_bytes, threads=threads)
        return
    for seconds in _earlier(info, start):
        with open_source(path, on_bytes=on_bytes) as container:
            stream = _video(container, info, threads)
            clock = _FrameClock(info, stream)
            if seconds is not None and not _seek(container, stream, clock.raw(start, seconds)):
                continue
            pictures = decode_pictures(container, stream, from_key=seconds is not None)
            indexed = _indexed(pictures, info, clock)
            first = next(indexed, None)
            if first is None or (seconds is not None and first[0] > start):
                continue
            yield first
            yield from indexed
            return


def _decoded_after_walk(
    path: Path, info: VideoInfo, start: int, on_bytes: OnBytes, *, threads: str
) -> Iterator[tuple[int, VideoFrame]]:
    """As `_decoded_near`, in a file that cannot be asked for a time, because it has some twice.

    Its packets are read from the start, and decoded from the key frame on that is needed.
    """
    skip = 0
    with open_source(path, on_bytes=on_bytes) as container:
        stream = _video(container, info, threads)
        wanted = _FrameClock(info, stream).raw(start, _EARLIER_SECONDS[1])
        packets = demux_all(container, stream, timeline=info.timeline)
        for number, packet in enumerate(packets):
            if packet.is_keyframe and packet.pts is not None and packet.pts <= wanted:
                skip = number
    with open_source(path, on_bytes=on_bytes) as container:
        stream = _video(container, info, threads)
        pictures = decode_pictures(
            container, stream, from_key=skip > 0, skip=skip, timeline=info.timeline
        )
        yield from _indexed(pictures, info, _FrameClock(info, stream))


class _FrameClock:
    """Between the times of the stream, which are in its own ticks, and those of the frames."""

    def __init__(self, info: VideoInfo, stream: VideoStream) -> None:
        self._info = info
        self._raw, self._base = time_base_of(stream), Fraction(*info.time_base)
        self._zero = Fraction(*info.zero_offset)

    def time(self, raw: int) -> int:
        """The time of a frame that the decoder gives this time."""
        return round((raw * self._raw - self._zero) / self._base)

    def raw(self, index: int, seconds: int) -> int:
        """The stream's own time, so many seconds before a frame."""
        return round((self._info.pts[index] * self._base + self._zero - seconds) / self._raw)


def _earlier(info: VideoInfo, start: int) -> Iterator[int | None]:
    """Seconds before the wanted frame to seek to, attempt by attempt; None = decode from the start.

    Nobody seeks to before the first frame. A palette comes once, with the first packet after the
    file was opened (AVI, QuickTime), and changes on the way; pictures after a seek would be black.
    """
    if info.pix_fmt == "pal8":
        yield None
        return
    began = info.reading.began if info.reading.first else info.pts[0]
    for seconds in _EARLIER_SECONDS:
        if info.pts[start] - seconds / Fraction(*info.time_base) <= began:
            break
        yield seconds
    yield None


def _seek(container: InputContainer, stream: VideoStream, target: int) -> bool:
    """Seek to the key frame at or before a raw time; False where the container cannot."""
    try:
        container.seek(target, stream=stream)
    except av.error.FFmpegError:
        return False
    return True


def _video(container: InputContainer, info: VideoInfo, threads: str) -> VideoStream:
    """The stream that was probed, set to decode with the given kind of threads."""
    stream = container.streams[info.stream_index]
    assert isinstance(stream, VideoStream)
    stream.thread_type = threads if threads == "SLICE" else thread_kind(stream)
    return stream


def _indexed(
    pictures: Iterator[VideoFrame], info: VideoInfo, clock: _FrameClock
) -> Iterator[tuple[int, VideoFrame]]:
    """Give pictures their frame index by time; those that are no presented frame are left out."""
    last = _UNMATCHED
    for picture in pictures:
        if picture.pts is None:
            continue
        time = clock.time(picture.pts)
        index = bisect.bisect_left(info.pts, time)
        if index < info.num_frames and info.pts[index] == time and index > last:
            last = index
            yield index, picture
