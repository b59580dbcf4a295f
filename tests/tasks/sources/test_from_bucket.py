"""Sources that lie in a bucket of a real S3-compatible server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidVideoError, SourceRefusedError, SourceUnavailableError
from seedvr2_core.files import file_sha256
from tasks.net.bucket import PIECE_BYTES, Bucket
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources import check_source, obtain_source
from tests.kits.http.s3 import S3


@pytest.fixture
def settings(s3: S3, settings_with: Callable[..., Settings]) -> Settings:
    return settings_with(**s3.settings(s3_sources=f"s3://other/x, s3://{s3.bucket}/In/"))


def put(s3: S3, settings: Settings, name: str, content: bytes) -> UpscaleRequest:
    Bucket(f"s3://{s3.bucket}", settings).write(name, content)
    return UpscaleRequest(video_url=f"s3://{s3.bucket}/{name}")


def test_a_video_in_an_allowed_folder_is_read_whole(settings: Settings, s3: S3) -> None:
    content = b"frames" * (PIECE_BYTES // 4)
    request = put(s3, settings, "In/day 1/Clip.mp4", content)
    check_source(request, settings)
    s3.line.fail("cut", "^GET")
    s3.line.fail("busy", "^GET")
    told: list[str] = []
    try:
        source = obtain_source(request, settings, note=told.append)
    except SourceUnavailableError:  # the task tries again
        source = obtain_source(request, settings, note=told.append)
    assert source.name == "Clip.mp4"
    assert source.path == settings.sources_dir / source.sha256
    assert file_sha256(source.path) == source.sha256
    assert source.path.read_bytes() == content
    assert told
    assert not list(settings.intake_dir.iterdir())


@pytest.mark.parametrize(
    "name", ["work/Clip.mp4", "In", "Inside/Clip.mp4", "In/../work/Clip.mp4", "in/Clip.mp4"]
)
def test_what_lies_elsewhere_is_refused_without_a_look(
    settings: Settings, s3: S3, name: str
) -> None:
    request = UpscaleRequest(video_url=f"s3://{s3.bucket}/{name}")
    with pytest.raises(SourceRefusedError, match="SEEDVR2_S3_SOURCES"):
        check_source(request, settings)
    with pytest.raises(SourceRefusedError, match="SEEDVR2_S3_SOURCES"):
        obtain_source(request, settings, note=print)
    assert not s3.line.requests


def test_what_is_no_video_is_refused_before_a_byte_is_read(settings: Settings, s3: S3) -> None:
    with pytest.raises(InvalidVideoError, match="is empty"):
        check_source(put(s3, settings, "In/empty.mp4", b""), settings)
    missing = UpscaleRequest(video_url=f"s3://{s3.bucket}/In/none.mp4")
    with pytest.raises(SourceRefusedError, match="does not exist"):
        check_source(missing, settings)
    small = settings.model_copy(update={"fetch_max_bytes": 3})
    with pytest.raises(SourceRefusedError, match="more than 3"):
        obtain_source(put(s3, settings, "In/large.mp4", b"four"), small, note=print)
    s3.line.fail("busy", ".", times=1000)
    with pytest.raises(SourceUnavailableError):
        check_source(missing, settings)


@pytest.mark.long
def test_a_source_that_comes_too_slowly_is_given_up(
    settings: Settings, s3: S3, tmp_path: Path
) -> None:
    request = put(s3, settings, "In/slow.mp4", b"x" * 1000)
    s3.line.fail("slow", "^GET")
    hasty = settings.model_copy(update={"fetch_seconds": 0.5})
    with pytest.raises(SourceUnavailableError, match="came with 1000 of 1000 bytes"):
        obtain_source(request, hasty, note=print)
    assert not list(settings.intake_dir.iterdir())
