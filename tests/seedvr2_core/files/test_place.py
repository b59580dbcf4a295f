"""A finished file gets its name: whole, and never over another file unasked."""

import errno
import os
from pathlib import Path

import pytest

from seedvr2_core.files.place import place, try_writing


@pytest.fixture(params=["linked", "copied"])
def _ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "copied":

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.write_bytes(b"new")
    return path


@pytest.mark.usefixtures("_ways")
def test_a_free_name_is_taken_and_a_taken_one_is_not(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "a"
    (folder / ".part").write_bytes(b"left by a killed process")
    assert place(made, target, part_name=".part")
    assert (target.read_bytes(), made.read_bytes()) == (b"new", b"new")
    target.unlink()
    target.write_bytes(b"old")
    assert not place(made, target, part_name=".part")
    assert target.read_bytes() == b"old"
    assert place(made, target, part_name=".part", replace=True)
    assert target.read_bytes() == b"new"
    assert os.listdir(folder) == ["a"]


@pytest.mark.usefixtures("_ways")
def test_a_file_that_comes_into_being_meanwhile_is_kept(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on file systems without hard links, where a rename would replace it."""
    target = tmp_path / "a"
    link = os.link

    def slow(source: Path, name: Path) -> None:
        if name == target or not target.exists():
            target.write_bytes(b"somebody else's")
        link(source, name)

    monkeypatch.setattr(os, "link", slow)
    assert not place(made, target, part_name=".part")
    assert target.read_bytes() == b"somebody else's"
    assert sorted(os.listdir(tmp_path)) == ["a", "made"]


def test_a_dangling_link_is_a_taken_name(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.symlink_to(tmp_path / "nowhere")
    assert not place(made, target, part_name=".part")
    assert target.is_symlink()


def test_trying_a_folder_leaves_nothing(tmp_path: Path) -> None:
    try_writing(tmp_path)
    assert not os.listdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        try_writing(tmp_path / "none")
    with pytest.raises(OSError, match=r"."):
        try_writing(Path("/proc"))
