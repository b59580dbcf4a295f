"""Bunny's storage, spoken with a real edge on loopback; its answers, waits and limits."""

import hashlib
import logging
import tracemalloc
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from seedvr2_core.errors import (
    InvalidRequestError,
    ResourceError,
    StorageError,
    StorageRefusedError,
)
from tasks.storage import bunny
from tasks.storage.bunny import BunnyStorage
from tasks.storage.bunny_zone import read_zone
from tests.kits.http.edge import FOLDER, KEY, Edge, made_video

CONTENT = hashlib.shake_256(b"bunny").digest(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PUT = f"/zone/{FOLDER}/a.mp4"


@pytest.fixture
def edge(shared_edge: Edge) -> Edge:
    """The module's edge, empty and without faults."""
    shared_edge.switch()
    shared_edge.app.seen.clear()
    for name in shared_edge.stored():
        (shared_edge.root / FOLDER / name).unlink()
    return shared_edge


@pytest.fixture
def storage(edge: Edge, tmp_path: Path) -> BunnyStorage:
    return BunnyStorage(read_zone(edge.settings(tmp_path)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "made.mp4"
    path.write_bytes(CONTENT)
    return path


def test_put_stat_delete(edge: Edge, storage: BunnyStorage, path: Path) -> None:
    stored = storage.put(path, "a b.mp4", sha256=SHA256)
    assert (stored.name, stored.num_bytes, stored.sha256) == ("a b.mp4", len(CONTENT), SHA256)
    assert stored.url == f"{edge.url}/out/a%20b.mp4"
    assert stored.path is None
    assert edge.stored() == {"a b.mp4": CONTENT}
    assert storage.stat("a b.mp4") == stored
    put = next(seen for seen in edge.app.seen if seen.method == "PUT")
    assert put.headers["checksum"] == SHA256.upper()
    assert put.headers["override-content-type"] == "video/mp4"
    assert put.headers["content-length"] == str(len(CONTENT))
    storage.delete("a b.mp4")
    storage.delete("a b.mp4")
    assert storage.stat("a b.mp4") is None
    assert not edge.app.public(), "the public address was asked for"


def test_same_bytes_are_not_sent_again(edge: Edge, storage: BunnyStorage, path: Path) -> None:
    first = storage.put(path, "a.mp4")
    assert storage.put(path, "a.mp4", sha256=SHA256) == first
    assert edge.app.received() == len(CONTENT)


def test_other_bytes_get_a_number(edge: Edge, storage: BunnyStorage, tmp_path: Path) -> None:
    names = []
    for content in (b"one", b"two", b"six", b"two", b"one"):
        (tmp_path / "x").write_bytes(content)
        names.append(storage.put(tmp_path / "x", "a.b.mp4").name)
    assert names == ["a.b.mp4", "a.b-1.mp4", "a.b-2.mp4", "a.b-1.mp4", "a.b.mp4"]
    assert edge.stored() == {"a.b.mp4": b"one", "a.b-1.mp4": b"two", "a.b-2.mp4": b"six"}
    assert edge.app.received() == 9


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (400, StorageRefusedError, "other bytes than the checksum's"),
        (401, StorageRefusedError, "must be the password of the storage zone zone"),
        (403, StorageRefusedError, "BUNNY_HOST or SEEDVR2_BUNNY_REGION"),
        (302, StorageRefusedError, "answered 302 Found; expected success"),
        (404, StorageRefusedError, "answered 404 Not Found"),
        (413, StorageRefusedError, "answered 413"),
        (408, StorageError, "answered 408 Request Timeout; try again"),
        (429, StorageError, "answered 429 Too Many Requests; try again"),
        (500, StorageError, "answered 500 Internal Server Error; try again"),
        (503, StorageError, "answered 503 Service Unavailable; try again"),
        (507, ResourceError, "the storage is full"),
    ],
)
def test_statuses_of_a_put(
    edge: Edge, storage: BunnyStorage, path: Path, status: int, kind: type, told: str
) -> None:
    edge.switch(refusals=[status], refuse=["PUT"])
    with pytest.raises(kind, match=told) as caught:
        storage.put(path, "a.mp4", sha256=SHA256)
    assert type(caught.value) is kind
    assert KEY not in str(caught.value)
    assert edge.stored() == {}


def test_the_storages_own_wait_is_waited(edge: Edge, path: Path, tmp_path: Path) -> None:
    edge.switch(refusals=[429, 503], refuse=["DESCRIBE", "PUT"], retry_after=0)
    storage = BunnyStorage(read_zone(edge.settings(tmp_path)))
    assert storage.put(path, "a.mp4", sha256=SHA256).sha256 == SHA256
    assert [seen.status for seen in edge.app.seen] == [429, 503, 404, 201]


def test_waits_have_signs_of_life_and_an_end(
    edge: Edge, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bunny, "_MAX_WAIT_SECONDS", 1.0)
    beats: list[tuple[int, int]] = []
    storage = BunnyStorage(
        read_zone(edge.settings(tmp_path)), on_bytes=lambda *sent: beats.append(sent)
    )
    edge.switch(refusals=[429, 429], refuse=["PUT"], retry_after=1)
    with pytest.raises(StorageError, match="429"):
        storage.put(path, "a.mp4", sha256=SHA256)
    assert (0, len(CONTENT)) in beats


def test_progress_grows_to_the_whole(edge: Edge, path: Path, tmp_path: Path) -> None:
    sent: list[tuple[int, int]] = []
    storage = BunnyStorage(
        read_zone(edge.settings(tmp_path)), on_bytes=lambda *both: sent.append(both)
    )
    path.write_bytes(b"x" * (3 * 2**20 + 5))
    total = 3 * 2**20 + 5
    storage.put(path, "a.mp4", sha256=hashlib.sha256(b"x" * total).hexdigest())
    assert sent == [(2**20, total), (2 * 2**20, total), (3 * 2**20, total), (total, total)]


def test_a_cut_upload_stores_nothing_and_is_worth_a_retry(
    edge: Edge, storage: BunnyStorage, path: Path
) -> None:
    edge.switch(cut_uploads=1)
    with pytest.raises(StorageError, match="is away or broke off") as caught:
        storage.put(path, "a.mp4", sha256=SHA256)
    assert not caught.value.permanent
    assert edge.stored() == {}
    assert storage.put(path, "a.mp4", sha256=SHA256).sha256 == SHA256


def test_after_a_lost_answer_nothing_is_sent_again(
    edge: Edge, storage: BunnyStorage, path: Path
) -> None:
    edge.switch(lost_answers=1)
    with pytest.raises(StorageError, match="broke off"):
        storage.put(path, "a.mp4", sha256=SHA256)
    assert storage.put(path, "a.mp4", sha256=SHA256).name == "a.mp4"
    assert edge.app.received() == len(CONTENT)


def test_a_digest_that_is_not_there_yet_decides_nothing(
    edge: Edge, storage: BunnyStorage, path: Path
) -> None:
    storage.put(path, "a.mp4", sha256=SHA256)
    edge.switch(checksum="none")
    with pytest.raises(StorageError, match="no digest yet"):
        storage.put(path, "a.mp4", sha256=SHA256)
    assert edge.app.received() == len(CONTENT)


def test_a_file_that_is_not_what_was_made_is_not_stored(
    edge: Edge, storage: BunnyStorage, path: Path
) -> None:
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(StorageRefusedError, match=f"expected sha256 {SHA256}"):
        storage.put(path, "a.mp4", sha256=SHA256)
    assert edge.stored() == {}


def test_a_trickle_is_given_up(
    edge: Edge, storage: BunnyStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bunny, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(bunny, "_MIN_BYTES_PER_SECOND", 10**12)
    with pytest.raises(StorageError, match=r"took 300000 of 300000 bytes .* try again"):
        storage.put(path, "a.mp4", sha256=SHA256)


def test_nobody_there(path: Path, tmp_path: Path, edge: Edge) -> None:
    gone = edge.settings(tmp_path, bunny_host="http://127.0.0.1:1")
    with pytest.raises(StorageError, match="is away or broke off") as caught:
        BunnyStorage(read_zone(gone)).put(path, "a.mp4")
    assert not caught.value.permanent


def test_the_pull_zone_is_no_storage(path: Path, tmp_path: Path, edge: Edge) -> None:
    """A zone that answers DESCRIBE with a page."""
    edge.switch(refusals=[200], refuse=["DESCRIBE"])
    with pytest.raises(StorageRefusedError, match="BUNNY_HOST must name the storage"):
        BunnyStorage(read_zone(edge.settings(tmp_path))).stat("a.mp4")


def test_memory_does_not_follow_the_size(edge: Edge, tmp_path: Path) -> None:
    """Of client and edge together."""
    video = made_video(tmp_path, 48 * 2**20)
    storage = BunnyStorage(read_zone(edge.settings(tmp_path)))
    tracemalloc.start()
    try:
        storage.put(video.path, "large.mp4", sha256=video.sha256)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


def test_names_that_leave_or_hide(storage: BunnyStorage, edge: Edge, path: Path) -> None:
    for name in ("../a.mp4", "a/b.mp4", ".hidden.mp4", "", "a\0.mp4"):
        with pytest.raises(InvalidRequestError):
            storage.put(path, name)
    assert edge.app.seen == []


def test_the_key_is_shown_nowhere(
    edge: Edge, storage: BunnyStorage, path: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = edge.settings(tmp_path, bunny_token_key=SecretStr("token-key-0123456789"))
    zone = read_zone(settings)
    stored = BunnyStorage(zone).put(path, "a.mp4")
    edge.switch(refusals=[401])
    with pytest.raises(StorageRefusedError) as caught:
        storage.stat("a.mp4")
    for text in (caplog.text, repr(zone), repr(settings), str(caught.value), repr(stored)):
        assert KEY not in text
        assert "token-key-0123456789" not in text


def test_links_are_signed_where_a_token_key_is(edge: Edge, path: Path, tmp_path: Path) -> None:
    settings = edge.settings(tmp_path, bunny_token_key=SecretStr("t" * 20), bunny_token_seconds=600)
    edge.switch(token_key="t" * 20)
    stored = BunnyStorage(read_zone(settings)).put(path, "mein Film.mp4")
    assert stored.url
    assert httpx.get(stored.url).content == CONTENT
    assert httpx.get(stored.url.partition("?")[0]).status_code == 403
