"""A video that was sent is kept in the object store: workers without a common disk find it."""

import hashlib
from pathlib import Path

import httpx
import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.http.gateway import gateway, intake_files
from tests.kits.http.s3 import S3

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("on_the_server")]

CONTENT = b"a video's bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def settings(s3: S3, tmp_path: Path) -> Settings:
    return Settings(work_dir=tmp_path, store=s3.address, **s3.settings())


def send(client: httpx.Client) -> httpx.Response:
    return client.put("/upscale/clip.mp4", params={"resolution": "1080p"}, content=CONTENT)


def test_a_sent_video_is_in_the_store_before_its_job_begins(
    settings: Settings, s3: S3, api_url: str
) -> None:
    bucket = Bucket(s3.address, settings)
    with gateway(settings, api_url) as client:
        s3.line.fail("busy", ".", times=1000)
        refused = send(client)
        assert refused.status_code == 503, refused.text
        assert refused.headers["retry-after"]
        assert intake_files(settings) == [], "no job was made, so nothing stays"
        s3.line.mend()
        accepted = send(client)
        assert accepted.status_code == 202, accepted.text
        found = bucket.stat(f"sources/{SHA256}")
        assert found is not None
        assert (found.num_bytes, found.sha256) == (len(CONTENT), SHA256)
