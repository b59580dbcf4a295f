"""The upload task."""

import hashlib
from pathlib import Path

import pytest

from seedvr2_core.errors import StorageError
from tasks.schemas import JoinedVideo
from tasks.upload import upload


def _joined(tmp_path: Path, content: bytes) -> JoinedVideo:
    path = tmp_path / "output.mp4"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return JoinedVideo(path=path, sha256=sha256, size_bytes=len(content), num_frames=1)


def test_upload_and_again(settings_with, tmp_path: Path) -> None:
    settings_with()
    video = _joined(tmp_path, b"video")
    stored = upload.fn(video, "a.mp4")
    assert stored.path == tmp_path / "work" / "output" / "a.mp4"
    assert stored.path.read_bytes() == b"video"
    assert (stored.sha256, stored.size_bytes, stored.url) == (video.sha256, 5, None)
    assert upload.fn(video, "a.mp4") == stored


def test_taken_name(settings_with, tmp_path: Path) -> None:
    settings_with()
    upload.fn(_joined(tmp_path, b"video"), "a.mp4")
    (tmp_path / "output.mp4").unlink()
    assert upload.fn(_joined(tmp_path, b"other"), "a.mp4").name == "a-1.mp4"


def test_a_file_that_changed_since_it_was_joined(settings_with, tmp_path: Path) -> None:
    settings_with()
    video = _joined(tmp_path, b"video")
    video.path.write_bytes(b"wrong")
    with pytest.raises(StorageError, match=video.sha256):
        upload.fn(video, "a.mp4")
    assert not (tmp_path / "work" / "output" / "a.mp4").exists()
