"""The verify task: the storage's word against the upload's, and what the public address shows."""

from collections.abc import Callable
from typing import Any

import pytest

from seedvr2_core.errors import NotServedError, StorageError
from tasks.run.record import shown_to
from tasks.schemas import JoinedVideo, StoredVideo
from tasks.settings import Settings
from tasks.storage.open import open_storage
from tasks.upload import upload
from tasks.verify import verify
from tests.kits.factories import Audience
from tests.kits.http.edge import Edge, statuses

pytestmark = pytest.mark.usefixtures("quick_looks")


@pytest.fixture
def stored(settings_with, video: JoinedVideo) -> StoredVideo:
    put = open_storage(settings_with()).put(video.path, "a.mp4")
    return StoredVideo(
        name=put.name, url=put.url, path=put.path, sha256=put.sha256, num_bytes=put.num_bytes
    )


def test_intact(stored: StoredVideo, video: JoinedVideo) -> None:
    assert verify.fn(stored, video) == stored


def test_reading_every_byte_of_a_copy_has_signs_of_life(
    settings_with: Callable[..., Settings], video: JoinedVideo
) -> None:
    settings_with()
    audience = Audience()
    with shown_to(audience):
        stored = upload.fn(video, "a.mp4")
        verify.fn(stored, video)
    assert ("upload", "0 of 0 MB") in audience.told
    assert ("verify", "read 0 of 0 MB") in audience.told
    assert len(audience.told) >= 5


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda content: None, "not in storage", id="missing"),
        pytest.param(lambda content: content[:4], "length: expected 300000, got 4", id="cut"),
        pytest.param(
            lambda content: content[::-1], "sha256: expected [0-9a-f]{64}, got", id="damaged"
        ),
    ],
)
def test_lost_or_damaged(stored: StoredVideo, video: JoinedVideo, spoil: Any, told: str) -> None:
    assert stored.path
    content = spoil(stored.path.read_bytes())
    stored.path.unlink()
    if content is not None:
        stored.path.write_bytes(content)
    with pytest.raises(StorageError, match=told):
        verify.fn(stored, video)


# --- with a public address ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checksum", "told"), [("wrong", "wrong sha256"), ("none", "got none yet")]
)
def test_what_the_storage_says_comes_first(
    edge: Edge, video: JoinedVideo, checksum: str, told: str
) -> None:
    stored = upload.fn(video, "a.mp4")
    edge.switch(checksum=checksum)
    with pytest.raises(StorageError, match=told) as caught:
        verify.fn(stored, video)
    assert not caught.value.permanent
    assert not edge.app.public()


def test_a_local_folder_with_a_public_address(
    edge: Edge, video: JoinedVideo, settings_with
) -> None:
    settings = settings_with(output_dir=edge.root, public_url=edge.url, verify_seconds=0.5)
    name = f"{settings.work_dir.parent.name}.mp4"
    stored = upload.fn(video, name)
    assert stored.url == f"{edge.url}/{name}"
    verify.fn(stored, video)
    assert statuses(edge) == [206, 206]
    edge.switch(public_status=404)
    with pytest.raises(NotServedError):
        verify.fn(stored, video)
