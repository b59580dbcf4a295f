"""The upload task, into a local folder and into a real edge."""

import hashlib
from pathlib import Path

import pytest

from seedvr2_core.errors import StorageError, StorageRefusedError
from tasks.schemas import JoinedVideo
from tasks.settings import use_settings
from tasks.upload import upload
from tests.kits.factories import Audience
from tests.kits.http.edge import Edge, made_video


def _joined(tmp_path: Path, content: bytes) -> JoinedVideo:
    path = tmp_path / "output.mp4"
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return JoinedVideo(path=path, sha256=sha256, num_bytes=len(content), num_frames=1)


def test_upload_and_again(settings_with, tmp_path: Path) -> None:
    settings_with()
    video = _joined(tmp_path, b"video")
    stored = upload.fn(video, "a.mp4")
    assert stored.path == tmp_path / "work" / "output" / "a.mp4"
    assert stored.path.read_bytes() == b"video"
    assert (stored.sha256, stored.num_bytes, stored.url) == (video.sha256, 5, None)
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


# --- over the network -----------------------------------------------------------------------------


@pytest.fixture
def edge(shared_edge: Edge, tmp_path: Path) -> Edge:
    """The module's edge; storage names are the test's own (its folder)."""
    shared_edge.app.seen.clear()
    use_settings(shared_edge.settings(tmp_path / "work", bunny_root_dir=tmp_path.name))
    return shared_edge


def test_upload_to_an_edge_and_again(edge: Edge, tmp_path: Path) -> None:
    video = made_video(tmp_path)
    stored = upload.fn(video, "a.mp4")
    assert (stored.name, stored.path, stored.num_bytes) == ("a.mp4", None, video.num_bytes)
    assert stored.url == f"{edge.url}/{tmp_path.name}/a.mp4"
    assert upload.fn(video, "a.mp4") == stored
    assert edge.app.received() == video.num_bytes
    assert not edge.app.public()


def test_progress_is_told_while_bytes_go(edge: Edge, tmp_path: Path, audience: Audience) -> None:
    upload.fn(made_video(tmp_path, 3_500_000), "a.mp4")
    assert {told.phase for told in audience.progress} == {"upload"}
    assert [told.detail for told in audience.progress] == [
        *("0 of 4 MB", "1 of 4 MB", "2 of 4 MB", "3 of 4 MB", "4 of 4 MB"),
    ]
    assert {told.percent for told in audience.progress} == {99.0}


def test_without_credentials_nothing_is_asked(edge: Edge, tmp_path: Path) -> None:
    use_settings(edge.settings(tmp_path, bunny_storage_key=None))
    with pytest.raises(StorageRefusedError, match="needs BUNNY_STORAGE_KEY"):
        upload.fn(made_video(tmp_path), "a.mp4")
    assert edge.app.seen == []
