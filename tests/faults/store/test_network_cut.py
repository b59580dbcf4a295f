"""Two workers without a common disk, and a cable that is pulled for a minute in the middle.

Each worker is a host of its own: a network name space whose only way to the Prefect server and the
object store is a cable. What is sent while it is out is lost, and nobody is told.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import wait_until
from tests.kits.hosts.network import Host, host
from tests.kits.hosts.service import (
    PATIENCE_SECONDS,
    committed_in,
    digest_of_another,
    send,
    sha256_in,
)
from tests.kits.http.s3 import S3
from tests.kits.processes import kill_tree
from tests.kits.server import Serve

pytestmark = [pytest.mark.apt, pytest.mark.timeout(2400)]

CUT_SECONDS = 60.0
NUM_SEGMENTS = 15


@pytest.fixture
def hosts(serve: Serve, s3: S3, tmp_path: Path) -> Iterator[dict[Path, Host]]:
    """Work directory -> host, of two workers; the service's own takes no job."""
    os.kill(serve.part("--name serve-local"), signal.SIGSTOP)
    found: dict[Path, Host] = {}
    with ExitStack() as stack:
        for name in ("one", "two"):
            there = stack.enter_context(host())
            api = stack.enter_context(there.sees(f"{serve.urls['prefect']}/api"))
            store = stack.enter_context(there.sees(s3.line.url))
            worker = serve.add_worker(
                name,
                tmp_path / name,
                within=there.within,
                PREFECT_API_URL=api,
                SEEDVR2_S3_ENDPOINT=store,
            )
            stack.callback(worker.wait)
            stack.callback(kill_tree, worker.pid)
            found[tmp_path / name] = there
        yield found


def test_a_job_ends_when_the_network_of_its_worker_was_cut_for_a_minute(
    serve: Serve,
    hosts: dict[Path, Host],
    clip: bytes,
    s3: S3,
    settings_with: Callable[..., Settings],
) -> None:
    settings = settings_with(**s3.settings())
    work, done = Bucket(s3.address, settings), Bucket(f"s3://{s3.bucket}/done", settings)
    job = send(serve, clip)
    wait_until(lambda: committed_in(work) >= 3, "segments were stored", seconds=PATIENCE_SECONDS)
    (at_work,) = [folder for folder in hosts if any(folder.glob("jobs/*/segments"))]
    kept = committed_in(work)
    hosts[at_work].cut()
    cut_at = time.monotonic()
    while time.monotonic() - cut_at < CUT_SECONDS:
        time.sleep(1)
        assert committed_in(work) <= kept + 1, "nothing gets through"
    made = len(list(at_work.glob("jobs/*/segments/[0-9]*.json")))
    print(f"cut with {kept} segments stored; after a minute {made} were made on the host")
    assert kept < made <= NUM_SEGMENTS, "the work went on meanwhile"
    hosts[at_work].mend()
    ended = serve.wait_for(job, "completed", "failed", seconds=PATIENCE_SECONDS)
    print(ended)
    assert ended["status"] == "completed", ended
    assert work.names("jobs") == []
    assert sha256_in(done, ended) == digest_of_another(serve, clip, work, done)
