"""Reads that fail, that give less than was asked for, and files that become shorter."""

import errno
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import FileReadError
from seedvr2_core.files import file_sha256
from seedvr2_core.files.reading import FileReader
from seedvr2_core.files.writing import FileWriter, copy_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(random.Random(1).randbytes(3_000_000))
    return path


def test_it_reads_what_is_there_from_everywhere(path: Path) -> None:
    content = path.read_bytes()
    with FileReader(path) as file:
        assert file.read(10) == content[:10]
        assert file.seek(-10, os.SEEK_END) == len(content) - 10
        assert (file.read(100), file.read(100)) == (content[-10:], b"")
        assert file.seek(5) == file.tell() == 5
        assert file.seek(5, os.SEEK_CUR) == 10
        assert file.read(3) == content[10:13]
        assert file.seek(len(content) + 7) == len(content) + 7
        assert file.read(1) == b""
        with pytest.raises(ValueError, match="no position -1"):
            file.seek(-1)
        assert file.failed is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_failed_read_is_raised_and_remembered(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = FileReader._read

    def fail(self: FileReader, size: int) -> bytes:
        if self.tell() >= 2**20:
            raise OSError(number, os.strerror(number))
        return real(self, size)

    monkeypatch.setattr(FileReader, "_read", fail)
    with FileReader(path) as file:
        file.read(2**20)
        with pytest.raises(FileReadError, match=f"byte 1048576 of 3000000.*{os.strerror(number)}"):
            file.read(1)
        assert file.failed is not None
    with pytest.raises(FileReadError):
        file_sha256(path)


def test_a_file_that_becomes_shorter_has_no_early_end(path: Path) -> None:
    with FileReader(path) as file:
        file.read(1000)
        os.truncate(path, 1500)
        assert len(file.read(1000)) == 500
        with pytest.raises(FileReadError, match="has become shorter"):
            file.read(1000)


@pytest.mark.parametrize("work", [file_sha256, copy_file])
def test_progress_comes_at_least_once_a_megabyte(
    path: Path, tmp_path: Path, work: Callable[..., object]
) -> None:
    seen: list[tuple[int, int]] = []
    arguments = (path, tmp_path / "b.bin") if work is copy_file else (path,)
    work(*arguments, on_bytes=lambda *both: seen.append(both))
    places = [done for done, _ in seen]
    assert {total for _, total in seen} == {3_000_000}
    assert (places[0], places[-1]) == (0, 3_000_000)
    assert all(b - a <= 2**20 for a, b in itertools.pairwise(places))


def test_a_copy_is_the_same(path: Path, tmp_path: Path) -> None:
    copy_file(path, tmp_path / "b.bin")
    assert (tmp_path / "b.bin").read_bytes() == path.read_bytes()


def test_writing_goes_on_after_a_partial_write_and_over_what_is_there(tmp_path: Path) -> None:
    class Slow:
        """A file that takes three bytes at a time."""

        def __init__(self, file: object) -> None:
            self._file = file

        def write(self, content: memoryview) -> int:
            return self._file.write(content[:3])  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

    with FileWriter(tmp_path / "a") as file:
        file._file = Slow(file._file)  # type: ignore[assignment]
        assert file.write(b"0123456789") == 10
        file.seek(2)
        file.write(b"xx")
        assert file.tell() == 4
    assert (tmp_path / "a").read_bytes() == b"01xx456789"
