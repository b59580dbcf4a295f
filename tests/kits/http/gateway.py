"""A real gateway on loopback in front of a real Prefect server, and functions that change runs."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import httpx
import uvicorn
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import State
from starlette.types import ASGIApp

from deployments.gateway.app import create_app
from deployments.gateway.prefect_api import PrefectApi
from deployments.host.listen import server_config
from flows.upscale import upscale
from tasks.run.artifacts import PROGRESS_KEY, RESULT_KEY
from tasks.schemas import Prospect
from tasks.settings import Settings, use_settings
from tests.kits.hosts.memory import peak_kib
from tests.kits.processes import ROOT, ends_with_us, environment

URL = "https://example.org/clip.mp4"
VIDEO = hashlib.shake_256(b"gateway").digest(700_001)
"""Bytes that are sent as a video."""

RESULT = {
    "job_id": "x",
    "status": "completed",
    "filename": "clip_1080p_abc.mp4",
    "cdn_url": "https://cdn.example/clip_1080p_abc.mp4",
    "output_path": None,
    "input_size_mb": 1.5,
    "output_size_mb": 12.25,
    "notes": ["a note"],
}


@contextmanager
def served(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """Run an application the way our servers run; yields its address."""
    server = uvicorn.Server(server_config(app))
    started = threading.Event()
    startup = server.startup

    async def startup_and_tell(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = startup_and_tell  # type: ignore[method-assign]
    server.config.port = port
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(60)
        taken = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{taken}"
    finally:
        server.should_exit = True
        thread.join(60)


@contextmanager
def gateway(settings: Settings, api_url: str, port: int = 0) -> Iterator[httpx.Client]:
    """Run a gateway with these settings; yields a client of it."""
    use_settings(settings)
    with (
        served(create_app(settings, PrefectApi(api_url)), port) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


class GatewayProcess:
    """`python -m deployments.gateway` as a process of its own."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        """Start it and wait for its address."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deployments.gateway", *arguments],
            env=environment(variables),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=ends_with_us(),
        )
        assert self.process.stdout is not None
        _, _, self.url = self.process.stdout.readline().strip().partition(": ")

    def peak_kib(self) -> int:
        """Most memory that the process ever held."""
        return peak_kib(self.process.pid)

    def end(self) -> str:
        """Let it end; returns what it wrote to stderr."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[1]


@contextmanager
def deployed(api_url: str) -> Iterator[None]:
    """Make pools and deployments h100 and h200 of the real flow; no worker serves them.

    In the end all runs that have not ended are deleted, so that no later test finds them.
    """
    with (
        temporary_settings({PREFECT_API_URL: api_url}),
        get_client(sync_client=True) as client,
    ):
        for name in ("h100", "h200"):
            with suppress(ObjectAlreadyExists):  # another test file may have been first
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            upscale.to_deployment(name, work_pool_name=name).apply()
        yield
        alive = ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]
        unended = FlowRunFilter.model_validate({"state": {"type": {"any_": alive}}})
        while runs := client.read_flow_runs(flow_run_filter=unended):
            for run in runs:
                client.delete_flow_run(run.id)


def submit(client: httpx.Client, **fields: object) -> str:
    """Submit a job; returns its id."""
    answer = client.post("/upscale", json={"video_url": URL, **fields})
    assert answer.status_code == 202, answer.text
    return answer.json()["job_id"]


def intake_files(settings: Settings) -> list[str]:
    """Names of the files in the folder of videos that were sent."""
    return sorted(path.name for path in (settings.work_dir / "intake").glob("*"))


def job_run(job_id: str) -> FlowRun:
    """Read the flow run of a job."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(job_id))


def set_state(job_id: str, kind: StateType, name: str | None = None, message: str = "") -> None:
    """Bring a run into a state, whatever Prefect's rules say."""
    state = State(type=kind, name=name, message=message or None)
    with get_client(sync_client=True) as client:
        if kind == StateType.CANCELLING:  # only what has a process is ever in this state
            client.update_flow_run(UUID(job_id), infrastructure_pid="host:1")
            client.set_flow_run_state(UUID(job_id), State(type=StateType.RUNNING), force=True)
        client.set_flow_run_state(UUID(job_id), state, force=True)


PLANNED = Prospect(
    job_key="0" * 64,
    output_name="clip_1080p_abc.mp4",
    engine="lanczos",
    width=1920,
    height=1080,
    frames=75,
    input_size_mb=1.5,
    eta_seconds=30,
    job_limit_seconds=7200,
).model_dump_json()
"""A planned job, as the progress artifact has it."""


def record_progress(
    job_id: str, percent: float, phase: str = "restore", job: str | None = None
) -> None:
    """Write the progress artifact, as the flow's record thread does."""
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactCreate(
                key=PROGRESS_KEY,
                type="progress",
                data=percent,
                metadata_={"phase": phase} | ({"job": job} if job else {}),
                flow_run_id=UUID(job_id),
            )
        )


def record_result(job_id: str, **changes: Any) -> None:
    """Write the result artifact, as the flow's last task does."""
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactCreate(
                key=RESULT_KEY,
                type="table",
                data=json.dumps([RESULT | changes]),
                flow_run_id=UUID(job_id),
            )
        )
