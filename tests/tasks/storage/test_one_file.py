"""The file that a caller names for the result: checked before, written once, never over another."""

import hashlib
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from seedvr2_core.errors import (
    InvalidRequestError,
    ResourceError,
    StorageError,
    StorageRefusedError,
)
from seedvr2_core.job.output_file import OutputFile, check_output_file
from tasks.settings import Settings
from tasks.storage.one_file import FileStorage
from tasks.storage.open import open_storage, storage_folder, stored_as


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the source")
    return path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "job" / "output.mp4"
    path.parent.mkdir()
    path.write_bytes(b"the result")
    return path


def _mount(folder: Path, *options: str) -> Iterator[Path]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "full"
    folder.mkdir()
    for mounted in _mount(folder, "-o", "size=4k"):
        (mounted / "all").write_bytes(b"x" * 4096)
        yield mounted


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "ro"
    folder.mkdir()
    yield from _mount(folder, "-o", "ro")


def _spelled(kind: str, source: Path) -> Path:
    folder = source.parent
    if kind == "itself":
        return source
    if kind == "dot":
        return folder / "." / "x" / ".." / source.name
    other = folder / "other.mp4"
    if kind == "symbolic link":
        other.symlink_to(source)
    elif kind == "hard link":
        os.link(source, other)
    else:
        (folder / "alias").symlink_to(folder)
        return folder / "alias" / source.name
    return other


@pytest.mark.parametrize("kind", ["itself", "dot", "symbolic link", "hard link", "linked folder"])
def test_the_source_is_never_the_output(kind: str, source: Path, made: Path) -> None:
    (source.parent / "x").mkdir()
    output = OutputFile(path=_spelled(kind, source), overwrite=True, source=source)
    with pytest.raises(InvalidRequestError, match="is the source itself"):
        check_output_file(output)
    with pytest.raises(StorageRefusedError, match="not replaced"):
        FileStorage(output).put(made, "any.mp4")
    FileStorage(output).delete("any.mp4")
    assert source.read_bytes() == b"the source"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("b.ts", "must end in .mp4"),
        ("b.avi", "must end in .mp4"),
        ("b", "must end in .mp4"),
        ("taken.mp4", "exists already; choose another name, or let it be replaced"),
        ("folder.mp4", "is a folder"),
        ("pipe.mp4", "is a device or a pipe"),
        ("null.mp4", "is a device or a pipe"),
        ("none/b.mp4", "in a folder that exists"),
        ("a.mp4/b.mp4", "Not a directory"),
        ("x" * 252 + ".mp4", "File name too long"),
        ("loop.mp4", "Too many levels of symbolic links|cannot be written"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    name: str, told: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken.mp4").write_bytes(b"mine")
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "null.mp4").symlink_to("/dev/null")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InvalidRequestError, match=told):
        check_output_file(OutputFile(path=tmp_path / name, source=source))
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "taken.mp4").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_written_is_refused(read_only: Path, full_disk: Path) -> None:
    with pytest.raises(InvalidRequestError, match="read-only file system"):
        check_output_file(OutputFile(path=read_only / "b.mp4"))


def test_what_may_be_passes_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    check_output_file(OutputFile(path=tmp_path / "b.MP4", source=source))
    (tmp_path / "c.mp4").write_bytes(b"old")
    check_output_file(OutputFile(path=tmp_path / "c.mp4", overwrite=True, source=source))
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "c.mp4"]


def test_the_file_is_the_only_copy_and_has_the_callers_name(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.mp4"
    settings = Settings(work_dir=tmp_path / "work")
    with stored_as(OutputFile(path=target)):
        storage = open_storage(settings)
        assert storage_folder(settings) == tmp_path
        assert storage.stat("clip_720p_abc.mp4") is None
        stored = storage.put(made, "clip_720p_abc.mp4")
        assert storage.stat("whatever") == stored
        assert storage.put(made, "clip_720p_abc.mp4") == stored, "the same bytes are there"
    assert (stored.name, stored.path, stored.url) == ("mine.mp4", target, None)
    assert stored.sha256 == hashlib.sha256(b"the result").hexdigest()
    assert target.stat().st_ino == made.stat().st_ino
    assert not (tmp_path / "work").exists()
    assert storage_folder(settings) == tmp_path / "work" / "output"


def test_a_link_is_followed(made: Path, tmp_path: Path) -> None:
    """Who links out.mp4 to a large disk wants the bytes there."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out.mp4"
    link.symlink_to(tmp_path / "disk" / "real.mp4")
    stored = FileStorage(OutputFile(path=link)).put(made, "any.mp4")
    assert stored.path == link
    assert link.is_symlink()
    assert (tmp_path / "disk" / "real.mp4").read_bytes() == b"the result"


def test_a_file_that_came_into_being_meanwhile_stays(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.mp4"
    target.write_bytes(b"somebody else's")
    with pytest.raises(StorageRefusedError, match=str(made)):
        FileStorage(OutputFile(path=target)).put(made, "any.mp4")
    assert target.read_bytes() == b"somebody else's"
    assert made.read_bytes() == b"the result"
    FileStorage(OutputFile(path=target, overwrite=True)).put(made, "any.mp4")
    assert target.read_bytes() == b"the result"


def test_a_full_disk_at_the_end_says_where_the_video_is(made: Path, full_disk: Path) -> None:
    with pytest.raises(ResourceError, match=rf"No space left.*{made}"):
        FileStorage(OutputFile(path=full_disk / "b.mp4")).put(made, "any.mp4")
    assert os.listdir(full_disk) == ["all"]
    assert made.exists()


def test_other_bytes_than_were_made_are_not_stored(made: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not the file that was made"):
        FileStorage(OutputFile(path=tmp_path / "b.mp4")).put(made, "any.mp4", sha256="0" * 64)
    assert not (tmp_path / "b.mp4").exists()


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    archive, target = tmp_path / "output.mp4", tmp_path / "pictures"
    with zipfile.ZipFile(archive, "w") as folder:
        folder.writestr("000000.png", b"a picture")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    output = OutputFile(path=target, folder=True)
    check_output_file(output)
    storage = FileStorage(output)
    assert storage.stat("any") is None
    stored = storage.put(archive, "any.zip", sha256=sha256)
    assert (stored.sha256, stored.num_bytes, stored.path) == (
        sha256,
        archive.stat().st_size,
        target,
    )
    assert storage.stat("any") == stored == storage.put(archive, "any.zip")
    assert (target / "000000.png").read_bytes() == b"a picture"
    with pytest.raises(InvalidRequestError, match="a folder is never replaced"):
        check_output_file(OutputFile(path=target, folder=True, overwrite=True))
    (target / "000000.png").write_bytes(b"my work")
    assert storage.stat("any") is None
    with pytest.raises(StorageRefusedError, match=f"the finished video is {archive}"):
        storage.put(archive, "any.zip")
    storage.delete("any")
    assert (target / "000000.png").read_bytes() == b"my work"
