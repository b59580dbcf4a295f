"""The address of a caller as the place of the video: presigned by real services' own rules."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from seedvr2_core.errors import (
    InvalidRequestError,
    SourceRefusedError,
    StorageError,
    StorageRefusedError,
)
from tasks.net.bucket import Bucket
from tasks.net.presigned import expires_at, put_headers
from tasks.recovery.output import look_once
from tasks.recovery.report import RunReport
from tasks.schemas import check_request
from tasks.settings import Settings
from tasks.storage import check_storage, delivered_to, open_storage
from tasks.storage.by_put import PutStorage, delivery_notes, digest_of
from tests.kits.http import objects
from tests.kits.http.s3 import S3, Line
from tests.kits.lost_runs import PROSPECT

VIDEO = b"a video" * 100_000
DIGEST = hashlib.sha256(VIDEO).hexdigest()
NAME = "clip_1080p_0123456789ab.mp4"


class Place:
    """An object that a presigned address writes, and the way to look at it."""

    def __init__(self, bucket: Bucket, line: Line, settings: Settings) -> None:
        from obstore import sign

        store, seconds = bucket._small, timedelta(seconds=600)
        self.url = sign(store, "PUT", "theirs/result.mp4", seconds)  # type: ignore[arg-type]
        self.bucket, self.line, self.settings = bucket, line, settings

    @property
    def secret(self) -> str:
        """What nobody may see."""
        return urlsplit(self.url).query

    def content(self) -> bytes | None:
        found = self.bucket.read("theirs/result.mp4")
        return found.content if found else None

    def storage(self, **fields: object) -> PutStorage:
        return PutStorage(self.url, self.settings.model_copy(update=fields))


@pytest.fixture(params=["s3", "gcs", "azure", "azurite"])
def place(
    request: pytest.FixtureRequest, s3: S3, settings_with: Callable[..., Settings], tmp_path: Path
) -> Iterator[Place]:
    def at(address: str, line: Line, fields: dict[str, object]) -> Place:
        allowed = urlsplit(line.url).netloc
        settings = settings_with(**fields, fetch_allow=(allowed,), allow_local_files=True)
        return Place(Bucket(address, settings), line, settings)

    if request.param == "s3":
        yield at(s3.address, s3.line, s3.settings())
        return
    if request.param == "azurite" and not objects.AZURITE:
        pytest.skip("azurite is not on this machine's path")
    services = {
        "gcs": objects.google,
        "azure": objects.azure,
        "azurite": lambda: objects.azurite(tmp_path / "azurite"),
    }
    with services[request.param]() as store:
        yield at(store.address, store.line, store.settings())


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "output.mp4"
    path.write_bytes(VIDEO)
    return path


def test_the_video_goes_to_the_address_and_nowhere_else(place: Place, video: Path) -> None:
    with delivered_to(place.url):
        check_storage(place.settings)
        assert not place.line.requests, "a look spends nothing"
        stored = open_storage(place.settings).put(video, NAME, sha256=DIGEST)
        assert open_storage(place.settings).stat(NAME) == stored
    assert (stored.num_bytes, stored.sha256) == (len(VIDEO), DIGEST)
    assert (stored.url, stored.path) == (None, None)
    assert place.content() == VIDEO
    place.line.requests.clear()
    assert place.storage().put(video, NAME, sha256=DIGEST) == stored
    assert not place.line.requests, "it is known to have it"
    (note,) = place.settings.delivered_dir.iterdir()
    assert not any(part in note.read_text() + note.name for part in place.secret.split("&"))


@pytest.mark.parametrize("kind", ["busy", "away", "lost"])
def test_what_failed_is_simply_sent_again(place: Place, video: Path, kind: str) -> None:
    place.line.fail(kind, "^PUT")
    with pytest.raises(StorageError) as caught:
        place.storage().put(video, NAME, sha256=DIGEST)
    assert not isinstance(caught.value, StorageRefusedError)
    assert place.secret not in str(caught.value)
    assert place.storage().stat(NAME) is None
    assert place.storage().put(video, NAME, sha256=DIGEST).sha256 == DIGEST
    assert place.content() == VIDEO


@pytest.fixture
def at_s3(s3: S3, settings_with: Callable[..., Settings]) -> Place:
    allowed = urlsplit(s3.line.url).netloc
    settings = settings_with(**s3.settings(), fetch_allow=(allowed,), allow_local_files=True)
    return Place(Bucket(s3.address, settings), s3.line, settings)


def test_other_bytes_than_were_made_are_not_sent(at_s3: Place, video: Path) -> None:
    with pytest.raises(StorageRefusedError, match="is not the file that was made"):
        at_s3.storage().put(video, NAME, sha256="0" * 64)
    assert not at_s3.line.requests
    with pytest.raises(StorageRefusedError, match="takes PUT only"):
        at_s3.storage().delete(NAME)
    with pytest.raises(InvalidRequestError):
        at_s3.storage().put(video, "../x.mp4")


def test_a_private_address_is_not_asked(at_s3: Place, video: Path) -> None:
    with pytest.raises(SourceRefusedError):
        at_s3.storage(fetch_allow=())
    closed = at_s3.settings.model_copy(update={"fetch_allow": ()})
    with delivered_to(at_s3.url), pytest.raises(SourceRefusedError):
        check_storage(closed)


def test_an_address_that_refuses_is_told_without_its_secret(
    settings_with: Callable[..., Settings], video: Path
) -> None:
    with objects.azure() as store:
        host = urlsplit(store.line.url).netloc
        settings = settings_with(fetch_allow=(host,))
        url = f"{store.line.url}/account/videos/a.mp4?key=hush-hush"
        with pytest.raises(StorageRefusedError, match="answered 403 Forbidden") as caught:
            PutStorage(url, settings).put(video, NAME, sha256=DIGEST)
        assert "the same request with a new output_url goes on there" in str(caught.value)
        assert "hush" not in str(caught.value)
        store.line.fail("cut", "none")


def test_recover_completes_what_the_address_has_taken(at_s3: Place, video: Path) -> None:
    """The installation's storage has a file of this name, of another caller's run."""
    job = PROSPECT.model_copy(update={"output_name": NAME})
    open_storage(at_s3.settings).put(video, NAME)
    told = {"run_id": "0" * 32, "asked_for": "0" * 32, "state": "Crashed", "state_id": None}
    report = RunReport.model_validate(
        {
            **told,
            **dict.fromkeys(("message", "deadline")),
            "attempts": 1,
            "recoveries": 0,
            "deployed": True,
            "fresh": False,
            "run_seconds": 3.0,
            "verdict": "crashed",
            "delivers_to": digest_of(at_s3.url),
            "job": job.model_dump(),
        }
    )
    assert look_once(report) is None
    at_s3.storage().put(video, NAME)
    found = look_once(report)
    assert found is not None
    assert (found.sha256, found.cdn_url) == (DIGEST, None)
    assert look_once(report.model_copy(update={"delivers_to": ""})) is not None


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AMZ = {"X-Amz-Date": "20260102T030000Z", "X-Amz-Expires": "600", "X-Amz-SignedHeaders": "host"}
GOOG = {"X-Goog-Date": "20260102T030000Z", "X-Goog-Expires": "600"}
AZURE = {"sv": "2023-11-03", "se": "2026-01-02T03:10:00Z", "sig": "x"}
OLD = {"AWSAccessKeyId": "a", "Expires": str(int(NOW.timestamp()) + 355), "Signature": "x"}


@pytest.mark.parametrize("fields", [AMZ, GOOG, AZURE, OLD], ids=["amz", "goog", "azure", "old"])
def test_until_when_an_address_works(fields: dict[str, str]) -> None:
    url = f"https://store.example.org/a.mp4?{urlencode(fields)}"
    assert expires_at(url) == datetime(2026, 1, 2, 3, 10, tzinfo=UTC)
    with pytest.raises(InvalidRequestError, match=r"output_url: .*worked until 2026") as caught:
        check_request(video_path="/a.mp4", output_url=url)
    assert fields.get("sig", "20260102T030000Z") not in str(caught.value)


@pytest.mark.parametrize(
    "query", ["", "X-Amz-Expires=9", "se=soon&sig=1", "Expires=9e99&Signature=x", "X-Amz-Date=1"]
)
def test_an_address_that_does_not_say_is_taken(query: str) -> None:
    assert expires_at(f"https://store.example.org/a.mp4?{query}") is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://a.example.org/x", "not fetched"),
        ("http://127.0.0.1/x?key=hush", "127.0.0.1"),
        ("https://a.example.org/x?X-Amz-SignedHeaders=host%3Bx-amz-acl&hush=1", "x-amz-acl"),
    ],
)
def test_a_wrong_address_is_refused_at_the_door(
    url: str, words: str, settings_with: Callable[..., Settings]
) -> None:
    settings_with()
    with pytest.raises(InvalidRequestError, match=f"output_url: .*{words}") as caught:
        check_request(video_path="/a.mp4", output_url=url)
    assert "hush" not in str(caught.value)


def test_the_address_is_not_shown_with_the_request(settings_with: Callable[..., Settings]) -> None:
    settings_with()
    request = check_request(video_path="/a.mp4", output_url="https://a.example.org/x?key=hush")
    assert "hush" not in repr(request)
    assert check_request(video_path="/a.mp4", output_url="").output_url is None


def test_headers_fit_the_signature() -> None:
    sums = {"Content-MD5": "m"}

    def headers(query: str) -> dict[str, str]:
        url = f"https://a.example.org/x?{query}"
        return put_headers(url, content_type="video/mp4", checksums=sums)

    usual = {"Content-Type": "video/mp4", **sums}
    assert headers("") == usual
    assert headers(urlencode(OLD)) == {}
    assert headers(urlencode(AZURE)) == {**usual, "x-ms-blob-type": "BlockBlob"}
    signed = headers("X-Goog-SignedHeaders=host%3Bx-goog-content-sha256")
    assert signed == {**usual, "x-goog-content-sha256": "UNSIGNED-PAYLOAD"}


def test_an_address_that_expires_before_the_video_is_noted() -> None:
    now = datetime.now(UTC)
    fields = {"X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}", "X-Amz-Expires": "600"}
    url = f"https://a.example.org/x?{urlencode(fields)}"
    assert delivery_notes(None, eta_seconds=1) == ()
    assert delivery_notes(url, eta_seconds=60) == ("the video is sent to https://a.example.org/x",)
    _, late = delivery_notes(url, eta_seconds=6000)
    assert "is expected in 6000 s" in late
