"""A video that takes a while, and the service that makes it with its work in a bucket."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kits.hosts.service import serve_with_store
from tests.kits.http.s3 import S3
from tests.kits.server import Serve


@pytest.fixture
def clip(tmp_path: Path, ffmpeg: Callable[..., object]) -> bytes:
    """A minute: 75 s of work in 15 segments."""
    path = tmp_path / "long.mp4"
    source = "testsrc2=s=96x54:r=25:d=60"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", path)
    return path.read_bytes()


@pytest.fixture
def serve(tmp_path: Path, s3: S3) -> Iterator[Serve]:
    """The service, with one worker for jobs."""
    with serve_with_store(tmp_path / "serve", s3) as serve:
        yield serve
