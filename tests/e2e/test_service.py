"""The whole service on loopback: twelve jobs at once, submitted in every way, and a killed server.

It consists of a real Prefect server, workers, a gateway and a web server with the clips. Two
process pools stand in for the GPU pools of the same name; everything else is what `make deploy`
applies. Jobs are short clips on the lanczos engine. The tests check where the jobs run, how they
end, and that none is lost or done twice.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.deploy.apply import (
    apply_automations,
    apply_deployments,
    apply_pools,
    pool_template,
)
from deployments.host.attached import attached
from tasks.settings import Settings, use_settings
from tests.kits.processes import ROOT, environment
from tests.kits.server import WAIT_SECONDS, Server, eventually

OPTIONS = {"model": "lanczos", "preset": "ultrafast"}
FRAMES = 10
ENDS = ("COMPLETED", "FAILED", "CANCELLED")
"""No CRASHED: Prefect gives up a run whose process starts while the server is away; an automation
starts `recover`, which brings it back."""
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A job and how it must end."""

    name: str
    """Name of its clip; each job has a clip of its own."""
    resolution: str
    pool: str
    state: str = "COMPLETED"
    told: str = ""
    """Part of its last message."""

    def is_of(self, run: Json) -> bool:
        """Whether a run is this job's."""
        return run["parameters"]["video_url"].endswith(f"/{self.name}")


