"""A real process worker and its server: cancel, SIGTERM, kills, an outage; the job can be resumed.

Runs are made on a deployment of this test's own pool, as the UI makes them. What the UI's Retry
does is done the same way: the run's state is set to AwaitingRetry.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Cancelling

from flows.upscale import upscale
from tasks.run.artifacts import RESULT_KEY, newest_artifact, read_result
from tests.kits.faults import Fault, FaultyJob, assert_nothing_left, run_here, wait_until, worker_of
from tests.kits.processes import (
    ROOT,
    children_of,
    ends_with_us,
    free_port,
    is_running,
    kill_tree,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("in_api"),
]


@dataclass(kw_only=True)
class Pool:
    """A process pool with one deployment, and the workers that were started for it."""

    job: FaultyJob
    client: SyncPrefectClient
    name: str = field(default_factory=lambda: f"faults-{uuid4().hex[:8]}")
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self, *, hold: bool = True) -> subprocess.Popen[bytes]:
        """`prefect worker start`; its first run stops in the fourth segment and waits there."""
        self.job.work_dir.mkdir(exist_ok=True)
        variables = {
            "PREFECT_HOME": str(self.job.work_dir / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "SEEDVR2_WORK_DIR": str(self.job.work_dir),
            "SEEDVR2_ALLOW_LOCAL_FILES": "true",
            "SEEDVR2_ALLOW_CPU_ENGINE": "true",
            **self.job.variables(*([self.stop_here] if hold else [])),
        }
        arguments = ["worker", "start", "--pool", self.name, "--type", "process", "--limit", "1"]
        with (self.job.work_dir / f"worker{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                env={**os.environ, **variables},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                preexec_fn=ends_with_us(),
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    @property
    def stop_here(self) -> Fault:
        """Where the first run is found at work."""
        return Fault(at="seedvr2_core.engines.sleep:_enlarge", call=40, mark=self.job.place("hold"))

    def create_run(self, **parameters: object) -> UUID:
        """A run of the job's request on the deployment."""
        flow_id = self.client.create_flow(upscale)
        deployment = self.client.create_deployment(
            flow_id,
            self.name,
            work_pool_name=self.name,
            entrypoint="flows.upscale.upscale",
            enforce_parameter_schema=False,
        )
        asked = {**self.job.request(), **parameters}
        return self.client.create_flow_run_from_deployment(deployment, parameters=asked).id

    def state_of(self, run: UUID) -> str:
        """The name of a run's state."""
        state = self.client.read_flow_run(run).state
        return str(state.name) if state else ""

    def wait_for(self, run: UUID, *names: str) -> str:
        """Wait until a run is in one of these states."""
        wait_until(lambda: self.state_of(run) in names, f"the run was {' or '.join(names)}")
        return self.state_of(run)

    def retry(self, run: UUID) -> None:
        """What the UI's Retry does."""
        self.client.set_flow_run_state(run, AwaitingRetry(), force=True)

    def result_of(self, run: UUID) -> dict[str, Any]:
        """The result artifact."""
        return dict(read_result(newest_artifact(self.client, run, RESULT_KEY)))

    def end(self) -> None:
        """No worker runs on."""
        for worker in self.workers:
            if worker.poll() is None:
                kill_tree(worker.pid)
                worker.wait()


@pytest.fixture
def pool(make_job: Callable[..., FaultyJob]) -> Iterator[Pool]:
    with open_pool(make_job()) as pool:
        yield pool


@contextmanager
def open_pool(job: FaultyJob) -> Iterator[Pool]:
    """A pool on the API in force; its processes are gone afterwards."""
    with get_client(sync_client=True) as client:
        pool = Pool(job=job, client=client)
        client.create_work_pool(WorkPoolCreate(name=pool.name, type="process"))
        try:
            yield pool
        finally:
            pool.end()
            for pid in job.processes():
                os.kill(pid, signal.SIGKILL)


def at_work(pool: Pool) -> None:
    """Wait until the run is in the middle of its fourth segment, those before on disk."""
    there = Path(pool.stop_here.mark)
    wait_until(lambda: there.exists() and len(pool.job.sidecars()) >= 3, "the run was at work")


def flow_process(pool: Pool) -> int:
    """The process that runs the flow: the parent of the child."""
    child = worker_of(pool.workers[-1].pid)
    assert child is not None
    line = Path(f"/proc/{child}/stat").read_text()
    return int(line.rpartition(")")[2].split()[1])


