"""Workers whose clocks are wrong by an hour, with an object store and no common disk.

`wrong_clock.c` stands between our processes and the C library, so all of them, the child and
Prefect's own included, believe the wrong time. It needs a C compiler. The servers are right.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.deployed import deployments
from tests.kits.faults import NUM_SEGMENTS, Fault, FaultyJob, wait_until
from tests.kits.hosts.preload import build_library
from tests.kits.hosts.service import (
    PATIENCE_SECONDS,
    committed_in,
    digest_of_another,
    send,
    sha256_in,
)
from tests.kits.http.s3 import S3
from tests.kits.processes import environment, kill_tree
from tests.kits.server import Serve, eventually

pytestmark = [pytest.mark.apt, pytest.mark.timeout(2400)]

HOUR = 3600


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """The environment of a process whose clock is ahead by so many seconds."""
    source = Path(__file__).with_name("wrong_clock.c")
    library = build_library(source, tmp_path_factory.mktemp("library"))

    def by(seconds: int) -> dict[str, str]:
        return {"LD_PRELOAD": str(library), "SEEDVR2_TEST_CLOCK": str(seconds)}

    return by


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_time_of_day_is_wrong_and_waits_are_not(
    wrong: Callable[[int], dict[str, str]], seconds: int
) -> None:
    code = "import time; print(time.time()); time.sleep(0.2); print(time.monotonic())"
    began = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(wrong(seconds)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    day, since = map(float, told.stdout.split())
    assert day - time.time() == pytest.approx(seconds, abs=60)
    assert began < since <= time.monotonic()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_living_run_keeps_its_job_and_a_lost_one_gives_it_up(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    settings_with: Callable[..., Settings],
    s3: S3,
    wrong: Callable[[int], dict[str, str]],
    ahead: int,
) -> None:
    """The clock of the one is two hours from that of the other."""
    common = {**s3.variables(), "SEEDVR2_STORE_LEASE_SECONDS": "6"}
    bucket = Bucket(s3.address, settings_with(**s3.settings()))
    first, second = make_job(), make_job()
    at = "seedvr2_core.engines.sleep:_enlarge"
    hangs = Fault(at=at, call=60, mark=first.place("engine"))
    process = first.start(hangs, **common, **wrong(ahead), SEEDVR2_STALL_SECONDS="300")
    wait_until(Path(hangs.mark).exists, "the first was at work")
    waiting = second.start(**common, **wrong(-ahead))
    wait_until(lambda: [n for n in bucket.names("jobs") if "/waiting/" in n], "the second waits")
    time.sleep(15)
    assert not second.sidecars(), "the first renews its lease although it hangs"
    kill_tree(process.pid)
    result = second.result(waiting)
    assert result["sha256"] == undisturbed("sleep")
    assert 0 < int(str(result["segments_reused"])) < NUM_SEGMENTS


@pytest.fixture
def workers(
    serve: Serve, tmp_path: Path, wrong: Callable[[int], dict[str, str]]
) -> "Iterator[dict[str, subprocess.Popen[bytes]]]":
    """A worker that is an hour ahead and one that is an hour behind; the service's own takes none.

    Prefect's workers ask for what is due by their own clock. The one that is behind is told to ask
    for the hour after that as well.
    """
    os.kill(serve.part("--name serve-local"), signal.SIGSTOP)
    behind = wrong(-HOUR) | {"PREFECT_WORKER_PREFETCH_SECONDS": str(HOUR + 60)}
    with ExitStack() as stack:
        found: dict[str, subprocess.Popen[bytes]] = {}
        for name, changes in (("ahead", wrong(HOUR)), ("behind", behind)):
            found[name] = serve.add_worker(name, tmp_path / name, **changes)
            stack.callback(found[name].wait)
            stack.callback(kill_tree, found[name].pid)
        yield found


def at_work(folders: Path) -> str:
    """The name of the worker that makes segments."""
    (found,) = [
        name for name in ("ahead", "behind") if any(folders.glob(f"{name}/jobs/*/segments"))
    ]
    return found


def same_again(api: httpx.Client, job: str) -> str:
    """Create a second run of a job's request, which the gateway would not; returns its id."""
    first = api.get(f"/flow_runs/{job}").raise_for_status().json()
    deployment = deployments(api)["upscale/local"]["id"]
    body = {"parameters": first["parameters"], "state": {"type": "SCHEDULED"}}
    made = api.post(f"/deployments/{deployment}/create_flow_run", json=body)
    return made.raise_for_status().json()["id"]


@pytest.mark.parametrize("lost", [False, True], ids=["both live", "one is lost"])
def test_jobs_end_on_workers_whose_clocks_are_wrong(
    serve: Serve,
    workers: "dict[str, subprocess.Popen[bytes]]",
    clip: bytes,
    s3: S3,
    settings_with: Callable[..., Settings],
    tmp_path: Path,
    lost: bool,
) -> None:
    """A second run of the same request waits, on the other worker, as long as the first lives."""
    settings = settings_with(**s3.settings())
    work, done = Bucket(s3.address, settings), Bucket(f"s3://{s3.bucket}/done", settings)
    job = send(serve, clip)
    wait_until(lambda: committed_in(work) >= 2, "segments were stored", seconds=PATIENCE_SECONDS)
    first = at_work(tmp_path)
    with httpx.Client(base_url=f"{serve.urls['prefect']}/api", auth=serve.auth, timeout=60) as api:
        second = same_again(api, job)

        def state_of(run: str) -> dict[str, Any]:
            return api.get(f"/flow_runs/{run}").raise_for_status().json()["state"]

        eventually(lambda: state_of(second)["name"] == "AwaitingRetry", "the second waits")
        assert job in state_of(second)["message"]
        assert state_of(job)["type"] == "RUNNING"
        assert at_work(tmp_path) == first, "nothing is made by two"
        if lost:
            kill_tree(workers[first].pid)
            shutil.rmtree(tmp_path / first / "jobs")
        print(f"{first} begins, {committed_in(work)} segments stored, lost: {lost}")
        ended = serve.wait_for(job, "completed", "failed", seconds=PATIENCE_SECONDS)
        assert ended["status"] == "completed", ended
        eventually(
            lambda: state_of(second)["type"] in ("COMPLETED", "FAILED"), "its end", seconds=300
        )
        assert state_of(second)["type"] == "COMPLETED"
    assert work.names("jobs") == []
    assert sha256_in(done, ended) == digest_of_another(serve, clip, work, done)


def test_a_cancelled_job_ends_on_a_worker_whose_clock_is_ahead(
    serve: Serve,
    workers: "dict[str, subprocess.Popen[bytes]]",
    clip: bytes,
    s3: S3,
    settings_with: Callable[..., Settings],
) -> None:
    """Prefect's workers hear of it by an event, and ask for events from their own time on."""
    os.kill(workers["behind"].pid, signal.SIGSTOP)
    work = Bucket(s3.address, settings_with(**s3.settings()))
    job = send(serve, clip)
    wait_until(lambda: committed_in(work) >= 1, "segments were stored", seconds=PATIENCE_SECONDS)
    assert serve.command("cancel", job).returncode == 0
    ended = serve.wait_for(job, "cancelled", seconds=PATIENCE_SECONDS)
    print(ended)

    def at_work() -> list[str]:
        return [line for line in serve.processes().values() if "seedvr2_core.child" in line]

    wait_until(lambda: not at_work(), "its processes were gone", seconds=20)
