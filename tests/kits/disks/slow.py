"""A disk on which every byte takes its time, by a clock that no test has to wait for."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from seedvr2_core.files import writing
from seedvr2_core.files.reading import FileReader
from seedvr2_core.files.writing import FileWriter

RATE = 2**20
"""Bytes a second, in each direction."""


class SlowDisk:
    """Counts the seconds that reads and writes would take, and those without a sign of life.

    What is written lies in memory first, as with a real disk: the sync that brings it to the disk
    is what takes the time.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        reads: bool,
        writes: bool,
        read_seconds: float = 0.0,
    ) -> None:
        """Slow down what all of this process's `FileReader` and `FileWriter` do from now on.

        Args:
            monkeypatch: undoes it.
            reads: whether bytes that are read take their time.
            writes: the same of those that are written.
            read_seconds: what each read takes beside its bytes, as on a network share far away.
        """
        self._read_seconds = read_seconds
        self.seconds = 0.0
        """What all of it has taken."""
        self.silence = 0.0
        """The longest time between two signs of life."""
        self._last = 0.0
        self._unsynced = 0
        if reads:
            self._slow_reads(monkeypatch)
        if writes:
            self._slow_writes(monkeypatch)

    def beat(self, *_: object) -> None:
        """Take a sign of life, whatever it says."""
        self.silence = max(self.silence, self.seconds - self._last)
        self._last = self.seconds

    def _take(self, num_bytes: int) -> None:
        self.seconds += num_bytes / RATE

    def _slow_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = FileReader._read

        def read(file: FileReader, size: int) -> bytes:
            piece = real(file, size)
            self.seconds += self._read_seconds
            self._take(len(piece))
            return piece

        monkeypatch.setattr(FileReader, "_read", read)

    def _slow_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begin = FileWriter.__init__

        def open_slow(file: FileWriter, path: Path, **options: Any) -> None:
            begin(file, path, **options)
            file._file = _Written(file._file, self)  # type: ignore[assignment]

        def synced(sync: Callable[[int], None]) -> Callable[[int], None]:
            def slow(handle: int) -> None:
                self._take(self._unsynced)
                self._unsynced = 0
                sync(handle)

            return slow

        monkeypatch.setattr(FileWriter, "__init__", open_slow)
        monkeypatch.setattr(os, "fsync", synced(os.fsync))
        monkeypatch.setattr(os, "fdatasync", synced(os.fdatasync))
        monkeypatch.setattr(writing, "monotonic", lambda: self.seconds, raising=False)

    def written(self, num_bytes: int) -> None:
        """Note bytes that lie in memory."""
        self._unsynced += num_bytes


class _Written:
    """A file whose writes are told to the disk."""

    def __init__(self, file: BinaryIO, disk: SlowDisk) -> None:
        self._file, self._disk = file, disk

    def write(self, content: bytes) -> int:
        self._disk.written(done := self._file.write(content))
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
