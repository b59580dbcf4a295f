"""The stack of compose.yaml in containers: Compose, Docker's engine, our image, PostgreSQL.

Nothing of compose.yaml is left out and nothing is put in its place but three ports and the address
of the engine's socket. PostgreSQL is Debian's in place of the official image. There is no GPU: the
engine hands the request for one to a hook that does nothing, and the operator sets the pool's jobs
to work on the CPU, on the server, as it is done for any variable.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kits.containers.engine import Engine, engine, needs
from tests.kits.containers.image import IMAGE, POSTGRES, build_image, build_postgres
from tests.kits.containers.stack import Stack
from tests.kits.deployed import deployments, patch, set_by_an_operator
from tests.kits.server import eventually

AUTH = ("operator", "a-password")
USER = "10001"
ENDS = ("completed", "failed", "cancelled")
OURS = ("server", "check-volumes", "deploy", "worker-cpu", "worker-h100", "gateway", "edge")
pytestmark = [pytest.mark.apt, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, docker_data: Path) -> Iterator[Engine]:
    """An engine that takes requests for a GPU and has the images."""
    needs("docker-compose")
    with engine(tmp_path_factory.mktemp("docker"), docker_data, gpus=True) as found:
        build_image(found, tmp_path_factory.mktemp("image"))
        build_postgres(found)
        yield found


class Site:
    """The running stack, as its operator and its callers reach it."""

    def __init__(self, stack: Stack, token: str) -> None:
        self.stack = stack
        self.gateway = httpx.Client(
            base_url=f"http://127.0.0.1:{stack.ports['8000']}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        self.edge = httpx.Client(base_url=f"http://127.0.0.1:{stack.ports['8001']}", timeout=60)
        self.api = httpx.Client(
            base_url=f"http://127.0.0.1:{stack.ports['4200']}/api", auth=AUTH, timeout=60
        )
        self.num_sent = 0
        self.seen: dict[str, Any] = {}
        """Attributes of each job's container, by the run's id."""

    def send(self, clip: Path, **options: str) -> str:
        """Send a video to the gateway; returns the job's id."""
        options = {"model": "lanczos", "resolution": "720p", "preset": "ultrafast"} | options
        url = f"/upscale/{clip.name}"
        self.num_sent += 1
        answer = self.gateway.put(url, params=options, content=clip.read_bytes())
        assert answer.status_code == 202, answer.text
        return answer.json()["job_id"]

    def status(self, job: str) -> dict[str, Any]:
        """The gateway's answer; empty while the service behind it is away."""
        answer = self.gateway.get(f"/status/{job}")
        self._look()
        return answer.json() if answer.is_success else {}

    def end_of(self, job: str) -> dict[str, Any]:
        """Wait for the end of a job."""

        def ended() -> dict[str, Any] | None:
            status = self.status(job)
            return status if status.get("status") in ENDS else None

        return eventually(ended, f"the end of {job}; {self.stack.log('worker-h100')[-3000:]}")

    def close(self) -> None:
        """Close the connections."""
        for client in (self.gateway, self.edge, self.api):
            client.close()

    def _look(self) -> None:
        wanted = {"label": "io.prefect.flow-run-id"}
        for container in self.stack.engine.client.containers.list(
            filters=wanted, ignore_removed=True
        ):
            self.seen[container.labels["io.prefect.flow-run-id"]] = container.attrs


def fill_in(stack: Stack, digest: str, **changes: str) -> None:
    """What an operator writes into .env and site.env."""
    stack.fill_in(
        {
            "SEEDVR2_IMAGE": IMAGE,
            "POSTGRES_IMAGE": POSTGRES,
            "POSTGRES_PASSWORD": "abc123",
            "PREFECT_AUTH": ":".join(AUTH),
            "SEEDVR2_GPU": "0",
            "DOCKER_GID": str(stack.engine.socket.stat().st_gid),
        },
        {
            "SEEDVR2_GATEWAY_TOKENS": digest,
            "SEEDVR2_DEPLOYMENTS": "*=upscale/h100",
            "SEEDVR2_PUBLIC_URL": "http://edge:8001",
            "SEEDVR2_FETCH_ALLOW": "edge",
            "SEEDVR2_CALLBACK_SECRET": "a-secret-of-the-whole-site",
            "SEEDVR2_KEEP_DAYS": "30",
        }
        | changes,
    )


