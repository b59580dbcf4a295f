"""A host whose jobs run in containers: a docker worker, and the Prefect server that it asks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.deploy.apply import apply_deployments, apply_pools, pool_template
from tasks.settings import Settings, use_settings
from tests.kits.containers.engine import Engine
from tests.kits.containers.image import IMAGE
from tests.kits.deployed import deployments, post
from tests.kits.http.video_server import VideoServer
from tests.kits.processes import ends_with_us
from tests.kits.server import Server, eventually

USER = 10001
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
Json = dict[str, Any]


class DockerHost:
    """A host with the worker of pool h100, and the Prefect server that it asks."""

    def __init__(self, folder: Path, docker: Engine, server: Server, videos: VideoServer) -> None:
        self.folder = folder
        self.docker = docker
        self.server = server
        self.work = folder / "work"
        self._videos = videos
        self._worker: subprocess.Popen[bytes] | None = None
        self._num_jobs = 0

    def deploy(self) -> None:
        """What `make deploy` applies to the pool h100, and what a machine without a GPU needs."""
        template = pool_template("h100")
        del template["job_configuration"]["container_create_kwargs"]["device_requests"]
        template["job_configuration"]["env"] |= {
            "SEEDVR2_DEVICE": "cpu",
            "SEEDVR2_ALLOW_CPU_ENGINE": "true",
            "SEEDVR2_TEST_ENGINES": "true",
            "SEEDVR2_SEGMENT_SECONDS": "1",
            "SEEDVR2_FETCH_ALLOW": self._videos.host,
        }
        template["variables"]["properties"]["mem_limit"]["default"] = "2g"
        settings = Settings(image=IMAGE)
        use_settings(settings)
        with (
            pytest.MonkeyPatch.context() as patch,
            temporary_settings({PREFECT_API_URL: self.server.url}),
            get_client(sync_client=True) as client,
        ):
            patch.setenv("SEEDVR2_TEST_ENGINES", "true")  # the form's schema offers them
            apply_pools(client, {"h100": template})
            apply_deployments(client, settings, {"h100"})

    def start_worker(self, **changes: str) -> Path:
        """Start the worker as docs/operations.md says; returns its log."""
        found = entry_points(group="prefect.collections")
        ours = "an older install of the project, without our worker: run `make`"
        assert "deployments.docker.worker" in {one.value for one in found}, ours
        log = self.folder / "worker.log"
        variables = {
            "SEEDVR2_GPU": "0",
            "SEEDVR2_WORK_VOLUME": str(self.work),
            "SEEDVR2_WEIGHTS_VOLUME": str(self.folder / "weights"),
            # A folder that cannot be made in a container: this setting must stay here.
            "PREFECT_HOME": str(self.folder / "home-of-the-worker"),
            "DOCKER_HOST": self.docker.address,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        words = ("worker", "start", "--pool", "h100", "--type", "docker", "--limit", "4")
        with log.open("ab") as out:
            self._worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "prefect", *words],
                env=self.server.environment | variables | changes,
                cwd=self.folder,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=ends_with_us(),
            )
        return log

    def kill_worker(self) -> None:
        """kill -9 the worker."""
        if self._worker is not None:
            os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.wait()
            self._worker = None

    def drain_worker(self) -> None:
        """Tell the worker to take no more runs and to end after those at work."""
        assert self._worker is not None
        self._worker.send_signal(signal.SIGUSR1)
        eventually(lambda: "draining:" in self.told(), "the worker has heard it")

    def end_of_worker(self, seconds: float) -> int:
        """Wait until the worker ends by itself; returns its exit code."""
        assert self._worker is not None
        code = self._worker.wait(seconds)
        self._worker = None
        return code

    def stop_worker(self, seconds: float) -> None:
        """SIGTERM, and KILL if it is still there after so long, as systemd and Docker do."""
        assert self._worker is not None
        self._worker.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            print(f"the worker ended with {self._worker.wait(seconds)}")
        self.kill_worker()

    def submit(
        self, video: str = "/clip.mp4", *, crf: int | None = None, **job_variables: Any
    ) -> str:
        """Start a run of upscale/h100; returns its id. Without a crf it is a new request."""
        self._num_jobs += 1
        deployment = deployments(self.server.client)["upscale/h100"]["id"]
        body = {
            "parameters": {
                "video_url": self._videos.url(video),
                "resolution": "720p",
                "model": "lanczos" if video == "/clip.mp4" else "sleep",
                "preset": "ultrafast",
                "crf": crf or 4 + self._num_jobs,
            },
            "job_variables": job_variables,
        }
        return post(self.server.client, f"/deployments/{deployment}/create_flow_run", body)["id"]

    def cancel(self, run_id: str) -> None:
        """Cancel a run as the gateway does."""
        cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        post(self.server.client, f"/flow_runs/{run_id}/set_state", cancelling)

    def start_sweep(self) -> str:
        """Start a run of `recover` that looks for lost runs until it has a reason to end.

        It runs in a container of the pool h100, as an operator may have it. Returns its id when it
        has looked: another then waits to replace it.
        """
        like = deployments(self.server.client)["upscale/h100"]
        flow = post(self.server.client, "/flows/", {"name": "recover"})["id"]
        kept = ("work_pool_name", "job_variables", "path", "pull_steps", "storage_document_id")
        asked = {name: like[name] for name in kept if like.get(name) is not None}
        asked |= {"name": "lost-runs", "flow_id": flow, "entrypoint": "flows.recover.recover"}
        deployment = post(self.server.client, "/deployments/", asked)["id"]
        body = {"idempotency_key": f"sweep:{uuid4()}", "state": {"type": "SCHEDULED"}}
        url = f"/deployments/{deployment}/create_flow_run"
        sweep = post(self.server.client, url, body)["id"]
        told = f"a look of {sweep}; {self.told()}"
        eventually(lambda: set(self._waiting_sweeps()) - {sweep}, told)
        return sweep

    def remove_waiting_sweeps(self) -> None:
        """Let no other sweep begin in the place of one that has ended."""
        for run_id in self._waiting_sweeps():
            self.server.client.delete(f"/flow_runs/{run_id}").raise_for_status()

    def _waiting_sweeps(self) -> list[str]:
        wanted = {
            "flows": {"name": {"any_": ["recover"]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        runs = self.server.post("/flow_runs/filter", wanted)
        return [run["id"] for run in runs if (run["idempotency_key"] or "").startswith("sweep:")]

    def result(self, run_id: str) -> Json:
        """The result that a job has left in the work directory."""
        told = [json.loads(path.read_text()) for path in self.work.glob("jobs/*/result.json")]
        (found,) = [result for result in told if result["job_id"] == run_id]
        return found

    def run(self, run_id: str) -> Json:
        """A run as the server has it."""
        return self.server.client.get(f"/flow_runs/{run_id}").json()

    def end_of(self, run_id: str) -> Json:
        """Wait for the end of a run; returns its last state."""

        def ended() -> Json | None:
            run = self.run(run_id)
            return run["state"] if run["state_type"] in ENDS else None

        return eventually(ended, f"the end of {run_id}; {self.told()}")

    def told(self) -> str:
        """The end of the worker's log."""
        return (self.folder / "worker.log").read_text()[-4000:]

    def containers(self) -> list[Any]:
        """All containers of jobs, ended ones included."""
        labels = {"label": "io.prefect.flow-run-id"}
        return self.docker.client.containers.list(all=True, filters=labels, ignore_removed=True)

    def container_at_work(self, run_id: str) -> Any:
        """Wait until a run has restored frames; returns its container."""
        eventually(lambda: self._progress(run_id), f"progress of {run_id}; {self.told()}")
        wanted = {"label": f"io.prefect.flow-run-id={run_id}"}
        (container,) = self.docker.client.containers.list(filters=wanted)
        return container

    def _progress(self, run_id: str) -> bool:
        wanted = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": ["upscale-progress"]}}
        found = self.server.post("/artifacts/filter", {"artifacts": wanted})
        return any((artifact.get("data") or 0) > 0 for artifact in found)

    def logs(self, run_id: str) -> str:
        """What the run has logged to Prefect."""
        wanted = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200}
        return "\n".join(line["message"] for line in self.server.post("/logs/filter", wanted))

    def all_gone(self) -> None:
        """Wait until no container of a job is left."""
        eventually(lambda: not self.containers(), "the end of the last container", seconds=60)
