"""Reads files for libraries that would take a failed read for the end of the file.

FFmpeg's demuxers treat an error of the disk like the end of a file, or like damage that they may
skip: a file of which one read fails once would become half a video. So they read through a
`FileReader`, which tells an error of the machine from the end of the file and raises the first.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from seedvr2_core.errors import FileReadError

READ_BYTES = 2**18
"""Most bytes that are read at once; between two reads there is a sign of life."""


def no_bytes(done: int, total: int) -> None:
    """Ignore the progress: the default of what reads whole files."""


OnBytes = Callable[[int, int], None]
"""Called as on_bytes(done, total), both in bytes, again and again while a file is read."""
_told: ContextVar[OnBytes] = ContextVar("told_of_reads", default=no_bytes)


@contextlib.contextmanager
def reads_told(on_bytes: OnBytes) -> Iterator[None]:
    """Tell of every read in the `with` block, in this thread, of which nobody else is told.

    A header has a hundred small reads, which take ten seconds on a slow network share. Whoever
    reads one does not pass a sign of life down to each of them: this is what stands for it.
    """
    token = _told.set(on_bytes)
    try:
        yield
    finally:
        _told.reset(token)


class FileReader(io.RawIOBase):
    """A file to read from; every failed read is raised as FileReadError and remembered.

    Args:
        path: the file.
        on_bytes: called before every read with the position and the file's length. Where it is
            left out, the one of the surrounding `reads_told` is.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, on_bytes: OnBytes = no_bytes) -> None:
        super().__init__()
        self.name = f"file:{path}"
        """What libav takes the kind of file from; the prefix keeps "http:x.mp4" a file's name."""
        self.num_bytes = 0
        self.failed: FileReadError | None = None
        """The first read that failed; libraries may have swallowed the exception."""
        self._shown = path.name
        self._on_bytes = _told.get() if on_bytes is no_bytes else on_bytes
        self._position = 0
        self._file: BinaryIO = path.open("rb", buffering=0)
        self.num_bytes = os.fstat(self._file.fileno()).st_size

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes from the position on; nothing at the true end of the file.

        Raises:
            FileReadError: the machine could not read, or the file has become shorter.
        """
        self._on_bytes(self._position, self.num_bytes)
        try:
            piece = self._read(READ_BYTES if size < 0 else size)
        except OSError as error:
            raise self._failure(error.strerror or str(error)) from error
        if not piece and size and self._position < self.num_bytes:
            raise self._failure(f"it had {self.num_bytes} bytes and has become shorter")
        self._position += len(piece)
        return piece

    def _read(self, size: int) -> bytes:
        """What the operating system gives."""
        return self._file.read(size) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position; returns it.

        Raises:
            FileReadError: the machine could not.
            ValueError: the place lies before the file's beginning.
        """
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.num_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"{self._shown}: no position {start + offset}")
        try:
            self._position = self._file.seek(start + offset)
        except OSError as error:
            raise self._failure(error.strerror or str(error)) from error
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def close(self) -> None:
        """Close the file."""
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()

    def _failure(self, reason: str) -> FileReadError:
        """The error to raise, which is kept as well."""
        error = FileReadError(
            f"{self._shown}: reading at byte {self._position} of {self.num_bytes} failed "
            f"({reason}); look at the disk or network share it lies on, then run again"
        )
        self.failed = self.failed or error
        return error