@pytest.mark.soak
def test_a_cancelled_run_leaves_no_process_and_can_be_resumed(
    pool: Pool, undisturbed: Callable[[str], str]
) -> None:
    """Cancelled as the UI, the command and the gateway do it; then asked for again."""
    pool.start_worker()
    run = pool.create_run()
    at_work(pool)
    pool.client.set_flow_run_state(run, Cancelling())
    pool.wait_for(run, "Cancelled")
    pool.end()
    wait_until(lambda: not pool.job.processes(), "every process was gone", seconds=30)
    committed = len(pool.job.sidecars())
    assert committed == 3
    result = run_here(pool.job)
    assert (result.sha256, result.segments_reused) == (undisturbed("sleep"), committed)
    assert_nothing_left(pool.job)


def resume(pool: Pool, run: UUID, digest: str, *, attempts: int = 2) -> None:
    """Retry the same run on a fresh worker; it completes with what it had."""
    pool.end()
    wait_until(lambda: not pool.job.processes(), "every process was gone", seconds=30)
    committed = len(pool.job.sidecars())
    assert committed == 3
    pool.retry(run)
    pool.start_worker()
    pool.wait_for(run, "Completed")
    found = pool.result_of(run)
    assert (found["job_id"], found["sha256"]) == (str(run), digest)
    assert found["segments_reused"] == committed
    assert pool.client.read_flow_run(run).run_count == attempts
    pool.end()
    assert_nothing_left(pool.job)


@pytest.mark.soak
@pytest.mark.parametrize("fresh", [False, True], ids=["usual", "fresh"])
def test_sigterm_to_the_run_leaves_a_job_that_a_retry_resumes(
    pool: Pool, undisturbed: Callable[[str], str], fresh: bool
) -> None:
    """As `docker stop` or a shutdown does it. A fresh start is fresh once, not at every retry."""
    pool.start_worker()
    run = pool.create_run(fresh=fresh)
    at_work(pool)
    os.kill(flow_process(pool), signal.SIGTERM)
    pool.wait_for(run, "Crashed")
    resume(pool, run, undisturbed("sleep"))


@pytest.mark.soak
def test_a_pool_that_is_drained_finishes_its_run(
    pool: Pool, undisturbed: Callable[[str], str]
) -> None:
    """Paused, as docs/operations.md drains it: what runs goes on, nothing else is taken."""
    worker = pool.start_worker(hold=False)
    run = pool.create_run()
    wait_until(lambda: pool.job.sidecars() and pool.job.at_work(), "the run was at work")
    pool.client.update_work_pool(pool.name, WorkPoolUpdate(is_paused=True))
    other = pool.create_run(seed=7)
    pool.wait_for(run, "Completed")
    assert pool.result_of(run)["sha256"] == undisturbed("sleep")
    assert pool.state_of(other) in ("Scheduled", "Late")
    worker.send_signal(signal.SIGTERM)
    worker.wait(timeout=60)
    wait_until(lambda: not pool.job.processes(), "every process was gone")
    assert_nothing_left(pool.job)


@pytest.mark.soak
def test_a_worker_that_is_drained_by_a_signal_finishes_its_run_and_ends(
    pool: Pool, undisturbed: Callable[[str], str]
) -> None:
    worker = pool.start_worker(hold=False)
    run = pool.create_run()
    wait_until(lambda: pool.job.sidecars() and pool.job.at_work(), "the run was at work")
    worker.send_signal(signal.SIGUSR1)
    other = pool.create_run(seed=7)
    pool.wait_for(run, "Completed")
    assert pool.result_of(run)["sha256"] == undisturbed("sleep")
    worker.wait(timeout=60)
    assert pool.state_of(other) in ("Scheduled", "Late"), "it has taken no more"
    wait_until(lambda: not pool.job.processes(), "every process was gone")
    assert_nothing_left(pool.job)


@pytest.mark.soak
def test_a_worker_that_is_stopped_leaves_a_job_that_another_resumes(
    pool: Pool, undisturbed: Callable[[str], str]
) -> None:
    """SIGTERM, and KILL after a minute, as systemd and Docker do: the run does not survive."""
    worker = pool.start_worker()
    run = pool.create_run()
    at_work(pool)
    worker.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        worker.wait(timeout=60)
    resume(pool, run, undisturbed("sleep"))


