"""A service whose hosts have an object store and no common disk."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from tasks.net.bucket import Bucket
from tests.kits.faults import SMALL_PICTURES
from tests.kits.http.s3 import S3
from tests.kits.processes import ROOT
from tests.kits.server import Serve, eventually

ASKED = {"model": "sleep", "resolution": "720p", "preset": "ultrafast"}
"""Of each job: a frame takes 50 ms."""
PATIENCE_SECONDS = 900.0
"""On a busy machine a lost run comes back late."""


@contextmanager
def serve_with_store(folder: Path, s3: S3, **changes: str) -> Iterator[Serve]:
    """Run the service with its work and its outputs in a bucket; segments last 4 s."""
    folder.mkdir()
    serve = Serve(
        folder,
        PYTHONPATH=os.pathsep.join((str(ROOT / "tests" / "faults" / "inject"), str(ROOT))),
        SEEDVR2_TEST_FAULTS=json.dumps([asdict(SMALL_PICTURES)]),
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


def send(serve: Serve, clip: bytes) -> str:
    """Send a video itself to the gateway; returns the job's id."""
    url = f"{serve.urls['gateway']}/upscale/long.mp4"
    answer = httpx.put(url, params=ASKED, content=clip, timeout=120)
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
