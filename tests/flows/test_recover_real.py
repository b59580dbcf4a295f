"""`recover` with everything real: a server with its automations, workers, processes that are killed
and stopped. The short forms of these tests, in one process, are in tests/flows/recover.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect._internal.observers import FlowRunCancellingObserver
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.recovery.states import cancelling
from tests.kits.processes import ROOT, children_of, free_port, is_running, kill_tree
from tests.kits.server import prefect_server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

AWAY_SECONDS = 75.0
"""An outage of the server: longer than a process may show no sign of life."""
BACK_SECONDS = 150.0
"""Longest time until a run whose machine died is scheduled again, on a busy test machine: by
arithmetic it is 120."""
PATIENCE_SECONDS = 400.0


def until(look: Callable[[], Any], what: str) -> Any:
    """Call `look` until it returns something true; a server that is away counts as false."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if found := look():
                return found
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.5)


class Site:
    """A server, the workers of the pools `cpu` and `local`, and one work directory."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}/api"
        own = {name: value for name, value in os.environ.items() if "SEEDVR2" not in name}
        self.environment = own | {
            "PREFECT_HOME": str(folder),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "SEEDVR2_IMAGE": "none:0",
            "SEEDVR2_WORK_DIR": str(folder / "work"),
            "SEEDVR2_TEST_ENGINES": "1",
            "SEEDVR2_SEGMENT_SECONDS": "2",
            "SEEDVR2_STALL_SECONDS": "10",
            "SEEDVR2_RECOVER_MARGIN_SECONDS": "10",
            "SEEDVR2_RECOVER_WAIT_SECONDS": "40",
            "SEEDVR2_RECOVER_LOOK_SECONDS": "2",
        }
        self._server = ExitStack()
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self.api = httpx.Client(base_url=self.url, timeout=30.0)
        self.start_server()

    def start_server(self) -> None:
        self._server.enter_context(prefect_server(self.environment))

    def kill_server(self) -> None:
        self._server.close()

    def deploy(self) -> None:
        """Pools, deployments, automations."""
        command = [sys.executable, "-m", "deployments.deploy", "deploy"]
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start_worker(self, pool: str, *, limit: int = 1, **changes: str) -> None:
        """A process worker of the pool, or another one if it is gone."""
        worker = self._workers.get(pool)
        if worker is not None and worker.poll() is None:
            return
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
        command += ["--limit", str(limit) if pool == "local" else "4"]
        with (self.folder / f"{pool}.log").open("ab") as log:
            self._workers[pool] = subprocess.Popen(
                command, env=self.environment | changes, cwd=ROOT, stdout=log, stderr=log
            )

    def kill_worker(self, pool: str) -> list[int]:
        """kill -9 a worker and all it runs; returns the process ids."""
        worker = self._workers.pop(pool)
        killed = kill_tree(worker.pid)
        worker.wait()
        return killed

    def running(self, pool: str) -> list[int]:
        """Ids of the processes that a worker runs: the flow and its child."""
        return children_of(self._workers[pool].pid)[1:]

    def close(self) -> None:
        for pool in list(self._workers):
            self.kill_worker(pool)
        self.kill_server()
        self.api.close()

    def ask(self, method: str, path: str, **how: Any) -> Any:
        """One request; a server that is away or too busy for it is asked again."""

        def answer() -> httpx.Response | None:
            response = self.api.request(method, path, **how)
            return None if response.status_code == 503 else response

        response = until(answer, f"an answer to {path}")
        assert response.is_success, response.text
        return response.json() if response.content else None

    def post(self, path: str, body: object) -> Any:
        return self.ask("POST", path, json=body)

    def create(self, deployment: str, **parameters: object) -> str:
        """Create a run; returns its id."""
        found = self.ask("GET", f"/deployments/name/{deployment}")["id"]
        body = {"parameters": parameters}
        return self.post(f"/deployments/{found}/create_flow_run", body)["id"]

    def run(self, run_id: str) -> dict[str, Any]:
        return self.ask("GET", f"/flow_runs/{run_id}")

    def state(self, run_id: str) -> str:
        return self.run(run_id)["state_name"]

    def said(self, run_id: str) -> str:
        """Wait until a run has completed; returns its message."""
        until(lambda: self.state(run_id) in ("Completed", "Failed", "Crashed"), f"end of {run_id}")
        state = self.run(run_id)["state"]
        assert state["type"] == "COMPLETED", state
        return state["message"]

    def states(self, run_id: str) -> list[str]:
        """The names of all states that a run has been in, the oldest first."""
        found = self.ask("GET", "/flow_run_states/", params={"flow_run_id": run_id})
        return [s["name"] for s in sorted(found, key=lambda state: state["timestamp"])]

    def artifacts(self, run_id: str, key: str) -> list[dict[str, Any]]:
        """A run's artifacts of that key, the newest first."""
        wanted = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": [key]}}
        return self.post("/artifacts/filter", {"artifacts": wanted, "sort": "CREATED_DESC"})

    def beats(self, run_id: str, attempt: int = 1) -> bool:
        """Whether that attempt has restored frames."""
        progress = self.artifacts(run_id, "upscale-progress")
        if len(progress) < attempt:
            return False
        return progress[0]["data"] > 0 and progress[0]["metadata_"]["phase"] == "restore"

    def looks(self, run_id: str) -> list[str]:
        """The messages of all runs of `recover` that looked at a run."""
        runs = self.post("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        mine = [run for run in runs if run["parameters"].get("run_id") == run_id]
        return [run["state"]["message"] or run["state_name"] for run in mine]

    def committed(self) -> int:
        """Number of finished segments on disk."""
        return len(list((self.folder / "work").glob("jobs/*/segments/[0-9]*.json")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with everything deployed and a worker that runs `recover`."""
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.deploy()
        site.start_worker("cpu")
        yield site
    finally:
        site.close()


@pytest.fixture
def clip(
    demo_clip: Path, tmp_path: Path, ffmpeg: Callable[..., subprocess.CompletedProcess[bytes]]
) -> Callable[[int], Path]:
    """Make a source that repeats the demo clip; each test has its own, so that jobs differ."""

    def make(times: int) -> Path:
        path = tmp_path / "looped.mp4"
        loop = ("-stream_loop", str(times - 1), "-i", demo_clip, "-c", "copy")
        ffmpeg(*loop, "-metadata", f"title={tmp_path.name}", path)
        return path

    return make


def submit(site: Site, clip: Path) -> str:
    """Submit a job that takes 50 ms a frame."""
    return site.create(
        "upscale/local",
        video_path=str(clip),
        model="sleep",
        resolution="720p",
        preset="ultrafast",
    )


def stop(site: Site) -> list[int]:
    """SIGSTOP what the local worker runs, as if its machine hung; returns the process ids."""
    stopped = site.running("local")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    return stopped


def test_worker_and_flow_killed_and_no_human(site: Site, clip: Callable[[int], Path]) -> None:
    # Its appointment is far away, and the server is started again, which loses events or has them
    # come late: the sweep finds that the run shows no sign of life.
    site.start_worker("local", SEEDVR2_RECOVER_MARGIN_SECONDS="900")
    before = site.committed()
    job = submit(site, clip(10))
    until(lambda: site.committed() >= before + 3, "three segments")
    killed = site.kill_worker("local")
    assert len(killed) >= 3, "worker, flow, child"
    until(lambda: not any(is_running(pid) for pid in killed), "the end of all of them")
    began = time.monotonic()
    site.kill_server()
    site.start_server()
    site.start_worker("cpu")
    site.start_worker("local")
    until(lambda: "AwaitingRetry" in site.states(job), "AwaitingRetry")
    seconds = time.monotonic() - began
    print(f"scheduled again {seconds:.0f} s after its machine died")
    assert seconds < BACK_SECONDS
    until(lambda: site.state(job) == "Completed", "Completed")
    until(lambda: any("re-queued, 1" in said for said in site.looks(job)), "its report")
    run = site.run(job)
    assert (run["run_count"], run["labels"]["recoveries"]) == (2, 1)
    ends = ("Cancelling", "AwaitingRetry", "Completed")
    assert [name for name in site.states(job) if name in ends] == list(ends)
    of_run = {"flow_runs": {"id": {"any_": [job]}}}
    tasks = {task["state_type"] for task in site.post("/task_runs/filter", of_run)}
    assert not tasks & {"RUNNING", "PENDING"}, "what the killed attempt left is ended"
    (result,) = site.artifacts(job, "upscale-result")
    reused = {row["what"]: row["value"] for row in json.loads(result["data"])}["segments_reused"]
    assert reused >= 3
    assert any("re-queued, 1" in said for said in site.looks(job))


def test_a_worker_hears_a_cancel_once_more_and_a_recovery_never(site: Site) -> None:
    """By Prefect's own part of a worker, begun after the cancel: it would kill the next attempt."""

    async def killed(run_id: str) -> list[UUID]:
        found: list[UUID] = []

        def kill(flow_run_id: UUID) -> None:
            found.append(flow_run_id)

        async with FlowRunCancellingObserver(on_cancelling=kill) as observer:
            observer.add_in_flight_flow_run_id(UUID(run_id))
            await asyncio.sleep(5)
        return found

    flow = site.post("/flows/", {"name": "nothing"})["id"]
    for heard in (True, False):
        state = cancelling("it was lost", heard_by_workers=heard)
        run = site.post("/flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING"}})["id"]
        for told in ({"type": state.type.value, "name": state.name}, {"type": "RUNNING"}):
            site.post(f"/flow_runs/{run}/set_state", {"state": told, "force": True})
        of_run = {"resource": {"id": [f"prefect.flow-run.{run}"]}}
        wanted = {"filter": of_run | {"event": {"name": [f"prefect.flow-run.{state.name}"]}}}
        until(lambda wanted=wanted: site.post("/events/filter", wanted)["total"], "its event")
        with temporary_settings({PREFECT_API_URL: site.url}):
            assert asyncio.run(killed(run)) == ([UUID(run)] if heard else [])


def test_a_slow_run_that_beats_is_left_alone(site: Site, clip: Callable[[int], Path]) -> None:
    site.start_worker("local")
    job = submit(site, clip(10))
    until(lambda: site.beats(job), "beats")
    assert site.said(site.create("recover/lost-runs", run_id=job)) == "alive: Running"
    until(lambda: site.state(job) == "Completed", "Completed")
    assert site.run(job)["run_count"] == 1
    assert not {"Cancelling", "Crashed"} & set(site.states(job))
    assert site.said(site.create("recover/lost-runs", run_id=job)) == "ended: Completed"


def test_a_hung_run_whose_file_is_stored_is_completed(
    site: Site, clip: Callable[[int], Path]
) -> None:
    site.start_worker("local")
    source = clip(10)
    first = submit(site, source)
    until(lambda: site.state(first) == "Completed", "the first, undisturbed")
    for result in (site.folder / "work").glob("jobs/*/result.json"):
        result.unlink()  # else the second would find the output itself
    job = submit(site, source)
    until(lambda: site.beats(job), "beats")
    stopped = stop(site)
    until(lambda: site.state(job) == "Completed", "Completed")
    until(lambda: any("; completed: looped" in said for said in site.looks(job)), "its report")
    assert not any(is_running(pid) for pid in stopped)
    (result,) = site.artifacts(job, "upscale-result")
    assert job in result["data"]
    assert site.states(job)[-3:] == ["Cancelling", "Cancelled", "Completed"]


def test_a_run_that_hangs_again_and_again_fails(site: Site, clip: Callable[[int], Path]) -> None:
    site.start_worker("local")
    job = submit(site, clip(10))
    ended = 0
    for attempt in (1, 2, 3):
        until(lambda attempt=attempt: site.beats(job, attempt), f"beats of attempt {attempt}")
        stopped = stop(site)
        expected = "AwaitingRetry" if attempt < 3 else "Failed"
        until(
            lambda name=expected, after=ended: name in site.states(job)[after:],
            f"{expected} after attempt {attempt}",
        )
        ended = len(site.states(job))
        assert not any(is_running(pid) for pid in stopped)
    assert site.run(job)["state"]["message"].startswith("output file not found")
    assert site.run(job)["run_count"] == 3


def test_a_worker_that_lives_and_cannot_end_its_process_costs_no_more_than_two_minutes(
    site: Site, clip: Callable[[int], Path]
) -> None:
    """The longest way: the process hangs, and the worker waits half a minute before it kills it."""
    site.start_worker("local")  # if an earlier test has left none
    site.kill_worker("local")
    site.start_worker("local", SEEDVR2_STALL_SECONDS="3600")
    job = submit(site, clip(10))
    until(lambda: site.beats(job), "beats")
    began = time.monotonic()
    stopped = stop(site)
    until(lambda: "AwaitingRetry" in site.states(job), "AwaitingRetry")
    seconds = time.monotonic() - began
    print(f"scheduled again {seconds:.0f} s after its process hung")
    assert seconds < BACK_SECONDS
    assert not any(is_running(pid) for pid in stopped)
    until(lambda: site.state(job) == "Completed", "Completed")
    assert site.run(job)["run_count"] == 2


def test_a_server_that_was_away_kills_no_job(site: Site, clip: Callable[[int], Path]) -> None:
    site.start_worker("local")
    job = submit(site, clip(50))
    until(lambda: site.beats(job), "beats")
    at_work = site.running("local")
    site.kill_server()
    time.sleep(AWAY_SECONDS)
    site.start_server()
    site.start_worker("cpu")
    site.start_worker("local")
    time.sleep(AWAY_SECONDS)  # a sweep comes by
    assert site.state(job) == "Running"
    assert all(is_running(pid) for pid in at_work)
    until(lambda: site.state(job) == "Completed", "Completed")
    assert site.run(job)["labels"]["recoveries"] == 0
    assert "Cancelling" not in site.states(job)


def test_a_second_run_frees_its_slot_and_takes_the_result_when_it_is_there(
    site: Site, clip: Callable[[int], Path], demo_clip: Path
) -> None:
    site.start_worker("local")  # if an earlier test has left none
    site.kill_worker("local")
    site.start_worker("local", limit=2)
    source = clip(10)
    first = submit(site, source)
    until(lambda: site.beats(first), "beats")
    second = submit(site, source)
    until(lambda: site.state(second) == "AwaitingRetry", "AwaitingRetry")
    assert f"waiting for job {first}" in site.run(second)["state"]["message"]
    other = submit(site, demo_clip)
    until(lambda: site.state(other) == "Running", "another job in the slot")
    assert site.state(first) == "Running"
    until(lambda: site.state(first) == "Completed", "the first")
    began = time.monotonic()
    until(lambda: site.state(second) == "Completed", "the second")
    print(f"the second took its result {time.monotonic() - began:.0f} s after the first had ended")
    results = [site.artifacts(job, "upscale-result")[0]["data"] for job in (first, second)]
    told = [{row["what"]: row["value"] for row in json.loads(data)} for data in results]
    assert told[0]["filename"] == told[1]["filename"]
    assert site.run(second)["labels"]["recoveries"] == 0
    until(lambda: site.state(other) == "Completed", "the other")