def new_token(docker: Engine) -> tuple[str, str]:
    """A token and its digest, made as docs/operations.md says."""
    told = docker.run(IMAGE, "python", "-P", "-m", "deployments.gateway", "--new-token")
    token, digest = (line.split()[-1] for line in told.splitlines()[:2])
    return token, digest


@pytest.fixture(scope="module")
def digest_of() -> dict[str, str]:
    """The digest of the token, for tests that fill in the files anew."""
    return {}


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, docker: Engine, digest_of: dict[str, str]
) -> Iterator[Site]:
    """The stack with a GPU worker, all healthy; jobs work on the CPU."""
    stack = Stack(tmp_path_factory.mktemp("stack"), docker)
    token, digest_of["token"] = new_token(docker)
    fill_in(stack, digest_of["token"])
    made = Site(stack, token)
    try:
        stack.up("h100")
        template = made.api.get("/work_pools/h100").json()["base_job_template"]
        variables = template["variables"]["properties"]
        cpu = {"SEEDVR2_DEVICE": "cpu", "SEEDVR2_ALLOW_CPU_ENGINE": "true"}
        variables["env"]["default"] |= cpu
        patch(made.api, "/work_pools/h100", json={"base_job_template": template})
        yield made
    finally:
        made.close()
        stack.down()


def test_every_service_runs_as_compose_says(site: Site) -> None:
    states = site.stack.states()
    assert set(states) == {*OURS, "postgres"}
    for name in OURS:
        container = site.stack.engine.client.containers.get(site.stack.container(name))
        config, host = container.attrs["Config"], container.attrs["HostConfig"]
        assert config["User"] == USER, name
        assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"]), name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert "SEEDVR2_KEEP_DAYS=30" in config["Env"], f"{name} has no settings of the site"
        for bound in (container.ports or {}).values():
            assert {one["HostIp"] for one in bound or []} <= {"127.0.0.1"}, name


def test_the_record_is_in_postgresql(site: Site) -> None:
    told = site.stack.engine.docker(
        *(
            "exec",
            site.stack.container("postgres"),
            "psql",
            "--username",
            "prefect",
            "--tuples-only",
        ),
        *("--dbname", "prefect", "--command", "select name from deployment order by name"),
    )
    assert {"auto", "h100", "lost-runs"} <= set(told.stdout.split())
    assert httpx.get(f"{site.api.base_url}admin/version").status_code == 401


def test_a_job_comes_through_the_gateway_and_leaves_by_the_edge(
    site: Site, demo_clip: Path
) -> None:
    job = site.send(demo_clip)
    status = site.end_of(job)
    assert status["status"] == "completed", status
    assert (status["width"], status["height"], status["frames"]) == (1280, 720, 75)
    path = httpx.URL(status["download_url"]).path
    video = site.edge.get(path)
    assert video.status_code == 200
    assert len(video.content) == pytest.approx(status["output_size_mb"] * 1e6, rel=0.01)
    # The container had what the pool's template says, the request for a GPU included.
    host = site.seen[job]["HostConfig"]
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["0"]
    assert (host["ReadonlyRootfs"], host["NetworkMode"]) == (True, "seedvr2")
    assert "SEEDVR2_KEEP_DAYS=30" in site.seen[job]["Config"]["Env"]
    # The site's settings let jobs fetch from the edge, which is in a private network.
    fetched = {"video_url": f"http://edge:8001{path}", "model": "lanczos", "resolution": "720p"}
    answer = site.gateway.post("/upscale", json=fetched)
    assert answer.status_code == 202, answer.text
    assert site.end_of(answer.json()["job_id"])["status"] == "completed"
    private = fetched | {"video_url": "http://server:4200/clip.mp4"}
    refused = site.gateway.post("/upscale", json=private)
    assert (refused.status_code, "SEEDVR2_FETCH_ALLOW" in refused.text) == (422, True)


