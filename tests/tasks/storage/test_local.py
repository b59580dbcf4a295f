"""The local folder as a storage."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from seedvr2_core.errors import (
    InvalidRequestError,
    ResourceError,
    StorageError,
)
from tasks.storage.local import LocalStorage


def _file(folder: Path, content: bytes, name: str = "made.mp4") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)


@pytest.fixture(params=["linked", "copied"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> LocalStorage:
    if request.param == "copied":
        request.getfixturevalue("no_links")
    return LocalStorage(tmp_path / "out")


def test_put_stat_delete(storage: LocalStorage, tmp_path: Path) -> None:
    stored = storage.put(_file(tmp_path, b"video"), "a_1080p.mp4")
    assert (stored.name, stored.num_bytes, stored.url) == ("a_1080p.mp4", 5, None)
    assert stored.sha256 == _sha256(b"video")
    assert stored.path
    assert stored.path.read_bytes() == b"video"
    assert storage.stat("a_1080p.mp4") == stored
    assert os.listdir(tmp_path / "out") == ["a_1080p.mp4"]
    storage.delete("a_1080p.mp4")
    storage.delete("a_1080p.mp4")
    assert storage.stat("a_1080p.mp4") is None


def test_from_another_file_system(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        stored = LocalStorage(tmp_path / "out").put(_file(Path(folder), b"video"), "a.mp4")
    assert stored.path
    assert stored.path.read_bytes() == b"video"
    assert os.listdir(tmp_path / "out") == ["a.mp4"]


def test_same_bytes_are_not_written_again(storage: LocalStorage, tmp_path: Path) -> None:
    path = _file(tmp_path, b"video")
    first = storage.put(path, "a.mp4")
    assert first.path
    before = first.path.stat()
    assert storage.put(path, "a.mp4") == first
    after = first.path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_other_bytes_get_a_number(storage: LocalStorage, tmp_path: Path) -> None:
    names = [
        storage.put(_file(tmp_path, content, content.decode()), "a.b.mp4").name
        for content in (b"one", b"two", b"six", b"two", b"one")
    ]
    assert names == ["a.b.mp4", "a.b-1.mp4", "a.b-2.mp4", "a.b-1.mp4", "a.b.mp4"]
    assert (tmp_path / "out" / "a.b.mp4").read_bytes() == b"one"


def test_what_the_job_does_later_leaves_the_stored_file_alone(
    storage: LocalStorage, tmp_path: Path
) -> None:
    path = _file(tmp_path, b"video")
    storage.put(path, "a.mp4")
    _file(tmp_path, b"redone", "made.mp4.part").replace(path)
    assert (tmp_path / "out" / "a.mp4").read_bytes() == b"video"
    path.unlink()
    assert (tmp_path / "out" / "a.mp4").read_bytes() == b"video"


def test_what_a_killed_copy_left_is_written_over(
    no_links: None, storage: LocalStorage, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    _file(tmp_path / "out", b"vi", f".{_sha256(b'video')}.part")
    storage.put(_file(tmp_path, b"video"), "a.mp4")
    assert os.listdir(tmp_path / "out") == ["a.mp4"]
    assert (tmp_path / "out" / "a.mp4").read_bytes() == b"video"


def test_a_file_that_is_not_what_was_expected_is_not_stored(
    storage: LocalStorage, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=_sha256(b"video")):
        storage.put(_file(tmp_path, b"other"), "a.mp4", sha256=_sha256(b"video"))
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", ".hidden.mp4", "../a.mp4", "a/b.mp4", "a\\b.mp4", "a\0.mp4", "é" * 126],
    ids=repr,
)
def test_names_that_leave_or_hide(storage: LocalStorage, tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, b"video")
    for act in (lambda: storage.put(path, name), lambda: storage.stat(name)):
        with pytest.raises(InvalidRequestError):
            act()
    with pytest.raises(InvalidRequestError):
        storage.delete(name)
    assert os.listdir(tmp_path) == ["made.mp4"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EIO, StorageError)],
    ids=["full", "quota", "broken"],
)
def test_a_disk_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(kind, match=r"storing a\.mp4 .*: "):
        LocalStorage(tmp_path / "out").put(_file(tmp_path, b"video"), "a.mp4")
    assert os.listdir(tmp_path / "out") == []


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        LocalStorage(tmp_path / "out").put(tmp_path / "gone.mp4", "a.mp4")
