"""Packing: once and for all, whole or absent, and not while somebody writes."""

import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from seedvr2_core.errors import (
    InvalidVideoError,
    SourceUnavailableError,
    UnsupportedFormatError,
)
from seedvr2_core.files import file_sha256
from seedvr2_core.video.sequence import pack
from seedvr2_core.video.sequence.names import pictures_in_folder
from seedvr2_core.video.sequence.pack import PictureOnDisk, pack_files, pack_zip, refuse_excess
from tests.seedvr2_core.video.sequence.conftest import moving, save_all

RATE = Fraction(24)


def test_the_same_pictures_and_rate_are_the_same_file(tmp_path: Path) -> None:
    folder = save_all(tmp_path / "in", moving(12))
    paths = pictures_in_folder(folder)
    told: list[tuple[int, int]] = []
    made = pack_files(paths, RATE, tmp_path / "out", on_bytes=lambda a, b: told.append((a, b)))
    assert made.path == tmp_path / "out" / made.sha256
    assert file_sha256(made.path) == made.sha256
    assert made.path.stat().st_size == made.num_bytes
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == 2 * sum(path.stat().st_size for path in paths)
    written = made.path.stat().st_mtime_ns
    for path in paths:
        path.touch()
    again = pack_files(paths, RATE, tmp_path / "out")
    assert again == made
    assert list((tmp_path / "out").iterdir()) == [made.path]
    assert made.path.stat().st_mtime_ns >= written  # a sweep sees that it is in use
    assert pack_files(paths, Fraction(25), tmp_path / "out").sha256 != made.sha256
    assert pack_files(paths[:-1], RATE, tmp_path / "out").sha256 != made.sha256
    assert pack_files(paths[::-1], RATE, tmp_path / "out").sha256 != made.sha256


def test_pictures_that_change_meanwhile_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_all(tmp_path / "in", moving(3))
    real, read = PictureOnDisk.pieces, []

    def noted(self: PictureOnDisk) -> Iterator[bytes]:
        yield from real(self)
        read.append(self.path.name)
        if len(read) == 3:  # between the two readings
            save_all(folder, moving(3)[::-1])

    monkeypatch.setattr(PictureOnDisk, "pieces", noted)
    with pytest.raises(SourceUnavailableError, match="have changed while they were read"):
        pack_files(pictures_in_folder(folder), RATE, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_pictures_that_go_away_meanwhile(tmp_path: Path) -> None:
    folder = save_all(tmp_path / "in", moving(3))
    paths = pictures_in_folder(folder)
    paths[1].unlink()
    with pytest.raises(SourceUnavailableError, match=r"f1.png.*when nobody writes"):
        pack_files(paths, RATE, tmp_path / "out")


def test_what_no_picture_can_be_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_all(tmp_path / "in", moving(3))
    (folder / "f1.png").write_bytes(b"")
    with pytest.raises(InvalidVideoError, match=r"f1.png is empty"):
        pack_files(pictures_in_folder(folder), RATE, tmp_path / "out")
    monkeypatch.setattr(pack, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(UnsupportedFormatError, match=r"f0.png has \d+ bytes"):
        pack_files(pictures_in_folder(folder), RATE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_becomes_what_its_folder_becomes(tmp_path: Path) -> None:
    folder = save_all(tmp_path / "in", moving(12))
    zipped = tmp_path / "a.zip"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, f"shot/{path.name}")
    made = pack_zip(zipped, "a.zip", RATE, tmp_path / "out")
    assert made == pack_files(pictures_in_folder(folder), RATE, tmp_path / "out")
    assert made is not None
    assert pack_zip(made.path, "a.zip", RATE, tmp_path / "out") is None  # nothing is to be done
    faster = pack_zip(made.path, "a.zip", Fraction(48), tmp_path / "out")
    assert faster == pack_files(pictures_in_folder(folder), Fraction(48), tmp_path / "out")


def test_long_and_large_sequences_are_refused() -> None:
    refuse_excess(10, 100, "a", frames=10, most_bytes=100)
    with pytest.raises(UnsupportedFormatError, match="more than 10 frames"):
        refuse_excess(11, 100, "a", frames=10, most_bytes=100)
    with pytest.raises(UnsupportedFormatError, match="SEEDVR2_FETCH_MAX_BYTES"):
        refuse_excess(10, 101, "a", frames=10, most_bytes=100)
    with pytest.raises(UnsupportedFormatError, match="more than 500000 frames"):
        refuse_excess(500_001, 1, "a", frames=10**7, most_bytes=100)
