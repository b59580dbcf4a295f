"""Counts the frames that the index of an mp4 or QuickTime file orders, before libav builds it.

The index has runs: in 20 bytes it may say "four thousand million samples of 12 bytes". When libav
opens the file it takes 36 bytes of memory for each of them, so the count is read first. Boxes and
their fields are those of ISO/IEC 14496-12; the numbers after their names are its sections.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.files.boxes import Box, boxes_in
from seedvr2_core.files.reading import FileReader

_BRANDS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof", b"sidx")
"""What such a file may begin with."""
_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
_DEPTH = len(_PARENTS)
"""The path to any count is shorter; boxes within boxes without end are not followed."""
_MOST_BOXES = 1_000_000
"""A file may be nothing but boxes of 8 bytes. So many take about 5 s; a recording of 12 hours in
fragments of a second has a third of them."""
_OF_EACH_SAMPLE = 0xF00
"""Flags of a run: duration, size, flags or offset of each sample are written down."""


@dataclass(slots=True)
class _Walk:
    """A walk through the boxes of a file."""

    file: FileReader
    boxes_left: int


def check_index(path: Path, max_frames: int | None) -> None:
    """Refuse a video whose index is too long, before memory is spent on it.

    Args:
        path: a file of any kind.
        max_frames: the most that are taken; None: any number.

    Raises:
        UnsupportedFormatError: there are more.
        FileReadError: the machine failed to read the file.
    """
    if max_frames is not None and most_indexed(path) > max_frames:
        raise too_many_frames(path.name, max_frames)


def too_many_frames(name: str, max_frames: int) -> UnsupportedFormatError:
    """The error for a video that is too long."""
    return UnsupportedFormatError(
        f"{name}: the video has more than {max_frames} frames, the most that are taken here "
        "(SEEDVR2_MAX_FRAMES); cut it into parts"
    )


def most_indexed(path: Path) -> int:
    """Samples that the longest video track orders, fragments of the file included.

    Sound is left out: uncompressed sound has a sample for each of its 48000 values a second, and
    libav makes no entries of those.

    Args:
        path: a file of any kind.

    Returns:
        0 where the file is of another kind, or its index cannot be followed.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    try:
        file = FileReader(path) if path.is_file() else None
    except OSError:
        file = None
    if file is None:
        return 0  # whoever opens it as a video says why it cannot
    with file:
        if file.read(8)[4:] not in _BRANDS:
            return 0
        return max(_counts(_Walk(file, _MOST_BOXES)).values(), default=0)


def _counts(walk: _Walk) -> dict[int, int]:
    """Number of each video track -> its samples."""
    counts: dict[int, int] = {}
    for box in _boxes(walk, 0, walk.file.num_bytes):
        if box.kind == b"moov":
            for track in _children(walk, box, b"trak"):
                _count_track(walk, track, counts)
        elif box.kind == b"moof":
            for part in _children(walk, box, b"traf"):
                number, count = _of_fragment(walk, part)
                if number in counts:
                    counts[number] += count
    return counts


def _count_track(walk: _Walk, track: Box, counts: dict[int, int]) -> None:
    """Add a track's samples (8.7.3) if it is one of video."""
    number, counted, is_video = 0, 0, False
    for box in _inside(walk, track, _DEPTH):
        if box.kind == b"tkhd":  # 8.3.2; the version decides how wide the times before it are
            number = _number(walk, box, 20 if _number(walk, box, 0, 1) else 12)
        elif box.kind == b"hdlr":  # 8.4.3
            is_video = is_video or _field(walk, box, 8, 4) == b"vide"
        elif box.kind in (b"stsz", b"stz2"):
            counted = max(counted, _number(walk, box, 8))
    if is_video:
        counts[number] = counts.get(number, 0) + counted


def _of_fragment(walk: _Walk, part: Box) -> tuple[int, int]:
    """Number of a fragment's track (8.8.7), and samples of its runs (8.8.8).

    Only runs that say nothing of each sample are counted; the others grow with the file.
    """
    number = count = 0
    for box in _boxes(walk, part.start, part.stop):
        if box.kind == b"tfhd":
            number = _number(walk, box, 4)
        elif box.kind == b"trun" and not _number(walk, box, 0) & _OF_EACH_SAMPLE:
            count += _number(walk, box, 4)
    return number, count


def _children(walk: _Walk, parent: Box, kind: bytes) -> Iterator[Box]:
    return (box for box in _boxes(walk, parent.start, parent.stop) if box.kind == kind)


def _inside(walk: _Walk, parent: Box, depth: int) -> Iterator[Box]:
    """All boxes in a box that hold no others, `depth` levels deep at the most."""
    for box in _boxes(walk, parent.start, parent.stop):
        if box.kind not in _PARENTS:
            yield box
        elif depth:
            yield from _inside(walk, box, depth - 1)


def _boxes(walk: _Walk, start: int, stop: int) -> Iterator[Box]:
    """The boxes in a stretch of the file, as long as the walk may go on."""
    for box in boxes_in(walk.file, start, stop):
        if not walk.boxes_left:
            return
        walk.boxes_left -= 1
        yield box


def _number(walk: _Walk, box: Box, offset: int, size: int = 4) -> int:
    return int.from_bytes(_field(walk, box, offset, size), "big")


def _field(walk: _Walk, box: Box, offset: int, size: int) -> bytes:
    """A field of a box; shorter where the box ends."""
    return _at(walk, box.start + offset, max(0, min(size, box.stop - box.start - offset)))


def _at(walk: _Walk, position: int, size: int) -> bytes:
    walk.file.seek(position)
    return walk.file.read(size) if size else b""
