"""One long job on several workers that share an object store and no disk."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import wait_until
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

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


@pytest.fixture
def workers(serve: Serve, tmp_path: Path) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Two workers with a directory each; the service's own takes no job."""
    os.kill(serve.part("--name serve-local"), signal.SIGSTOP)
    found: dict[str, subprocess.Popen[bytes]] = {}
    with ExitStack() as stack:
        for name in ("one", "two"):
            found[name] = serve.add_worker(name, tmp_path / name, SEEDVR2_STORE_LEASE_SECONDS="20")
            stack.callback(found[name].wait)
            stack.callback(kill_tree, found[name].pid)
        yield found


def made_by(tmp_path: Path, name: str) -> int:
    """How many segments a worker has in the folder of a helper."""
    return len(list(tmp_path.glob(f"{name}/helpers/*/segments/[0-9]*.json")))


@pytest.mark.parametrize("killed", [False, True], ids=["both live", "the helper is killed"])
def test_both_make_segments_and_the_bytes_are_those_of_one(
    serve: Serve,
    workers: dict[str, "subprocess.Popen[bytes]"],
    clip: bytes,
    s3: S3,
    settings_with: Callable[..., Settings],
    tmp_path: Path,
    killed: bool,
) -> None:
    settings = settings_with(**s3.settings())
    work, done = Bucket(s3.address, settings), Bucket(f"s3://{s3.bucket}/done", settings)
    job = send(serve, clip, max_workers=2)
    helpers: set[str] = set()

    def one_helps() -> bool:
        helpers.update(name for name in workers if made_by(tmp_path, name))
        return bool(helpers)

    wait_until(one_helps, "a helper has made a segment", seconds=PATIENCE_SECONDS)
    (helper,) = helpers
    print(f"{helper} helps; {committed_in(work)} segments are stored")
    if killed:
        kill_tree(workers[helper].pid)
    ended = serve.wait_for(job, "completed", "failed", seconds=PATIENCE_SECONDS)
    print(ended)
    assert ended["status"] == "completed", ended
    assert work.names("jobs") == []
    if not killed:
        wait_until(lambda: not made_by(tmp_path, helper), "the helper's folder is gone")
    assert sha256_in(done, ended) == digest_of_another(serve, clip, work, done)
