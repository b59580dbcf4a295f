"""Two workers with a work directory each and one object store; the one at work is lost: the soak.

The whole service: a video is sent to the gateway, a worker begins, and is killed with its disk in
the middle of a line that fails for a minute. Nobody is called.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import SMALL_PICTURES, wait_until
from tests.kits.http.s3 import S3
from tests.kits.processes import ROOT, kill_tree
from tests.kits.server import Serve, eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SECONDS = 60
PATIENCE_SECONDS = 900.0
CUT_SECONDS = 60.0


@pytest.fixture
def serve(tmp_path: Path, s3: S3) -> Iterator[Serve]:
    folder = tmp_path / "serve"
    folder.mkdir()
    serve = Serve(
        folder,
        PYTHONPATH=os.pathsep.join((str(ROOT / "tests" / "faults" / "inject"), str(ROOT))),
        SEEDVR2_TEST_FAULTS=json.dumps([asdict(SMALL_PICTURES)]),
        SEEDVR2_SEGMENT_SECONDS="4",
        SEEDVR2_STORAGE="s3",
        SEEDVR2_S3_OUTPUTS=f"s3://{s3.bucket}/done",
        **s3.variables(),
    ).wait_until_ready()
    yield serve
    serve.close()
    eventually(lambda: not serve.processes(), "the end of all processes")


@pytest.fixture
def worker(serve: Serve, tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The second worker, which has a directory of its own."""
    with serve.add_worker("other", tmp_path / "other") as process:
        yield process
        kill_tree(process.pid)


@pytest.fixture
def clip(tmp_path: Path, ffmpeg: Callable[..., object]) -> bytes:
    path = tmp_path / "long.mp4"
    source = f"testsrc2=s=96x54:r=25:d={SECONDS}"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", path)
    return path.read_bytes()


def send(serve: Serve, clip: bytes) -> str:
    """Send the video itself; returns the job's id."""
    asked = {"model": "sleep", "resolution": "720p", "preset": "ultrafast"}
    url = f"{serve.urls['gateway']}/upscale/long.mp4"
    answer = httpx.put(url, params=asked, content=clip, timeout=120)
    return answer.raise_for_status().json()["job_id"]


def sha256_in(bucket: Bucket, ended: dict[str, Any]) -> str:
    found = bucket.stat(ended["filename"])
    assert found is not None
    return found.sha256


def test_a_job_goes_on_when_its_worker_and_its_disk_are_lost(
    serve: Serve,
    worker: "subprocess.Popen[bytes]",
    clip: bytes,
    s3: S3,
    settings_with: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    settings = settings_with(**s3.settings())
    work, done = Bucket(s3.address, settings), Bucket(f"s3://{s3.bucket}/done", settings)
    other = tmp_path / "other"
    job = send(serve, clip)

    def committed() -> int:
        names = [name for name in work.names("jobs") if "/segments/" in name]
        return sum(name.endswith(".json") for name in names)

    wait_until(lambda: committed() >= 3, "segments were in the store", seconds=PATIENCE_SECONDS)
    on_other = any(other.glob("jobs/*/segments"))
    s3.line.fail("away", ".", times=10_000)
    cut_at = time.monotonic()
    folder = other if on_other else serve.work_dir
    victim = worker.pid if on_other else serve.part("--name serve-local")
    kill_tree(victim)
    for lost in (folder / "jobs", folder / "sources", folder / "intake"):
        shutil.rmtree(lost, ignore_errors=True)
    time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - cut_at)))
    s3.line.mend()
    kept = committed()
    ended = serve.wait_for(job, "completed", "failed", seconds=PATIENCE_SECONDS)
    assert ended["status"] == "completed", ended
    assert work.names("jobs") == []
    print(f"killed the worker {'other' if on_other else 'of serve'} with {kept} segments kept")

    digest = sha256_in(done, ended)
    for name in (*done.names(""), *work.names("results")):
        (done if name in done.names("") else work).delete(name)
    again = serve.wait_for(send(serve, clip), "completed", "failed", seconds=PATIENCE_SECONDS)
    assert again["status"] == "completed", again
    assert sha256_in(done, again) == digest, "the bytes of a job that nobody disturbed"
