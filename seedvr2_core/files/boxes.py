"""The boxes of which mp4 and QuickTime files are made (ISO/IEC 14496-12, 4.2).

A box says how long it is and of what kind. What it holds is read elsewhere: how many frames an
index orders (`mp4_index.py`), what headers say (`video/headers/boxes.py`), where the media lie
(`video/_segments.py`).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from seedvr2_core.files.reading import FileReader

_HEAD = struct.Struct(">I4s")
_LARGE = struct.Struct(">Q")
_HAS_LARGE, _TO_THE_END = 1, 0
"""Instead of a size: it follows in 64 bits; the box reaches to the end."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box: its kind, and where its content lies in the file."""

    kind: bytes
    start: int
    stop: int


def boxes_in(file: FileReader, start: int, stop: int) -> Iterator[Box]:
    """The boxes that lie one after another in a stretch of a file.

    One that seems to be longer than the stretch ends with it. The walk ends at the first box that
    cannot be, and each box costs a read: who reads a stranger's file takes only so many.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    while start + _HEAD.size <= stop:
        file.seek(start)
        head = file.read(_HEAD.size + _LARGE.size)
        if len(head) < _HEAD.size:
            return
        size, kind = _HEAD.unpack_from(head)
        content = start + _HEAD.size
        if size == _HAS_LARGE and len(head) == _HEAD.size + _LARGE.size:
            (size,) = _LARGE.unpack_from(head, _HEAD.size)
            content += _LARGE.size
        end = stop if size == _TO_THE_END else min(start + size, stop)
        if end < content:
            return
        yield Box(kind, content, end)
        start = end
