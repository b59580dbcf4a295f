"""Objects in a real S3-compatible server, over a line with faults."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import StorageError, StorageRefusedError
from tasks.net import bucket
from tasks.net.bucket import PIECE_BYTES, Bucket
from tasks.settings import Settings
from tests.kits.hosts.network import way_to
from tests.kits.http.s3 import S3, SECRET


@pytest.fixture
def objects(s3: S3, settings_with: Callable[..., Settings]) -> Bucket:
    return Bucket(s3.address, settings_with(**s3.settings()))


def test_one_of_two_writers_learns_that_it_came_second(objects: Bucket) -> None:
    first = objects.create("a/b", b"mine")
    assert first
    assert objects.create("a/b", b"theirs") is None
    found = objects.read("a/b")
    assert found is not None
    assert (found.content, found.tag) == (b"mine", first)
    second = objects.replace("a/b", b"mine again", first)
    assert second
    assert second != first
    assert objects.replace("a/b", b"late", first) is None
    assert objects.replace("a/none", b"new", second) is None
    assert objects.read("a/none") is None
    assert objects.names("a") == ["a/b"]
    objects.delete("a/b", "a/none")
    assert objects.read("a/b") is None


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lost", "busy", "away", "slow"])
def test_a_conditional_write_is_done_once_whatever_the_line_does(
    objects: Bucket, s3: S3, kind: str
) -> None:
    """Of a lost answer the client would hear that somebody else was first: itself."""
    s3.line.fail(kind, "^PUT")
    tag = objects.create("lock", b"run 1")
    assert tag
    s3.line.fail(kind, "^PUT")
    assert objects.replace("lock", b"run 1, still at work", tag)
    assert s3.line.happened == [kind, kind]
    found = objects.read("lock")
    assert found is not None
    assert found.content == b"run 1, still at work"


@pytest.mark.parametrize("num_bytes", [0, 1000, 2 * PIECE_BYTES + 5], ids=["empty", "small", "3"])
def test_a_file_comes_back_as_it_was(objects: Bucket, tmp_path: Path, num_bytes: int) -> None:
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_bytes(os.urandom(num_bytes))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    seen: list[int] = []
    objects.put_file(source, "x", sha256=digest, on_bytes=lambda done, total: seen.append(done))
    told = objects.stat("x")
    assert told is not None
    assert (told.num_bytes, told.sha256) == (num_bytes, digest)
    assert objects.get_file("x", target, sha256=digest)
    assert target.read_bytes() == source.read_bytes()
    assert not num_bytes or seen[-1] == num_bytes
    assert not objects.get_file("y", target, sha256=digest)
    assert objects.stat("y") is None
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lost", "busy", "cut", "slow", "torn"])
def test_files_get_through_a_line_with_faults(
    objects: Bucket, s3: S3, tmp_path: Path, kind: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(PIECE_BYTES + 1000))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    s3.line.fail(kind, "^PUT .*partNumber")
    objects.put_file(source, "x", sha256=digest)
    s3.line.fail("away" if kind == "torn" else kind, "^GET")  # a GET has no body
    try:
        objects.get_file("x", target, sha256=digest)
    except StorageError:
        assert kind == "cut", "it may be asked again"
        assert not target.exists()
        objects.get_file("x", target, sha256=digest)
    assert target.read_bytes() == source.read_bytes()
    assert len(s3.line.happened) == 2


def test_wrong_bytes_are_never_taken(objects: Bucket, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"bytes")
    with pytest.raises(StorageError, match="is not the file that was made"):
        objects.put_file(source, "x", sha256="0" * 64)
    assert objects.stat("x") is None
    objects.write("x", b"other bytes")
    target.write_bytes(b"kept")
    with pytest.raises(StorageError, match=r"has sha256 .*, expected"):
        objects.get_file("x", target, sha256=hashlib.sha256(b"bytes").hexdigest())
    assert target.read_bytes() == b"kept"
    assert len(list(tmp_path.glob("**/*.part"))) == 0


def test_a_server_that_is_away_is_no_missing_object(
    objects: Bucket, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.line.fail("busy", ".", times=1000)
    with pytest.raises(StorageError, match="reading x in s3://") as caught:
        objects.read("x")
    assert not isinstance(caught.value, StorageRefusedError)
    assert SECRET not in str(caught.value)


@pytest.mark.long
def test_a_line_that_is_silent_ends_a_small_request(
    s3: S3, settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases and claims count on it. A piece of a large file may take longer."""
    monkeypatch.setattr(bucket, "SMALL_SECONDS", 1.0)
    with way_to(s3.line.url) as way:
        objects = Bucket(s3.address, settings_with(**s3.settings(s3_endpoint=way.url)))
        assert objects.create("lock", b"run 1")
        way.cut()
        for ask in (objects.read, objects.stat):
            with pytest.raises(StorageError, match="lock in s3://"):
                ask("lock")
        way.mend()
        found = objects.read("lock")
    assert found is not None
    assert found.content == b"run 1"


def test_a_wrong_clock_is_no_wrong_key(objects: Bucket, s3: S3, tmp_path: Path) -> None:
    """Services refuse what was signed at another time than theirs, with the status of a bad key."""
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    asked = [
        lambda: objects.read("x"),
        lambda: objects.create("x", b""),
        lambda: objects.stat("x"),
        lambda: objects.put_file(source, "x", sha256=hashlib.sha256(b"bytes").hexdigest()),
        lambda: objects.names(""),
    ]
    s3.line.fail("skewed", ".", times=100)
    for ask in asked:
        with pytest.raises(StorageRefusedError, match=r"the clock of this machine .* set it right"):
            ask()
    s3.line.mend()
    assert objects.create("x", b"")


def test_what_cannot_work_is_told_at_once(s3: S3, settings_with: Callable[..., Settings]) -> None:
    none = Bucket("s3://no-such-bucket-here/x", settings_with(**s3.settings()))
    with pytest.raises(StorageRefusedError, match="there is no such bucket"):
        none.write("x", b"")
    with pytest.raises(StorageRefusedError, match="belong together"):
        Bucket(s3.address, settings_with(**s3.settings(s3_access_key_id=None)))


def test_a_link_serves_anybody(objects: Bucket) -> None:
    import httpx

    objects.write("x y", b"shown")
    assert httpx.get(objects.link("x y", 300)).content == b"shown"


def test_pieces_fit_a_large_object() -> None:
    assert bucket.PIECE_BYTES * 10_000 > 80 * 10**9, "S3 takes 10,000 pieces"