@pytest.mark.soak
def test_kill_of_the_flow_process_is_seen_by_the_worker(
    pool: Pool, undisturbed: Callable[[str], str]
) -> None:
    pool.start_worker()
    run = pool.create_run()
    at_work(pool)
    flow = flow_process(pool)
    os.kill(flow, signal.SIGKILL)
    assert pool.wait_for(run, "Crashed")
    wait_until(lambda: worker_of(flow) is None and not is_running(flow), "the child was gone")
    resume(pool, run, undisturbed("sleep"))


@pytest.mark.soak
def test_kill_of_worker_flow_and_child_is_resumed_on_another_worker(
    pool: Pool, undisturbed: Callable[[str], str]
) -> None:
    """As a machine that is lost: nobody is left to say anything."""
    worker = pool.start_worker()
    run = pool.create_run()
    at_work(pool)
    for pid in children_of(worker.pid):
        os.kill(pid, signal.SIGKILL)
    worker.wait()
    assert pool.state_of(run) == "Running"
    resume(pool, run, undisturbed("sleep"))


@pytest.mark.soak
def test_a_run_whose_worker_is_killed_says_so_and_is_resumed(
    pool: Pool, undisturbed: Callable[[str], str]
) -> None:
    """Its flow process ends at its next line of log: the worker's end of the pipe is gone."""
    worker = pool.start_worker(hold=False)
    run = pool.create_run()
    wait_until(lambda: pool.job.sidecars() and pool.job.at_work(), "the run was at work")
    worker.kill()
    worker.wait()
    pool.wait_for(run, "Crashed")
    wait_until(lambda: not pool.job.processes(), "every process was gone")
    finished = len(pool.job.sidecars())
    pool.start_worker(hold=False)
    pool.retry(run)
    pool.wait_for(run, "Completed")
    result = pool.result_of(run)
    assert result["sha256"] == undisturbed("sleep")
    assert result["segments_reused"] >= finished
    pool.end()
    assert_nothing_left(pool.job)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_server_that_is_away_for_90_seconds_fails_nothing_and_then_cancels(
    make_job: Callable[..., FaultyJob],
    tmp_path: Path,
    ffmpeg: Callable[..., subprocess.CompletedProcess[bytes]],
    demo_clip: Path,
) -> None:
    """The work goes on meanwhile; once the server is back the job can be cancelled."""
    clip = tmp_path / "long.mp4"
    ffmpeg("-stream_loop", "79", "-i", demo_clip, "-c", "copy", clip)  # five minutes of work
    job = make_job()
    job.clip = clip
    port = free_port()
    job.api_url = f"http://127.0.0.1:{port}/api"
    job.work_dir.mkdir()
    home = str(job.work_dir / "server")
    server = start_server(home, port)
    try:
        with temporary_settings({PREFECT_API_URL: job.api_url}), open_pool(job) as pool:
            pool.start_worker(hold=False)
            run = pool.create_run()
            wait_until(lambda: pool.job.sidecars() and pool.job.at_work(), "the run was at work")
            server.kill()
            server.wait()
            before, end = len(job.sidecars()), time.monotonic() + 90
            while time.monotonic() < end:
                time.sleep(1)
                assert worker_of(pool.workers[-1].pid) is not None, "the job did not go on"
            assert len(job.sidecars()) > before + 30
            server = start_server(home, port)
            assert pool.state_of(run) == "Running"
            pool.client.set_flow_run_state(run, Cancelling())
            pool.wait_for(run, "Cancelled")
            wait_until(
                lambda: worker_of(pool.workers[-1].pid) is None, "the child was gone", seconds=30
            )
    finally:
        server.kill()
        server.wait()
    wait_until(lambda: not job.processes(), "every process was gone", seconds=30)


def start_server(home: str, port: int) -> subprocess.Popen[bytes]:
    """A server on this home's database and port, once it answers."""
    server = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "deployments.host.prefect_server",
                "--parent",
                str(os.getpid()),
            ),
            *("--full", "--port", str(port)),
        ],
        env={**os.environ, "PREFECT_HOME": home},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=2).is_success
        except httpx.TransportError:
            return False

    wait_until(answers, "the server answered")
    return server
