"""Two workers with a work directory each and one object store; the one at work is lost: the soak.

The whole service: a video is sent to the gateway, a worker begins, and is killed with its disk in
the middle of a line that fails for a minute. Nobody is called.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import wait_until
from tests.kits.hosts.service import committed_in, digest_of_another, send, sha256_in
from tests.kits.http.s3 import S3
from tests.kits.processes import kill_tree
from tests.kits.server import Serve

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

PATIENCE_SECONDS = 900.0
CUT_SECONDS = 60.0


@pytest.fixture
def worker(serve: Serve, tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """The second worker, which has a directory of its own."""
    with serve.add_worker("other", tmp_path / "other") as process:
        yield process
        kill_tree(process.pid)


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
    wait_until(lambda: committed_in(work) >= 3, "segments were stored", seconds=PATIENCE_SECONDS)
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
    kept = committed_in(work)
    ended = serve.wait_for(job, "completed", "failed", seconds=PATIENCE_SECONDS)
    assert ended["status"] == "completed", ended
    assert work.names("jobs") == []
    print(f"killed the worker {'other' if on_other else 'of serve'} with {kept} segments kept")
    assert sha256_in(done, ended) == digest_of_another(serve, clip, work, done)
