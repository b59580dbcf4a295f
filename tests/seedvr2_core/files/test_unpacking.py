"""Folders that are made of archives: whole or absent, and never over anything."""

import zipfile
from pathlib import Path

import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import file_sha256
from seedvr2_core.files.unpacking import archive_of, unpack

FILES = {"000000.png": b"one" * 999, "000001.png": b"two", "sequence.json": b"{}"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as folder:
        for name, content in FILES.items():
            folder.writestr(name, content)
    return path


def left_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_a_folder_has_what_the_archive_has(archive: Path, tmp_path: Path) -> None:
    sha256, target = file_sha256(archive), tmp_path / "pictures"
    target.mkdir()  # an empty one is as good as none
    assert unpack(archive, target, sha256=sha256)
    assert left_in(target) == FILES
    found = archive_of(target)
    assert found is not None
    assert (found.sha256, found.num_bytes) == (sha256, archive.stat().st_size)
    (target / "000000.png").write_bytes(b"two" * 999)
    assert archive_of(target) is None


def test_nothing_is_replaced(archive: Path, tmp_path: Path) -> None:
    for name in ("full", "file"):
        target = tmp_path / name
        if name == "full":
            target.mkdir()
            (target / "mine").write_bytes(b"mine")
        else:
            target.write_bytes(b"mine")
        assert not unpack(archive, target, sha256="1" * 64)
        assert archive_of(target) is None
    assert left_in(tmp_path / "full") == {"mine": b"mine"}
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "full", "file"}


def test_what_a_killed_run_has_left_is_no_obstacle(archive: Path, tmp_path: Path) -> None:
    left = tmp_path / f".{'2' * 64}.part"
    left.mkdir()
    (left / "000009.png").write_bytes(b"half")
    assert unpack(archive, tmp_path / "pictures", sha256="2" * 64)
    assert left_in(tmp_path / "pictures") == FILES
    assert not left.exists()


def test_a_damaged_archive_makes_nothing(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[100] ^= 1
    archive.write_bytes(content)
    with pytest.raises(SegmentError, match="damaged"):
        unpack(archive, tmp_path / "pictures", sha256="3" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
