"""Jobs in containers for real: Docker's engine, our image, a worker on the host, a Prefect server.

There is no GPU here, so that the pool's template is applied without its request for one; all else
is as shipped. One test makes the request and reads how it is refused.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.deploy.apply import apply_deployments, apply_pools, pool_template
from tasks.settings import Settings, use_settings
from tests.kits.containers.engine import Engine, engine
from tests.kits.containers.image import IMAGE, SECRET_FILES, build_image
from tests.kits.deployed import deployments, post
from tests.kits.http.video_server import VideoServer
from tests.kits.processes import environment, mounted
from tests.kits.server import Server, eventually

USER = 10001
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
INSTALLED = """
import importlib.metadata, json
found = {one.name: one.version for one in importlib.metadata.distributions()}
del found["seedvr2-prefect"]
print(json.dumps(found))
"""
Json = dict[str, Any]
pytestmark = [pytest.mark.apt, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, docker_data: Path) -> Iterator[Engine]:
    """An engine that has the image of this checkout."""
    with engine(tmp_path_factory.mktemp("docker"), docker_data) as found:
        build_image(found, tmp_path_factory.mktemp("image"))
        yield found


class Host:
    """A host with the worker of pool h100, and the Prefect server that it asks."""

    def __init__(self, folder: Path, docker: Engine, server: Server, videos: VideoServer) -> None:
        self.folder = folder
        self.docker = docker
        self.server = server
        self.work = folder / "work"
        self._videos = videos
        self._worker: subprocess.Popen[bytes] | None = None
        self._num_jobs = 0

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
            )
        return log

    def kill_worker(self) -> None:
        """kill -9 the worker."""
        if self._worker is not None:
            os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.wait()
            self._worker = None

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
        return self.docker.client.containers.list(all=True, filters=labels)

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


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory, docker: Engine, demo_clip: Path, ffmpeg: Any
) -> Iterator[Host]:
    """Server, pool, deployment and a worker."""
    folder = tmp_path_factory.mktemp("host")
    ffmpeg("-i", demo_clip, "-frames:v", "10", "-an", folder / "short.mp4")
    ffmpeg("-stream_loop", "7", "-i", demo_clip, "-c", "copy", folder / "long.mp4")
    videos = VideoServer()
    videos.offer("/clip.mp4", content=(folder / "short.mp4").read_bytes())
    videos.offer("/long.mp4", content=(folder / "long.mp4").read_bytes())
    for name in ("work", "weights"):
        (folder / name).mkdir()
        os.chown(folder / name, USER, USER)
    variables = {"PREFECT_HOME": str(folder / "prefect")}
    try:
        with Server(environment(variables)) as server:
            made = Host(folder, docker, server, videos)
            _deploy(made, videos.host)
            made.start_worker()
            try:
                yield made
            finally:
                made.kill_worker()
    finally:
        videos.close()


def _deploy(host: Host, videos: str) -> None:
    """What `make deploy` applies to the pool h100, and what a machine without a GPU needs."""
    template = pool_template("h100")
    del template["job_configuration"]["container_create_kwargs"]["device_requests"]
    template["job_configuration"]["env"] |= {
        "SEEDVR2_DEVICE": "cpu",
        "SEEDVR2_ALLOW_CPU_ENGINE": "true",
        "SEEDVR2_TEST_ENGINES": "true",
        "SEEDVR2_SEGMENT_SECONDS": "1",
        "SEEDVR2_FETCH_ALLOW": videos,
    }
    template["variables"]["properties"]["mem_limit"]["default"] = "2g"
    settings = Settings(image=IMAGE)
    use_settings(settings)
    with (
        pytest.MonkeyPatch.context() as patch,
        temporary_settings({PREFECT_API_URL: host.server.url}),
        get_client(sync_client=True) as client,
    ):
        patch.setenv("SEEDVR2_TEST_ENGINES", "true")  # the form's schema offers them
        apply_pools(client, {"h100": template})
        apply_deployments(client, settings, {"h100"})


def test_the_image_is_what_it_says(docker: Engine) -> None:
    found = docker.client.images.get(IMAGE)
    assert found.attrs["Config"]["User"] == str(USER)
    assert not found.attrs["Config"]["Volumes"], "unnamed volumes would be left behind"
    assert docker.run(IMAGE, "id", "-u") == str(USER)
    # The CPU's build of torch, Triton, gcc, and a base of Debian's: a tenth more than measured.
    assert found.attrs["Size"] < 3.4e9, found.attrs["Size"]
    bill = json.loads(docker.run(IMAGE, "cat", "/opt/seedvr2/sbom.cdx.json"))
    versions = {part["name"]: part["version"] for part in bill["components"]}
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "seedvr2-prefect",
    )
    installed = json.loads(docker.run(IMAGE, "python", "-c", INSTALLED))
    assert installed.items() <= versions.items()
    assert len(installed) > 100
    listed = docker.run(IMAGE, "find", "/opt/seedvr2/src", "-name", "*.env*")
    for secret in SECRET_FILES:
        assert Path(secret).name not in [Path(line).name for line in listed.splitlines()]
    writable = docker.run(
        *(IMAGE, "find", "/opt", "/usr", "-writable", "-not", "-type", "l", "-print"),
        options=("--user", str(USER)),
    )
    assert writable == ""


def test_a_job_runs_to_its_end_and_its_container_is_gone(host: Host) -> None:
    run = host.submit("/long.mp4")
    attributes = host.container_at_work(run).attrs
    assert attributes["Config"]["User"] == str(USER)
    assert attributes["HostConfig"]["ReadonlyRootfs"]
    assert attributes["HostConfig"]["CapDrop"] == ["ALL"]
    assert attributes["HostConfig"]["LogConfig"]["Config"]["max-size"] == "20m"
    state = host.end_of(run)
    assert state["type"] == "COMPLETED", state
    host.all_gone()
    assert list((host.work / "output").glob("*.mp4"))
    # What it wrote is in Prefect, and in the worker's own log.
    assert "segment" in host.logs(run)
    assert host.logs(run).splitlines()[-1] in host.told()


def test_cancel_ends_the_container(host: Host) -> None:
    run = host.submit("/long.mp4")
    host.container_at_work(run)
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    post(host.server.client, f"/flow_runs/{run}/set_state", cancelling)
    assert host.end_of(run)["type"] == "CANCELLED"
    host.all_gone()


def test_a_container_that_is_killed_is_told_at_once(host: Host) -> None:
    run = host.submit("/long.mp4")
    host.container_at_work(run).kill()
    state = host.end_of(run)
    assert state["type"] == "CRASHED"
    assert "137" in state["message"]
    host.all_gone()


def test_the_memory_limit_is_told(host: Host) -> None:
    run = host.submit("/long.mp4", mem_limit="250m")
    state = host.end_of(run)
    assert state["type"] in ("CRASHED", "FAILED")
    told = "137" if state["type"] == "CRASHED" else "SIGKILL .+ because memory ran out"
    assert re.search(told, state["message"]), state["message"]
    host.all_gone()


def test_a_job_outlives_its_worker(host: Host) -> None:
    run = host.submit("/long.mp4")
    host.container_at_work(run)
    host.kill_worker()
    host.start_worker()
    assert host.end_of(run)["type"] == "COMPLETED"
    host.all_gone()
    second = host.submit()
    assert host.end_of(second)["type"] == "COMPLETED", "the new worker takes new runs"


def test_a_disk_that_fills_up_stops_the_job_and_the_same_request_goes_on(host: Host) -> None:
    host.kill_worker()
    with mounted(host.folder / "small", size="400m") as small:
        os.chown(small, USER, USER)
        host.start_worker(SEEDVR2_WORK_VOLUME=str(small))
        run = host.submit("/long.mp4", crf=20)
        host.container_at_work(run)
        eventually(
            lambda: len(list(small.glob("jobs/*/segments/[0-9]*.json"))) >= 2, "two segments"
        )
        others = fill(small)
        state = host.end_of(run)
        assert state["type"] == "FAILED"
        assert "make room and run" in state["message"], state["message"]
        assert "finished segments are kept" in state["message"]
        host.all_gone()
        kept = [path.name for path in small.glob("jobs/*/segments/[0-9]*.json")]
        assert not list(small.glob("output/*"))
        others.unlink()
        again = host.submit("/long.mp4", crf=20)
        assert host.end_of(again)["type"] == "COMPLETED", host.logs(again)
        (result,) = small.glob("jobs/*/result.json")
        assert json.loads(result.read_text())["segments_reused"] >= len(kept) >= 2
        host.all_gone()
        host.kill_worker()
    host.start_worker()


def fill(folder: Path) -> Path:
    """Take all room of a file system, as files of others do; returns the file that has it."""
    others = folder / "of-others"
    with others.open("wb") as file, contextlib.suppress(OSError):
        while file.write(bytes(2**16)):
            file.flush()
    return others


def test_a_host_without_the_nvidia_runtime_says_so(host: Host) -> None:
    shipped = pool_template("h100")["job_configuration"]["container_create_kwargs"]
    pool = host.server.client.get("/work_pools/h100").json()
    before = json.dumps(pool["base_job_template"])
    template = json.loads(before)
    template["job_configuration"]["container_create_kwargs"] = shipped
    changed = host.server.client.patch("/work_pools/h100", json={"base_job_template": template})
    assert changed.is_success
    try:
        state = host.end_of(host.submit())
    finally:
        host.server.client.patch("/work_pools/h100", json={"base_job_template": json.loads(before)})
    assert state["type"] == "CRASHED"
    assert "Docker on this host has no NVIDIA runtime" in state["message"]
    assert "nvidia-ctk" in state["message"]
    host.all_gone()
