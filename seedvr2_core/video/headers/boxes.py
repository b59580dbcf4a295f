"""What the boxes of mp4 and QuickTime files say about the tracks (ISO/IEC 14496-12)."""

import itertools
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from seedvr2_core.files.boxes import Box, boxes_in
from seedvr2_core.files.reading import FileReader
from seedvr2_core.video.headers.facts import DolbyVision, Edges, TrackHeader

_MOST_BOXES = 10_000
"""In one box; a film has some hundred tracks at most, and a fragmented one 10 000 fragments."""
_MOST_ENTRY_BYTES = 2**16
_WIDE = b"\1"
"""The version of a header whose times have 64 bits."""
_VISUAL_ENTRY_BYTES = 78
_WIDTH_AT = 24
_CLAP = struct.Struct(">IIIIiIiI")
_DOLBY_VISION = (b"dvcC", b"dvvC", b"dvwC")
_LAYERS = b"lhvC"


def read_tracks(path: Path) -> list[TrackHeader]:
    """What the `moov` box says about the tracks; empty where there is none.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    with FileReader(path) as file:
        return [
            _track(file, track, _ticks(_first(file, movie, b"mvhd")))
            for movie in _inside(file, Box(b"", 0, file.num_bytes), b"moov")
            for track in _inside(file, movie, b"trak")
        ]


def _boxes(file: FileReader, box: Box) -> Iterator[Box]:
    """The boxes in a box."""
    return itertools.islice(boxes_in(file, box.start, box.stop), _MOST_BOXES)


def _inside(file: FileReader, box: Box, *path: bytes) -> Iterator[Box]:
    """The boxes that a path of kinds leads to."""
    for inner in _boxes(file, box):
        if inner.kind == path[0]:
            if len(path) == 1:
                yield inner
            else:
                yield from _inside(file, inner, *path[1:])


def _content(file: FileReader, box: Box, most: int = _MOST_ENTRY_BYTES) -> bytes:
    file.seek(box.start)
    return file.read(min(box.stop - box.start, most))


def _first(file: FileReader, box: Box, *path: bytes) -> bytes:
    """The content of the first box that a path leads to; b"" if there is none."""
    inner = next(_inside(file, box, *path), None)
    return b"" if inner is None else _content(file, inner)


def _ticks(header: bytes) -> int:
    """How many a second the movie has; 0 where that is not known."""
    at = 20 if header[:1] == _WIDE else 12
    return int.from_bytes(header[at : at + 4])


def _track(file: FileReader, track: Box, ticks: int) -> TrackHeader:
    header = _first(file, track, b"tkhd")
    id_at, end = (20, header[28:36]) if header[:1] == _WIDE else (12, header[20:24])
    references = _first(file, track, b"tref", b"chap")
    entries = next(_inside(file, track, b"mdia", b"minf", b"stbl", b"stsd"), None)
    entry = None
    if entries is not None:
        inside = Box(b"stsd", entries.start + 8, entries.stop)
        entry = next(_boxes(file, inside), None)
    is_video = _first(file, track, b"mdia", b"hdlr")[8:12] == b"vide"
    return TrackHeader(
        id=int.from_bytes(header[id_at : id_at + 4]),
        entry="" if entry is None else entry.kind.decode("latin-1"),
        end=Fraction(int.from_bytes(end), ticks) if ticks else None,
        edges=_edges(file, entry) if is_video and entry else Edges(),
        dolby_vision=_dolby_vision(file, entry) if is_video and entry else None,
        layers=_first(file, _visual(entry), _LAYERS) if is_video and entry else b"",
        chapters=tuple(
            int.from_bytes(references[i : i + 4]) for i in range(0, len(references) // 4 * 4, 4)
        ),
    )


def _visual(entry: Box) -> Box:
    """The boxes of a video's sample entry."""
    return Box(entry.kind, min(entry.start + _VISUAL_ENTRY_BYTES, entry.stop), entry.stop)


def _edges(file: FileReader, entry: Box) -> Edges:
    """What the clean aperture hides (`clap`: its size and where its middle lies, as fractions)."""
    content = _first(file, _visual(entry), b"clap")
    size = _content(file, entry)[_WIDTH_AT : _WIDTH_AT + 4]
    if len(content) < _CLAP.size or len(size) < 4:
        return Edges()
    numbers = _CLAP.unpack_from(content)
    if not all(numbers[1::2]):
        return Edges()
    width, height, right, down = (Fraction(numbers[i], numbers[i + 1]) for i in (0, 2, 4, 6))
    left, hidden_right = _hidden(int.from_bytes(size[:2]), width, right)
    top, bottom = _hidden(int.from_bytes(size[2:]), height, down)
    return Edges(left=left, top=top, right=hidden_right, bottom=bottom).within(
        int.from_bytes(size[:2]), int.from_bytes(size[2:])
    )


def _hidden(whole: int, shown: Fraction, offset: Fraction) -> tuple[int, int]:
    """Pixels before and behind the part that is shown."""
    before = round((whole - shown) / 2 + offset)
    return before, whole - before - round(shown)


def _dolby_vision(file: FileReader, entry: Box) -> DolbyVision | None:
    """The configuration: version (2 bytes), profile (7 bits), level, three flags, compatibility."""
    for kind in _DOLBY_VISION:
        content = _first(file, _visual(entry), kind)
        if len(content) >= 5:
            return DolbyVision.read(content)
    return None
