"""Reads files of our own making: segments and the joined file.

Their times stand in the index. Whoever wants nothing else opens them with `index_only`: then the
pictures' bytes are not fetched from the disk, and looking through a file of 20 GB takes a second.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.boxes import boxes_in
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes
from seedvr2_core.video._container import open_container, time_base_of
from seedvr2_core.video.info import EncoderSettings
from seedvr2_core.video.output.formats import counts_frames

_FETCHED_BYTES = 2**23
"""The beginning of a file is read in any case: libav looks at the first pictures."""
_MATROSKA_START = b"\x1a\x45\xdf\xa3"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPart:
    """A committed segment."""

    path: Path
    first_pts: int
    """Time of its first frame, in the source's ticks."""
    num_frames: int


class _IndexReader(FileReader):
    """Gives the bytes of an mp4's media data as zeros, without reading them; Matroska is read."""

    def __init__(self, path: Path, *, on_bytes: OnBytes) -> None:
        super().__init__(path, on_bytes=on_bytes)
        self._media: list[range] = []
        if not _is_matroska(self):
            self._media = list(self._media_ranges())

    def _read(self, size: int) -> bytes:
        position = self.tell()
        for box in self._media:
            if position in box:
                self._file.seek(size := min(size, box.stop - position), os.SEEK_CUR)
                return bytes(size)
        return super()._read(size)

    def _media_ranges(self) -> Iterator[range]:
        """Where media lie, after the part that is always fetched."""
        for box in boxes_in(self, 0, self.num_bytes):
            if box.kind == b"mdat" and box.stop > _FETCHED_BYTES:
                yield range(max(box.start, _FETCHED_BYTES), box.stop)
        self.seek(0)


@contextlib.contextmanager
def open_segment(
    path: Path,
    *,
    index_only: bool = False,
    demuxer: str = "",
    on_bytes: OnBytes = no_bytes,
) -> Iterator[InputContainer]:
    """Open a segment or the joined file for the length of a `with` block.

    Args:
        path: the file.
        index_only: packets have their times and sizes, and zeros for content, if it is an mp4.
        demuxer: FFmpeg's name of what reads it; that of mp4 reads QuickTime as well. "": that of a
            segment, which is mp4, QuickTime or Matroska.
        on_bytes: called with the position and the file's length before every read.

    Raises:
        SegmentError: it is not there or no mp4.
        FileReadError: the machine failed to read it, now or inside the block.
    """
    reader = _IndexReader if index_only and demuxer in ("", "mp4") else FileReader
    try:
        file = reader(path, on_bytes=on_bytes)
    except OSError as error:
        raise SegmentError(f"{path.name}: not a readable segment: {error}") from error
    with file:
        demuxer = demuxer or ("matroska" if _is_matroska(file) else "mp4")
        try:
            container = open_container(file, format_name=demuxer)
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError) as error:
            raise SegmentError(f"{path.name}: not a readable segment: {error}") from error
        with container:
            yield container
        if file.failed:  # and the demuxer has swallowed it
            raise file.failed


def _is_matroska(file: FileReader) -> bool:
    """Whether a file begins as Matroska does; the position is at its beginning again."""
    start = file.read(len(_MATROSKA_START))
    file.seek(0)
    return start == _MATROSKA_START


@dataclass(frozen=True, slots=True)
class FilmClock:
    """The times of a job's frames, for segments of a codec."""

    settings: EncoderSettings
    pts: tuple[int, ...]
    """Of all frames that the segments hold, rising, in the source's ticks."""

    def told(self, segments: Sequence[JoinPart]) -> "Iterator[tuple[JoinPart, tuple[int, ...]]]":
        """The segments, and of each the times of its frames where it only counts them."""
        counts, start = counts_frames(self.settings.codec), 0
        for part in segments:
            yield part, self.pts[start : start + part.num_frames] if counts else ()
            start += part.num_frames


def film_packets(
    segments: Sequence[JoinPart], clock: FilmClock, on_bytes: OnBytes
) -> "Iterator[tuple[JoinPart, int, Packet[VideoStream]]]":
    """(segment, pts in the source's ticks, packet) of all segments in file order."""
    time_base = Fraction(*clock.settings.time_base)
    for part, known in clock.told(segments):
        with open_segment(part.path, on_bytes=on_bytes) as container:
            for pts, packet in _segment_packets(part, container, time_base, known):
                yield part, pts, packet


def _segment_packets(
    part: JoinPart, container: InputContainer, time_base: Fraction, known: tuple[int, ...]
) -> "Iterator[tuple[int, Packet[VideoStream]]]":
    """(pts in the source's ticks, packet) of a segment in file order."""
    stream = container.streams.video[0]
    scale = time_base_of(stream) / time_base
    for number, packet in enumerate(p for p in container.demux(stream) if p.size):
        if number < len(known):
            yield known[number], packet
            continue
        ticks = None if packet.pts is None else packet.pts * scale
        if ticks is None or ticks.denominator != 1:
            raise SegmentError(
                f"{part.path.name}: a frame has the time {ticks} ticks, expected a whole number; "
                "redo the segment"
            )
        yield part.first_pts + ticks.numerator, packet


def segment_pictures(segments: Sequence[JoinPart], on_bytes: OnBytes) -> Iterator[bytes]:
    """The packets of all segments, of a codec whose packets are whole files."""
    for part in segments:
        with open_segment(part.path, on_bytes=on_bytes) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:
                    yield bytes(packet)


def times_in_file_order(
    segments: Sequence[JoinPart], clock: FilmClock, on_bytes: OnBytes
) -> list[int]:
    """Presentation times of all packets; checks frame counts and equal headers on the way."""
    times: list[int] = []
    header: bytes | None = None
    time_base = Fraction(*clock.settings.time_base)
    for part, known in clock.told(segments):
        with open_segment(part.path, index_only=True, on_bytes=on_bytes) as container:
            extradata = container.streams.video[0].codec_context.extradata
            if header is not None and extradata != header:
                raise SegmentError(
                    f"{part.path.name}: its codec header differs from the first segment's; "
                    "it was encoded with other settings"
                )
            header = extradata
            own = [pts for pts, _ in _segment_packets(part, container, time_base, known)]
        if len(own) != part.num_frames or min(own, default=None) != part.first_pts:
            raise SegmentError(
                f"{part.path.name}: {len(own)} frames from {min(own, default=None)} on, expected "
                f"{part.num_frames} from {part.first_pts}"
            )
        times += own
    return times
