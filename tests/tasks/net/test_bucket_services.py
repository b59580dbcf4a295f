"""Objects of Google's and Azure's services: the same rules as in S3, over a line with faults."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from seedvr2_core.errors import (
    InvalidRequestError,
    SourceRefusedError,
    StorageError,
    StorageRefusedError,
)
from tasks.net.bucket import PIECE_BYTES, Bucket
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources import check_source, obtain_source
from tasks.storage import check_storage, open_storage
from tasks.store import Lease
from tests.kits.http import objects
from tests.kits.http.objects import ObjectStore

Make = Callable[..., Settings]


@pytest.fixture(params=["gcs", "azure", "azurite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "azurite" and not objects.AZURITE:
        pytest.skip("azurite is not on this machine's path")
    servers = {
        "gcs": objects.google,
        "azure": objects.azure,
        "azurite": lambda: objects.azurite(tmp_path / "azurite"),
    }
    with servers[request.param]() as store:
        yield store


@pytest.fixture
def bucket(store: ObjectStore, settings_with: Make) -> Bucket:
    return Bucket(store.address, settings_with(**store.settings()))


def test_one_of_two_writers_learns_that_it_came_second(bucket: Bucket) -> None:
    first = bucket.create("a/b", b"mine")
    assert first
    assert bucket.create("a/b", b"theirs") is None
    found = bucket.read("a/b")
    assert found is not None
    assert (found.content, found.tag) == (b"mine", first)
    second = bucket.replace("a/b", b"mine again", first)
    assert second
    assert second != first
    assert bucket.replace("a/b", b"late", first) is None
    assert bucket.replace("a/none", b"new", second) is None
    assert bucket.read("a/none") is None
    assert bucket.names("a") == ["a/b"]
    bucket.delete("a/b", "a/none")
    assert bucket.read("a/b") is None


def test_a_conditional_write_is_done_once_whatever_the_line_does(
    bucket: Bucket, store: ObjectStore
) -> None:
    for kind in ("lost", "busy", "away"):
        store.line.fail(kind, "^PUT")
        tag = bucket.create(f"lock {kind}", b"run 1")
        assert tag, kind
        store.line.fail(kind, "^PUT")
        assert bucket.replace(f"lock {kind}", b"run 1, still at work", tag), kind
    assert store.line.happened == ["lost", "lost", "busy", "busy", "away", "away"]


def test_a_lease_is_held_by_one_run(store: ObjectStore, settings_with: Make) -> None:
    bucket = Bucket(store.address, settings_with(**store.settings()))

    def lease(run: str) -> Lease:
        return Lease(bucket, "key", run_id=run, label="clip", holder=run, seconds=100)

    mine, theirs = lease("1"), lease("2")
    assert mine.take() == ""
    assert "job 1" in theirs.take()
    mine.renew()
    assert not mine.lost
    mine.give_back()
    assert theirs.take() == ""
    mine.renew()
    assert mine.lost


@pytest.mark.parametrize("num_bytes", [0, 1000, 2 * PIECE_BYTES + 5], ids=["empty", "small", "3"])
def test_a_file_comes_back_as_it_was(bucket: Bucket, tmp_path: Path, num_bytes: int) -> None:
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_bytes(os.urandom(num_bytes))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    bucket.put_file(source, "x", sha256=digest, content_type="video/mp4")
    told = bucket.stat("x")
    assert told is not None
    assert (told.num_bytes, told.sha256) == (num_bytes, digest)
    assert bucket.get_file("x", target, sha256=digest)
    assert target.read_bytes() == source.read_bytes()
    assert not bucket.get_file("y", target, sha256=digest)


def test_an_output_is_stored_described_served_and_removed(
    store: ObjectStore, settings_with: Make, tmp_path: Path
) -> None:
    place = {f"{store.storage}_outputs": store.address, "storage": store.storage}
    settings = settings_with(**store.settings(**place))
    check_storage(settings)
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a video" * 1000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    store.line.fail("lost", "^PUT")
    stored = open_storage(settings).put(path, "clip.1.mp4", sha256=digest)
    assert (stored.name, stored.num_bytes, stored.sha256) == ("clip.1.mp4", 7000, digest)
    assert stored.url is not None
    answer = httpx.get(stored.url, headers={"Range": "bytes=0-6"})
    assert (answer.status_code, answer.content) == (206, b"a video")
    assert answer.headers["content-type"] == "video/mp4"
    store.line.requests.clear()
    assert open_storage(settings).put(path, "clip.1.mp4", sha256=digest).name == "clip.1.mp4"
    assert not [asked for asked in store.line.requests if asked.startswith("PUT")]
    path.write_bytes(b"another")
    assert open_storage(settings).put(path, "clip.1.mp4").name == "clip.1-1.mp4"
    open_storage(settings).delete("clip.1.mp4")
    assert open_storage(settings).stat("clip.1.mp4") is None
    served = settings.model_copy(update={f"{store.storage}_base_url": "https://cdn.example.org/v"})
    found = open_storage(served).stat("clip.1-1.mp4")
    assert found is not None
    assert found.url == "https://cdn.example.org/v/clip.1-1.mp4"
    with pytest.raises(InvalidRequestError):
        open_storage(settings).stat("../clip.mp4")


def test_an_address_that_obstore_signs_wrongly_is_not_given_out(
    store: ObjectStore, settings_with: Make
) -> None:
    """Seen with Azurite: names that are escaped in an address have another signature there."""
    bucket = Bucket(f"{store.address}/of ä", settings_with(**store.settings()))
    bucket.write("clip.mp4", b"x")
    if store.scheme == "az":
        with pytest.raises(StorageRefusedError, match="SEEDVR2_AZURE_BASE_URL"):
            bucket.link("clip.mp4", 600)
    else:
        assert httpx.get(bucket.link("clip.mp4", 600)).content == b"x"


def test_bytes_that_changed_on_the_way_are_no_output(
    settings_with: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These services compare nothing: what they have is read back."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"a video")
    digest = hashlib.sha256(b"a video").hexdigest()
    with objects.google() as store:
        settings = settings_with(
            **store.settings(storage="gcs", gcs_outputs=store.address, link_seconds=300)
        )
        put = store.objects.put
        with monkeypatch.context() as broken:
            broken.setattr(store.objects, "put", lambda n, c, h: put(n, c.upper(), h))
            with pytest.raises(StorageError, match="and was removed; try again"):
                open_storage(settings).put(path, "clip.mp4", sha256=digest)
        assert not store.objects.kept
        assert open_storage(settings).put(path, "clip.mp4", sha256=digest).sha256 == digest
        store.objects.put("some/folder/clip.mp4", b"A VIDEO", {"x-goog-meta-sha256": digest})
        with pytest.raises(StorageError, match="and was removed; try again"):
            open_storage(settings).put(path, "clip.mp4", sha256=digest)


def test_sources_lie_below_what_is_allowed(
    store: ObjectStore, settings_with: Make, tmp_path: Path
) -> None:
    place = f"{store.scheme}://{objects.BUCKET}/In"
    settings = settings_with(**store.settings(**{f"{store.storage}_sources": f"{place}/"}))
    Bucket(place, settings).write("day 1/Clip.mp4", b"frames")
    request = UpscaleRequest(video_url=f"{place}/day 1/Clip.mp4")
    check_source(request, settings)
    source = obtain_source(request, settings, note=print)
    assert (source.name, source.path.read_bytes()) == ("Clip.mp4", b"frames")
    if store.scheme == "az":
        same = UpscaleRequest(video_url=f"azure{place[2:]}/day 1/Clip.mp4")
        assert obtain_source(same, settings, note=print).sha256 == source.sha256
    name = store.storage.upper()
    for elsewhere in ("work/Clip.mp4", "In/../work/Clip.mp4"):
        url = f"{store.scheme}://{objects.BUCKET}/{elsewhere}"
        with pytest.raises(SourceRefusedError, match=f"SEEDVR2_{name}_SOURCES"):
            check_source(UpscaleRequest(video_url=url), settings)
    missing = UpscaleRequest(video_url=f"{place}/none.mp4")
    with pytest.raises(SourceRefusedError, match="does not exist"):
        check_source(missing, settings)


def test_what_cannot_work_is_told_at_once(store: ObjectStore, settings_with: Make) -> None:
    settings = settings_with(**store.settings(storage=store.storage))
    with pytest.raises(StorageRefusedError, match="there is no such bucket"):
        Bucket(f"{store.scheme}://no-such-bucket/x", settings).stat("x")
    with pytest.raises(StorageRefusedError, match=f"{store.storage.upper()}_OUTPUTS is not set"):
        check_storage(settings)


def test_keys_that_are_none_are_refused_without_being_shown(settings_with: Make) -> None:
    with pytest.raises(StorageRefusedError, match="SEEDVR2_AZURE_ACCOUNT is not set"):
        Bucket("az://videos/x", settings_with())
    with pytest.raises(StorageRefusedError, match="check the SEEDVR2_GCS_ settings") as caught:
        Bucket("gs://videos/x", settings_with(gcs_key=json.dumps({"private_key": "hush-hush"})))
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store", "ftp://x/y"),
        ("gcs_outputs", "s3://x"),
        ("azure_sources", "gs://x"),
        ("store", "gs://"),
    ],
)
def test_an_address_of_another_kind_is_refused(settings_with: Make, field: str, value: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        settings_with(**{field: value})


def test_two_names_of_one_scheme(settings_with: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_with(store="azure://videos/work/").store == "az://videos/work"
    monkeypatch.setenv("SEEDVR2_S3_LINK_SECONDS", "600")
    assert Settings().link_seconds == 600
