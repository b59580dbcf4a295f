"""The verify task: the storage's word against the upload's."""

from pathlib import Path

import pytest

from seedvr2_core.errors import StorageError
from tasks.schemas import StoredVideo
from tasks.storage import open_storage
from tasks.verify import verify


@pytest.fixture
def stored(settings_with, tmp_path: Path) -> StoredVideo:
    path = tmp_path / "output.mp4"
    path.write_bytes(b"video")
    put = open_storage(settings_with()).put(path, "a.mp4")
    return StoredVideo(
        name=put.name, url=put.url, path=put.path, sha256=put.sha256, size_bytes=put.length
    )


def test_intact(stored: StoredVideo) -> None:
    assert verify.fn(stored) == stored


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, "not in storage", id="missing"),
        pytest.param(b"vide", "length: expected 5, got 4", id="cut"),
        pytest.param(b"vidfo", "sha256: expected [0-9a-f]{64}, got [0-9a-f]{64}", id="damaged"),
    ],
)
def test_lost_or_damaged(stored: StoredVideo, content: bytes | None, told: str) -> None:
    assert stored.path
    stored.path.unlink()
    if content is not None:
        stored.path.write_bytes(content)
    with pytest.raises(StorageError, match=told):
        verify.fn(stored)
