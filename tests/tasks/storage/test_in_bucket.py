"""Outputs in a bucket of a real S3-compatible server."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from seedvr2_core.errors import InvalidRequestError, StorageError, StorageRefusedError
from tasks.settings import Settings
from tasks.storage import check_storage, open_storage
from tests.kits.http.s3 import S3


@pytest.fixture
def settings(s3: S3, settings_with: Callable[..., Settings]) -> Settings:
    return settings_with(**s3.settings(storage="s3", s3_outputs=f"s3://{s3.bucket}/videos/done"))


def video(folder: Path, content: bytes) -> tuple[Path, str]:
    path = folder / "video.mp4"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_a_stored_video_is_described_served_and_removed(
    settings: Settings, tmp_path: Path, s3: S3
) -> None:
    path, digest = video(tmp_path, b"a video" * 1000)
    stored = open_storage(settings).put(path, "clip 1.mp4", sha256=digest)
    assert (stored.name, stored.num_bytes, stored.sha256) == ("clip 1.mp4", 7000, digest)
    assert stored.path is None
    assert open_storage(settings).stat("clip 1.mp4") is not None
    assert stored.url is not None
    answer = httpx.get(stored.url, headers={"Range": "bytes=0-6"})
    assert (answer.status_code, answer.content) == (206, b"a video")
    assert answer.headers["content-type"] == "video/mp4"
    open_storage(settings).delete("clip 1.mp4")
    assert open_storage(settings).stat("clip 1.mp4") is None


def test_the_same_bytes_are_sent_once_and_others_get_another_name(
    settings: Settings, tmp_path: Path, s3: S3
) -> None:
    path, digest = video(tmp_path, b"one")
    open_storage(settings).put(path, "clip.mp4", sha256=digest)
    s3.line.requests.clear()
    assert open_storage(settings).put(path, "clip.mp4", sha256=digest).name == "clip.mp4"
    assert not [request for request in s3.line.requests if request.startswith("PUT")]
    path, digest = video(tmp_path, b"two")
    assert open_storage(settings).put(path, "clip.mp4").name == "clip-1.mp4"
    found = open_storage(settings).stat("clip.mp4")
    assert found is not None
    assert found.num_bytes == 3
    assert found.sha256 == hashlib.sha256(b"one").hexdigest()


def test_a_lost_answer_stores_one_video(settings: Settings, tmp_path: Path, s3: S3) -> None:
    path, digest = video(tmp_path, b"one")
    s3.line.fail("lost", "^PUT")
    assert open_storage(settings).put(path, "clip.mp4", sha256=digest).name == "clip.mp4"
    assert open_storage(settings).stat("clip-1.mp4") is None


def test_a_bucket_of_another_address_is_served_there(settings: Settings, tmp_path: Path) -> None:
    served = settings.model_copy(update={"s3_base_url": "https://cdn.example.org/v/"})
    path, digest = video(tmp_path, b"one")
    stored = open_storage(served).put(path, "clip 1.mp4", sha256=digest)
    assert stored.url == "https://cdn.example.org/v/clip%201.mp4"


def test_what_cannot_be_delivered_is_refused_before_the_job(settings: Settings, s3: S3) -> None:
    check_storage(settings)
    missing = settings.model_copy(update={"s3_outputs": "s3://no-such-bucket/x"})
    with pytest.raises(StorageRefusedError, match="there is no such bucket"):
        check_storage(missing)
    with pytest.raises(StorageRefusedError, match="SEEDVR2_S3_OUTPUTS is not set"):
        check_storage(settings.model_copy(update={"s3_outputs": None}))
    s3.line.fail("busy", ".", times=1000)
    check_storage(settings)  # it may answer when the video is done
    with pytest.raises(StorageError):
        open_storage(settings).stat("clip.mp4")
    with pytest.raises(InvalidRequestError):
        open_storage(settings).stat("../clip.mp4")
