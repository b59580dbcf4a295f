"""Writes large files with signs of life, and to the disk while they are written.

A muxer that hands its bytes to a `FileWriter` is never silent for long: between two writes of at
most some hundred kilobytes there is a beat. The kernel is told to write in steps, so that the sync
at the end of a file of many gigabytes has little left to do. How far apart these steps are follows
from how long the last one took: what lies in memory was written in no time, and on a slow disk a
few hundred megabytes of it would be minutes of silence.
"""

import io
import os
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes

_FIRST_SYNC_BYTES, _MIN_SYNC_BYTES, _MAX_SYNC_BYTES = 2**22, 2**20, 2**26
"""Bytes between two syncs. The most costs a fast disk little, and keeps one that has become a
hundred times slower within the minute that a child may be silent."""
_SHORT_SECONDS, _LONG_SECONDS = 0.5, 2.0
"""A sync that takes less, or more, is followed by twice as many bytes, or by half of them."""
_COPIED_BYTES = 2**20


class FileWriter(io.RawIOBase):
    """A new file to write to; an old one of that name is replaced.

    Args:
        path: the file.
        on_bytes: called before every write with (position, 0).

    Raises:
        OSError: the file cannot be made; later, that it cannot be written.
    """

    def __init__(self, path: Path, *, on_bytes: OnBytes = no_bytes) -> None:
        super().__init__()
        self.name = f"file:{path}"
        """What libav is told; the prefix keeps "http:x.mp4" a file's name."""
        self._on_bytes = on_bytes
        self._position = 0
        self._unsynced = 0
        self._sync_bytes = _FIRST_SYNC_BYTES
        self._file: BinaryIO = path.open("wb", buffering=0)

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def write(self, content: bytes, /) -> int:  # type: ignore[override]
        """Write all of it at the position; returns its length."""
        left = memoryview(content)
        while left:
            self._on_bytes(self._position, 0)
            done = self._file.write(left) or 0
            left = left[done:]
            self._position += done
            self._unsynced += done
        if self._unsynced >= self._sync_bytes:
            self._sync()
        return len(content)

    def _sync(self) -> None:
        """Bring what was written to the disk, and choose when to do so next."""
        began = monotonic()
        os.fdatasync(self._file.fileno())
        seconds = monotonic() - began
        if seconds < _SHORT_SECONDS:
            self._sync_bytes = min(2 * self._sync_bytes, _MAX_SYNC_BYTES)
        elif seconds > _LONG_SECONDS:
            self._sync_bytes = max(self._sync_bytes // 2, _MIN_SYNC_BYTES)
        self._unsynced = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position; returns it."""
        self._position = self._file.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def close(self) -> None:
        """Close the file."""
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


def copy_file(path: Path, target: Path, *, on_bytes: OnBytes = no_bytes) -> None:
    """Copy a file's bytes; an old target is replaced.

    Args:
        path: the file.
        target: where the copy goes. It is not synced to its end.
        on_bytes: called with (bytes copied, bytes in all).

    Raises:
        FileReadError: the machine failed to read it.
        OSError: one of the two cannot be opened, or the copy cannot be written.
    """
    with FileReader(path, on_bytes=on_bytes) as file, FileWriter(target) as copy:
        while piece := file.read(_COPIED_BYTES):
            copy.write(piece)
