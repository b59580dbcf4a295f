"""A whole installation of processes: a server, workers of two pools, one work directory."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.kits.processes import ROOT, children_of, ends_with_us, free_port, kill_tree
from tests.kits.server import prefect_server

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
                command,
                env=self.environment | changes,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                preexec_fn=ends_with_us(),
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