@pytest.fixture
def job_at_work(site: Site, demo_clip: Path, ffmpeg: Any, tmp_path: Path) -> str:
    """A job of 750 frames that has begun, and that no other job is the same as."""
    clip = tmp_path / "long.mp4"
    ffmpeg("-stream_loop", "9", "-i", demo_clip, "-c", "copy", clip)
    job = site.send(clip, crf=str(18 + site.num_sent))
    eventually(lambda: (site.status(job).get("progress") or 0) > 0, "progress")
    return job


def test_a_drained_worker_ends_its_job_and_is_started_again(
    site: Site, job_at_work: str, demo_clip: Path
) -> None:
    worker = site.stack.engine.client.containers.get(site.stack.container("worker-h100"))
    before = worker.attrs["State"]["StartedAt"]
    # As docs/service.md says.
    site.stack.compose("exec", "-T", "worker-h100", "sh", "-c", "kill -USR1 1")
    later = site.send(demo_clip, crf="31")
    status = site.end_of(job_at_work)
    assert (status["status"], status["frames"]) == ("completed", 750)
    assert site.api.get(f"/flow_runs/{job_at_work}").json()["run_count"] == 1

    def started_again() -> bool:
        worker.reload()
        return worker.attrs["State"]["StartedAt"] != before

    eventually(started_again, f"the worker's end; {site.stack.log('worker-h100')[-2000:]}")
    assert "draining: 1 at work" in site.stack.log("worker-h100")
    assert site.end_of(later)["status"] == "completed", "the worker that was started again takes it"


def test_a_job_outlives_the_server(site: Site, job_at_work: str) -> None:
    job = job_at_work
    server = site.stack.engine.client.containers.get(site.stack.container("server"))
    os.kill(server.attrs["State"]["Pid"], signal.SIGKILL)  # as when the machine's memory ends
    status = site.end_of(job)
    assert (status["status"], status["frames"]) == ("completed", 750)
    server.reload()
    assert server.attrs["RestartCount"] == 1
    eventually(lambda: set(site.stack.states().values()) == {"healthy", "exited 0"}, "all healthy")


def test_a_second_up_keeps_what_the_operator_set(
    site: Site, digest_of: dict[str, str], demo_clip: Path
) -> None:
    set_by_an_operator(site.api)
    before = site.send(demo_clip, crf="30")
    assert site.end_of(before)["status"] == "completed"
    fill_in(site.stack, digest_of["token"], SEEDVR2_KEEP_DAYS="60")
    site.stack.up("h100")
    told = site.stack.log("deploy")
    variables = site.api.get("/work_pools/h100").json()["base_job_template"]["variables"]
    env = variables["properties"]["env"]["default"]
    assert variables["properties"]["mem_limit"]["default"] == "200g"
    assert (env["TZ"], env["SEEDVR2_DEVICE"]) == ("Europe/Berlin", "cpu")
    assert env["SEEDVR2_KEEP_DAYS"] == "60"
    assert "kept mem_limit" in told
    assert "TZ" in told
    h100, recover = (deployments(site.api)[name] for name in ("upscale/h100", "recover/lost-runs"))
    assert (h100["work_queue_name"], recover["paused"]) == ("urgent", True)
    for name in ("gateway", "edge", "worker-cpu", "worker-h100", "server"):
        container = site.stack.engine.client.containers.get(site.stack.container(name))
        assert "SEEDVR2_KEEP_DAYS=60" in container.attrs["Config"]["Env"], name
    assert site.status(before)["status"] == "completed", "the record stays"


def test_a_folder_of_the_host_that_cannot_be_written_is_named(
    site: Site, digest_of: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    os.chown(folder, 0, 0)
    with (site.stack.folder / ".env").open("a") as env:
        env.write(f"\nSEEDVR2_WORK_VOLUME={folder}\n")
    done = site.stack.compose("run", "--rm", "check-volumes", check=False)
    assert done.returncode != 0
    assert f"chown -R {USER} {folder}" in " ".join((done.stdout + done.stderr).split())
