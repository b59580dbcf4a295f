"""One long job on two workers, of which one is cut off for a minute while both work.

The workers have a directory each. What is cut is a worker's way to the object store, or the one to
Prefect's server, or the cable to its host, which is a network name space then. Nobody is called:
after the cut this test only waits.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import Fault, FaultyJob, wait_until
from tests.kits.hosts.network import Host, Way, host, way_to
from tests.kits.hosts.service import (
    PATIENCE_SECONDS,
    committed_in,
    send,
    serve_with_store,
    sha256_in,
)
from tests.kits.http.s3 import S3
from tests.kits.processes import kill_tree
from tests.kits.server import Serve

pytestmark = pytest.mark.timeout(2400)

CUT_SECONDS = 60.0
NUM_SEGMENTS = 15
SLOW = Fault(at="seedvr2_core.engines.sleep:_enlarge", do="slow", call=100)
"""A segment takes 15 s, so that both still work when the way is mended."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., object]) -> Path:
    """A minute, in 15 segments."""
    path = tmp_path_factory.mktemp("clip") / "long.mp4"
    source = "testsrc2=s=96x54:r=25:d=60"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", path)
    return path


@pytest.fixture(scope="module")
def digest_of_one(
    video: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """SHA-256 of the output that one process makes on one disk."""
    job = FaultyJob(clip=video, work_dir=tmp_path_factory.mktemp("one") / "job", api_url=api_url)
    yield str(job.result(job.start(SEEDVR2_SEGMENT_SECONDS="4"))["sha256"])
    job.end()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Has a byte for each segment that any process has begun."""
    return tmp_path / "begun"


@pytest.fixture
def serve(tmp_path: Path, s3: S3, begun: Path) -> Iterator[Serve]:
    """The service; its own worker takes no job."""
    count = Fault(at="seedvr2_core.child.channel:InFlight.begin", do="count", mark=str(begun))
    with serve_with_store(tmp_path / "serve", s3, SLOW, count) as serve:
        os.kill(serve.part("--name serve-local"), signal.SIGSTOP)
        yield serve


@contextmanager
def workers_on(kind: str, serve: Serve, s3: S3, folder: Path) -> Iterator[dict[str, Way | Host]]:
    """Start two workers; yields what is to be cut, by the name of its worker."""
    urls = {"api": f"{serve.urls['prefect']}/api", "store": s3.line.url}
    found: dict[str, Way | Host] = {}
    with ExitStack() as stack:
        for name in ("one", "two"):
            within, seen = (), dict(urls)
            if kind == "cable":
                found[name] = there = stack.enter_context(host())
                within = there.within
                seen = {to: stack.enter_context(there.sees(url)) for to, url in urls.items()}
            else:
                found[name] = way = stack.enter_context(way_to(urls[kind]))
                seen[kind] = way.url
            worker = serve.add_worker(
                name,
                folder / name,
                within=within,
                PREFECT_API_URL=seen["api"],
                SEEDVR2_S3_ENDPOINT=seen["store"],
            )
            stack.callback(worker.wait)
            stack.callback(kill_tree, worker.pid)
        yield found


def made_in(folder: Path, kind: str) -> int:
    """How many segments a worker has in its folder; of the job ("jobs") or as a helper."""
    return len(list(folder.glob(f"{kind}/*/segments/[0-9]*.json")))


@pytest.mark.parametrize("whose", ["jobs", "helpers"])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("store", marks=pytest.mark.soak),
        pytest.param("api", marks=pytest.mark.soak),
        pytest.param("cable", marks=pytest.mark.apt),
    ],
)
def test_a_divided_job_ends_when_a_worker_was_cut_off_for_a_minute(
    serve: Serve,
    video: Path,
    begun: Path,
    digest_of_one: str,
    s3: S3,
    settings_with: Callable[..., Settings],
    tmp_path: Path,
    kind: str,
    whose: str,
) -> None:
    settings = settings_with(**s3.settings())
    work, done = Bucket(s3.address, settings), Bucket(f"s3://{s3.bucket}/done", settings)
    with workers_on(kind, serve, s3, tmp_path) as workers:
        job = send(serve, video.read_bytes(), max_workers=2)

        def workers_with(folders: str) -> list[str]:
            return [name for name in workers if made_in(tmp_path / name, folders)]

        wait_until(
            lambda: workers_with("jobs") and workers_with("helpers"),
            "both have made a segment",
            seconds=PATIENCE_SECONDS,
        )
        (victim,) = workers_with(whose)
        print(f"{kind}, {whose}: {committed_in(work)} segments are stored")
        workers[victim].cut()
        time.sleep(CUT_SECONDS)
        told = serve.status(job)
        print(f"{kind}, {whose}: {committed_in(work)} a minute later; the job is {told['status']}")
        assert told["status"] == "processing", "there was work for longer than the cut"
        workers[victim].mend()
        ended = serve.wait_for(job, "completed", "failed", seconds=PATIENCE_SECONDS)
        print(ended)
        assert ended["status"] == "completed", ended
        assert sha256_in(done, ended) == digest_of_one
        wait_until(
            lambda: not list(tmp_path.glob("*/helpers/*")), "all helpers have ended", seconds=120
        )
        assert work.names("jobs") == [], "nothing of the job stays but its result and its source"
    redone = begun.stat().st_size - NUM_SEGMENTS
    print(f"{kind}, {whose}: {redone} segments redone")
    assert 0 <= redone <= 2