class Service:
    """A running server, and the processes that talk to it."""

    def __init__(self, folder: Path, site: str, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.environment = server.environment
        self.gateway = ""
        self._site = site
        self._processes: list[subprocess.Popen[bytes]] = []

    def source(self, name: str) -> str:
        """Address of a clip."""
        return f"http://{self._site}/{name}"

    def start_gateway(self) -> None:
        """The gateway, on a port of its own."""
        log = self._start("gateway", "deployments.gateway", "--port", "0")
        said = eventually(lambda: log.read_text().partition("\n")[0], "the gateway")
        self.gateway = said.removeprefix("gateway: ")

    def start_workers(self, **limits: int) -> None:
        """A process worker for each pool."""
        for pool, limit in limits.items():
            words = ("worker", "start", "--type", "process", "--pool", pool)
            self._start(f"worker-{pool}", "prefect", *words, "--limit", str(limit))

    def _start(self, name: str, module: str, *arguments: str) -> Path:
        """Start a process; returns its log."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            self._processes.append(
                subprocess.Popen(
                    attached(module, *arguments),
                    env=self.environment,
                    cwd=self.folder,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            )
        return log

    def end(self) -> None:
        """kill -9 all processes."""
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def runs(self) -> list[Json]:
        """All runs of upscale."""
        body = {"flows": {"name": {"any_": ["upscale"]}}}
        return self.server.post("/flow_runs/filter", body)

    def num_ended(self) -> int:
        """How many of them have ended."""
        return sum(run["state_type"] in ENDS for run in self.runs())

    def told(self) -> list[tuple[str, str]]:
        """Names and states of all runs."""
        return [(run["name"], run["state_name"]) for run in self.runs()]

    def num_results(self, run_id: str) -> int:
        """How many results a run has recorded."""
        wanted = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": ["upscale-result"]}}
        return len(self.server.post("/artifacts/filter", {"artifacts": wanted}))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, demo_clip: Path, ffmpeg: Any) -> Iterator[str]:
    """A web server on loopback: the demo clip cut to ten frames under any name like c*.mp4."""
    folder = tmp_path_factory.mktemp("site")
    ffmpeg("-i", demo_clip, "-frames:v", str(FRAMES), "-an", folder / "short.mp4")
    clip = (folder / "short.mp4").read_bytes()

    class Pages(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            # Other bytes under each name: a free box at the end, so that no two jobs are the same.
            body = clip + _free_box(self.path) if self.path.startswith("/c") else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _free_box(text: str) -> bytes:
    data = text.encode()
    return (len(data) + 8).to_bytes(4, "big") + b"free" + data


@pytest.fixture
def service(tmp_path: Path, site: str) -> Iterator[Service]:
    """Server, pools, deployments, automations; workers and gateway are started by the tests."""
    variables = {
        "SEEDVR2_WORK_DIR": str(tmp_path / "work"),
        "SEEDVR2_FETCH_ALLOW": site,
        "SEEDVR2_IMAGE": "seedvr2:stand-in",
        "SEEDVR2_POLL_SECONDS": "1",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    with Server(environment(variables)) as server:
        made = Service(tmp_path, site, server)
        _deploy(made)
        try:
            yield made
        finally:
            made.end()


def _deploy(service: Service) -> None:
    """What `make deploy` applies, with process pools in the place of the docker pools."""
    settings = Settings(image="seedvr2:stand-in")
    use_settings(settings)
    templates = {name: pool_template(name) for name in ("cpu", "local")}
    for name in ("h100", "h200"):
        taken = pool_template(name)["variables"]["properties"]["resolutions"]["default"]
        templates[name] = pool_template("local")
        templates[name]["job_configuration"]["env"]["SEEDVR2_RESOLUTIONS"] = taken
    with (
        temporary_settings({PREFECT_API_URL: service.server.url}),
        get_client(sync_client=True) as client,
    ):
        apply_pools(client, templates)
        apply_deployments(client, settings)
        apply_automations(client, settings)
        _look_often(client)


def _look_often(client: SyncPrefectClient) -> None:
    """Lost runs that nobody looks at are looked for every three minutes here."""
    recover = client.read_deployment_by_name("recover/lost-runs")
    (schedule,) = recover.schedules
    often = IntervalSchedule(interval=timedelta(minutes=3))
    client.update_deployment_schedule(recover.id, schedule.id, schedule=often)


class Callers:
    """Everybody who wants something, each in his own way, and what must come of it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.expected: list[Expected] = []
        self.keys: dict[str, str] = {}
        self.scripts: dict[str, subprocess.Popen[str]] = {}
        self._commands: list[subprocess.Popen[str]] = []

    def expect(self, name: str, resolution: str, **more: str) -> str:
        """Note a job; the address of its clip."""
        pool = "h100" if resolution in ("720p", "1080p") else "h200"
        job = Expected(**{"name": name, "resolution": resolution, "pool": pool} | more)
        self.expected.append(job)
        return self._service.source(name)

    def by_gateway(self, name: str, resolution: str, **more: str) -> None:
        """POST /upscale."""
        self.keys[name] = uuid4().hex
        self.expect(name, resolution, **more)
        answer = self.ask_gateway(name, resolution)
        assert answer.status_code == 202, answer.text

    def ask_gateway(self, name: str, resolution: str) -> httpx.Response:
        """The request; the same one again with the same key."""
        body = {"video_url": self._service.source(name), "resolution": resolution, **OPTIONS}
        headers = {"Idempotency-Key": self.keys[name]}
        return httpx.post(
            f"{self._service.gateway}/upscale", json=body, headers=headers, timeout=60
        )

    def by_script(self, name: str, resolution: str, file: Path | None = None, **more: str) -> None:
        """upscale.sh with an address or a file; it waits for the end."""
        source = self.expect(name, resolution, **more)
        self.scripts[name] = self._popen(
            "bash", ROOT / "upscale.sh", file or source, "--resolution", resolution
        )

    def by_command(self, deployment: str, name: str, resolution: str, **more: str) -> None:
        """prefect deployment run."""
        asked = {"video_url": self.expect(name, resolution, **more), "resolution": resolution}
        words = [f"{key}={json.dumps(value)}" for key, value in (OPTIONS | asked).items()]
        options = [argument for word in words for argument in ("-p", word)]
        run = (sys.executable, "-m", "prefect", "deployment", "run", deployment)
        self._commands.append(self._popen(*run, *options))

    def by_event(self, name: str, resolution: str, *, parameters: Json, **more: str) -> None:
        """POST /events, as a webhook's sender does."""
        payload = OPTIONS | {"video_url": self.expect(name, resolution, **more)} | parameters
        resource = {"prefect.resource.id": f"upscale.request.{uuid4()}", "resolution": resolution}
        event = {"event": "upscale.requested", "resource": resource, "payload": payload}
        stamped = event | {"id": str(uuid4()), "occurred": datetime.now(UTC).isoformat()}
        self._service.server.post("/events", [stamped])

    def wait_for_commands(self) -> None:
        """They end when the run is created."""
        for command in self._commands:
            out, _ = command.communicate(timeout=WAIT_SECONDS)
            assert command.returncode == 0, out

    def _popen(self, *command: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(word) for word in command],
            env=self._service.environment | {"SEEDVR2_GATEWAY_URL": self._service.gateway},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def check(service: Service, expected: list[Expected]) -> None:
    """Every job once, on its pool, in its state; every output once, whole."""
    runs = service.runs()
    for job in expected:
        found = [run for run in runs if job.is_of(run)]
        assert len(found) == 1, (job, [run["name"] for run in runs])
        run = found[0]
        assert run["state_type"] == job.state, (job, run["state"])
        assert run["work_pool_name"] == job.pool, job
        assert job.told in (run["state"]["message"] or ""), (job, run["state"])
        assert service.num_results(run["id"]) == (job.state == "COMPLETED"), job
    assert len(runs) == len(expected)
    work = service.folder / "work"
    results = [json.loads(path.read_text()) for path in work.glob("jobs/*/result.json")]
    assert len(results) == sum(job.state == "COMPLETED" for job in expected)
    videos = {result["filename"] for result in results}
    pictures = {f"{Path(name).stem}.preview.jpg" for name in videos}
    assert {path.name for path in work.glob("output/*")} == videos | pictures
    assert {result["frames"] for result in results} == {FRAMES}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_twelve_jobs_at_once_and_a_server_that_is_killed(service: Service, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("this is not a video\n" * 200)
    service.start_gateway()
    callers = Callers(service)
    # No worker is there yet: nothing is done before the last one is asked for.
    callers.by_gateway("c1.mp4", "720p")
    callers.by_gateway("c2.mp4", "2k")
    callers.by_gateway("missing.mp4", "1080p", state="FAILED", told="404")
    callers.by_script("c3.mp4", "1080p")
    callers.by_script("text.mp4", "720p", file=text, state="FAILED", told="video")
    callers.by_command("upscale/h100", "c4.mp4", "720p")
    wrong = {"state": "FAILED", "told": "this pool takes 2k, 4k"}
    callers.by_command("upscale/h200", "c5.mp4", "720p", pool="h200", **wrong)
    callers.by_command("route/auto", "c6.mp4", "2k")
    callers.by_command("route/auto", "c7.mp4", "720p")
    callers.by_event("c8.mp4", "1080p", parameters={})
    callers.by_event("c9.mp4", "2k", parameters={})
    too_large = {"batch_size": 21, "temporal_overlap": 20}
    callers.by_event("c10.mp4", "720p", parameters=too_large, state="FAILED", told="overlap")
    callers.wait_for_commands()
    assert len(callers.expected) == 12

    service.start_workers(h100=2, h200=1, cpu=4)
    # An event leaves no receipt: before the server dies it must have become a run.
    eventually(lambda: len(service.runs()) == 12, "twelve runs")
    eventually(lambda: service.num_ended() >= 3, "the first ends")
    assert service.num_ended() < 12, "nothing was left for the kill to harm"
    service.server.kill()
    away = callers.ask_gateway("c1.mp4", "720p")
    assert (away.status_code, int(away.headers["Retry-After"]) > 0) == (503, True)
    service.server.start()
    again = eventually(lambda: _job_of(callers.ask_gateway("c1.mp4", "720p")), "the gateway")
    assert [run["id"] for run in service.runs() if "c1.mp4" in str(run["parameters"])] == [again]

    try:
        eventually(lambda: service.num_ended() == 12, "twelve ends", seconds=1200)
    except AssertionError as error:
        raise AssertionError(f"{error}: {service.told()}") from None
    check(service, callers.expected)
    scripts = callers.scripts.items()
    said = {name: script.communicate(timeout=WAIT_SECONDS)[0] for name, script in scripts}
    codes = {name: script.returncode for name, script in scripts}
    assert codes == {"c3.mp4": 0, "text.mp4": 1}, said
    assert "URL:" in said["c3.mp4"]
    assert "has failed" in said["text.mp4"]


def _job_of(answer: httpx.Response) -> str | None:
    return answer.json()["job_id"] if answer.is_success else None
