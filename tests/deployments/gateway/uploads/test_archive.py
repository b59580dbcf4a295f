"""What is sent of a local source."""

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from deployments.gateway.uploads.archive import file_to_send
from seedvr2_core.errors import SourceRefusedError
from seedvr2_core.video.probe import probe_video
from tasks.schemas import check_request


def test_a_sequence_is_sent_as_one_file(tmp_path: Path) -> None:
    frames = tmp_path / "bridge"
    frames.mkdir()
    for index in range(3):
        Image.new("RGB", (32, 16)).save(frames / f"{index}.png")
    for given in (frames, frames / "%d.png"):
        with file_to_send(check_request(video_path=str(given), fps="29.97")) as path:
            assert path.name == "bridge.zip"
            assert zipfile.is_zipfile(path)
            assert probe_video(path).nominal_rate == (30000, 1001)
        assert not path.exists()
    (frames / "1.png").unlink()
    request = check_request(video_path=str(frames / "%d.png"), fps="24")
    with pytest.raises(SourceRefusedError, match=r"1.png is missing"), file_to_send(request):
        pass


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"x")
    with file_to_send(check_request(video_path=str(clip))) as path:
        assert path == clip
    assert clip.exists()
