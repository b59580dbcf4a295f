"""The elements of Matroska and WebM files (RFC 8794, RFC 9559)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.files.reading import FileReader
from seedvr2_core.video.headers.facts import DolbyVision, Edges, TrackHeader

_SEGMENT, _CLUSTER, _TRACKS, _TRACK, _TYPE, _VIDEO = (
    *(0x18538067, 0x1F43B675, 0x1654AE6B),
    *(0xAE, 0x83, 0xE0),
)
_CROP_BOTTOM, _CROP_TOP, _CROP_LEFT, _CROP_RIGHT = 0x54AA, 0x54BB, 0x54CC, 0x54DD
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xB0, 0xBA
_ADDITION, _ADDITION_TYPE, _ADDITION_DATA = 0x41E4, 0x41E7, 0x41ED
_DOLBY_VISION = {int.from_bytes(kind) for kind in (b"dvcC", b"dvvC", b"dvwC")}
_VIDEO_TRACK = 1
_MOST_ELEMENTS = 10_000
_MOST_BYTES = 2**16
_HEAD_BYTES = 12


@dataclass(frozen=True, slots=True)
class _Element:
    id: int
    start: int
    """Of its content."""
    stop: int
    open_ended: bool = False
    """It says no size: a live recording."""


def read_video_tracks(path: Path) -> list[TrackHeader]:
    """What the headers say about the video tracks, in their order; empty where there are none.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    with FileReader(path) as file:
        whole = _Element(0, 0, file.num_bytes)
        for segment in _elements(file, whole):
            if segment.id != _SEGMENT:
                continue
            for part in _elements(file, segment):
                if part.id == _TRACKS:
                    tracks = [_values(file, track) for track in _elements(file, part)]
                    return [_header(file, t) for t in tracks if _number(t, _TYPE) == _VIDEO_TRACK]
                if part.id == _CLUSTER and part.open_ended:
                    break
    return []


def _elements(file: FileReader, parent: _Element) -> Iterator[_Element]:
    """The elements in an element; ends at the first one that cannot be."""
    position = parent.start
    for _ in range(_MOST_ELEMENTS):
        if position >= parent.stop:
            return
        file.seek(position)
        head = file.read(_HEAD_BYTES)
        id_bytes = _length(head, most=4)
        size_bytes = _length(head[id_bytes:], most=8) if id_bytes else 0
        if not size_bytes:
            return
        size = int.from_bytes(head[id_bytes : id_bytes + size_bytes])
        size &= (1 << 7 * size_bytes) - 1
        open_ended = size == (1 << 7 * size_bytes) - 1
        start = position + id_bytes + size_bytes
        stop = parent.stop if open_ended else min(start + size, parent.stop)
        yield _Element(int.from_bytes(head[:id_bytes]), start, stop, open_ended)
        position = stop


def _length(head: bytes, *, most: int) -> int:
    """Bytes of a number of variable size: one more than the zeros it begins with; 0: none."""
    length = 9 - head[0].bit_length() if head and head[0] else 0
    return length if length <= most and length <= len(head) else 0


def _values(file: FileReader, parent: _Element) -> dict[int, list[bytes | _Element]]:
    """Everything in an element: masters stay elements, the rest is read."""
    found: dict[int, list[bytes | _Element]] = {}
    for element in _elements(file, parent):
        value: bytes | _Element = element
        if element.id not in (_VIDEO, _ADDITION):
            file.seek(element.start)
            value = file.read(min(element.stop - element.start, _MOST_BYTES))
        found.setdefault(element.id, []).append(value)
    return found


def _number(values: dict[int, list[bytes | _Element]], id_: int) -> int:
    """An unsigned number; 0 where it is not there."""
    value = next(iter(values.get(id_, [])), b"")
    return int.from_bytes(value) if isinstance(value, bytes) else 0


def _header(file: FileReader, track: dict[int, list[bytes | _Element]]) -> TrackHeader:
    edges, dolby_vision = Edges(), None
    for video in track.get(_VIDEO, []):
        if isinstance(video, _Element):
            found = _values(file, video)
            edges = Edges(
                left=_number(found, _CROP_LEFT),
                top=_number(found, _CROP_TOP),
                right=_number(found, _CROP_RIGHT),
                bottom=_number(found, _CROP_BOTTOM),
            ).within(_number(found, _PIXEL_WIDTH), _number(found, _PIXEL_HEIGHT))
    for addition in track.get(_ADDITION, []):
        if isinstance(addition, _Element):
            found = _values(file, addition)
            data = next(iter(found.get(_ADDITION_DATA, [])), b"")
            kind = _number(found, _ADDITION_TYPE)
            if kind in _DOLBY_VISION and isinstance(data, bytes) and len(data) >= 5:
                dolby_vision = DolbyVision.read(data)
    return TrackHeader(edges=edges, dolby_vision=dolby_vision)
