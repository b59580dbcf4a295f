"""A service whose hosts have an object store and no common disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tasks.net.bucket import Bucket
from tests.kits.faults import SMALL_PICTURES, Fault, carrying
from tests.kits.http.s3 import S3
from tests.kits.server import Serve, eventually

ASKED: dict[str, str | int] = {"model": "sleep", "resolution": "720p", "preset": "ultrafast"}
"""Of each job: a frame takes 50 ms."""
PATIENCE_SECONDS = 900.0
"""On a busy machine a lost run comes back late."""


@contextmanager
def serve_with_store(folder: Path, s3: S3, *faults: Fault, **changes: str) -> Iterator[Serve]:
    """Run the service with its work and its outputs in a bucket; segments last 4 s.

    Args:
        folder: of the service.
        s3: the bucket.
        faults: what its processes do wrong, beside making small pictures.
        changes: environment variables.
    """
    folder.mkdir()
    faulty = carrying(SMALL_PICTURES, *faults)
    serve = Serve(
        folder,
        PYTHONPATH=faulty["PYTHONPATH"],
        SEEDVR2_TEST_FAULTS=faulty["SEEDVR2_TEST_FAULTS"],
        SEEDVR2_SEGMENT_SECONDS="4",
        SEEDVR2_STORAGE="s3",
        SEEDVR2_S3_OUTPUTS=f"s3://{s3.bucket}/done",
        **s3.variables(),
        **changes,
    ).wait_until_ready()
    try:
        yield serve
    finally:
        serve.close()
    eventually(lambda: not serve.processes(), "the end of all processes")


def send(serve: Serve, clip: bytes, **options: str | int) -> str:
    """Send a video itself to the gateway; returns the job's id."""
    url = f"{serve.urls['gateway']}/upscale/long.mp4"
    answer = httpx.put(url, params=ASKED | options, content=clip, timeout=120)
    return answer.raise_for_status().json()["job_id"]


def sha256_in(bucket: Bucket, ended: dict[str, Any]) -> str:
    """The digest of a job's output."""
    found = bucket.stat(ended["filename"])
    assert found is not None
    return found.sha256


def digest_of_another(serve: Serve, clip: bytes, work: Bucket, done: Bucket) -> str:
    """Forget a job that has ended and make it once more, undisturbed; returns its digest.

    Args:
        serve: the service.
        clip: the job's video.
        work: where work is kept.
        done: where outputs go.
    """
    for bucket, names in ((done, done.names("")), (work, work.names("results"))):
        bucket.delete(*names)
    ended = serve.wait_for(send(serve, clip), "completed", "failed", seconds=PATIENCE_SECONDS)
    assert ended["status"] == "completed", ended
    return sha256_in(done, ended)


def committed_in(work: Bucket) -> int:
    """How many segments are in the store."""
    names = [name for name in work.names("jobs") if "/segments/" in name]
    return sum(name.endswith(".json") for name in names)
