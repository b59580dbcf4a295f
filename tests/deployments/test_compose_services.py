"""Every service of compose.yaml as plain processes, its command and healthcheck taken from there.

What Docker would do is put in its place: variables are filled in, `server` is loopback, ports and
the work volume are this test's own. PostgreSQL is an image of others, so that the server runs on
sqlite. The docker workers run for real up to the point where they would ask a Docker engine for a
container: they take the pool, say that they live, and refuse a run that names no GPU. What needs
the engine is in tests/apt/containers/test_stack.py.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deployments.gateway.auth import digest
from tests.kits.containers.stand_in import engine_without_images
from tests.kits.processes import ends_with_us, free_port
from tests.kits.server import eventually

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deployments" / "compose.yaml"
DOCKERFILE = ROOT / "deployments" / "docker" / "Dockerfile"
SHELL = {
    "SEEDVR2_IMAGE": "registry.example.org/seedvr2:0123456789ab",
    "POSTGRES_PASSWORD": "abc123",
    "PREFECT_AUTH": "operator:a-password",
}
"""What an operator sets in .env."""
SITE = {
    "SEEDVR2_GATEWAY_TOKENS": digest("a-token"),
    "SEEDVR2_CALLBACK_SECRET": "a-secret-of-the-whole-site",
    "SEEDVR2_KEEP_DAYS": "30",
}
"""What an operator sets in site.env."""
AUTH = ("operator", "a-password")
URL = "https://example.org/clip.mp4"
pytestmark = pytest.mark.soak


def filled_in(text: str) -> str:
    """Docker's own substitution: ${A}, ${A-word}, ${A:-word}, ${A:?message}."""

    def value(match: re.Match[str]) -> str:
        name, rule, word = match["name"], match["rule"], match["word"]
        if name in SHELL:
            return SHELL[name]
        assert rule in (":-", "-"), f"{name} is needed and nobody says that operators set it"
        return word

    return re.sub(r"\$\{(?P<name>\w+)(?P<rule>:-|-|:\?)?(?P<word>[^}]*)\}", value, text)


class Stack:
    """The services as processes on this machine."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.folder = folder
        self._engine = engine
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {port: free_port() for port in ("4200", "8000", "8001")}
        self._services = yaml.safe_load(self._here(filled_in(COMPOSE.read_text())))["services"]
        for name, service in self._services.items():
            if name.startswith("worker-"):  # here they share one loopback
                self._services[name] = _with_port(service, "8080", free_port())
        self.api = f"http://127.0.0.1:{self.ports['4200']}/api"
        self.gateway = f"http://127.0.0.1:{self.ports['8000']}"

    @property
    def names(self) -> set[str]:
        """All services."""
        return set(self._services)

    def _here(self, text: str) -> str:
        """What is in a container, on this machine."""
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        text = text.replace("0.0.0.0", "127.0.0.1").replace("http://server:", "http://127.0.0.1:")
        return text.replace("/var/lib/seedvr2/work", str(self.folder / "work"))

    def environment(self, name: str) -> dict[str, str]:
        """Of a service: the image's, and what compose.yaml adds."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("SEEDVR2_", "PREFECT_"))}
        given = self._services[name].get("environment", {})
        return {
            **mine,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(self.folder / f"home-{name}"),
            "SEEDVR2_WORK_DIR": str(self.folder / "work"),
            "DOCKER_HOST": self._engine,
            **(SITE if "env_file" in self._services[name] else {}),
            **{key: str(value) for key, value in given.items() if value is not None},
        }

    def start(self, name: str, **changes: str) -> None:
        """Run a service's command."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                self._services[name]["command"],
                env=self.environment(name) | changes,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ends_with_us(),
            )

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a service that ends by itself."""
        return subprocess.run(
            self._services[name]["command"],
            env=self.environment(name),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def is_healthy(self, name: str) -> bool:
        """Run the service's healthcheck, or the image's where it has none of its own."""
        own = self._services[name].get("healthcheck", {}).get("test")
        kind, *command = own or ["CMD", *_healthcheck_of_the_image()]
        assert kind == "CMD"
        return subprocess.run(command, env=self.environment(name), timeout=60).returncode == 0

    def wait_until(self, look: Callable[[], Any], name: str, what: str) -> Any:
        """Wait until `look` returns something true; a service that has ended fails at once."""

        def found() -> Any:
            code = self._running[name].poll()
            assert code is None, f"{name} ended with {code}: {self.log(name)}"
            return look()

        try:
            return eventually(found, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{name} said: {self.log(name)}") from error

    def wait_until_healthy(self, name: str) -> None:
        """Wait until the service's healthcheck says yes."""
        self.wait_until(lambda: self.is_healthy(name), name, f"health of {name}")

    def log(self, name: str) -> str:
        """The end of what a service wrote."""
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def end(self) -> None:
        """kill -9 everything, the newest first."""
        for process in reversed(self._running.values()):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _with_port(service: dict[str, Any], port: str, free: int) -> dict[str, Any]:
    return json.loads(re.sub(rf"\b{port}\b", str(free), json.dumps(service)))


def _healthcheck_of_the_image() -> list[str]:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("HEALTHCHECK"))
    return json.loads(line.partition("CMD ")[2])


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """A stack, ended whatever happens."""
    with ExitStack() as ends:
        stack = Stack(folder, ends.enter_context(engine_without_images()))
        ends.callback(stack.end)
        yield stack


def test_every_service_starts_and_is_healthy(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        expected = {"postgres", "server", "deploy", "worker-cpu", "worker-h100", "worker-h200"}
        assert stack.names == expected | {"gateway", "edge", "check-volumes"}
        assert not stack.is_healthy("server"), "a healthcheck that cannot fail"
        # The one variable that is put in place of PostgreSQL.
        database = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
        stack.start("server", PREFECT_SERVER_DATABASE_CONNECTION_URL=database)
        stack.wait_until_healthy("server")
        with httpx.Client(base_url=stack.api, auth=AUTH, timeout=60) as api:
            assert httpx.get(f"{stack.api}/admin/version").status_code == 401, "the password is set"
            _deploy(stack, api)
            _serve(stack)
            _work(stack, api)


def _deploy(stack: Stack, api: httpx.Client) -> None:
    """depends_on: deploy has to succeed before anything else starts."""
    (stack.folder / "work").mkdir()
    checked = stack.run("check-volumes")
    assert checked.returncode == 0, checked.stderr
    done = stack.run("deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    pools = {pool["name"]: pool for pool in api.post("/work_pools/filter", json={}).json()}
    assert set(pools) >= {"h100", "h200", "cpu"}
    h100 = api.get("/deployments/name/upscale/h100").json()
    assert h100["job_variables"]["image"] == SHELL["SEEDVR2_IMAGE"]
    for name in ("h100", "cpu"):  # the site reaches the jobs of every pool
        env = pools[name]["base_job_template"]["variables"]["properties"]["env"]["default"]
        assert env == {
            "SEEDVR2_KEEP_DAYS": "30",
            "SEEDVR2_CALLBACK_SECRET": "{{ prefect.blocks.secret.seedvr2-callback-secret }}",
        }


def _serve(stack: Stack) -> None:
    """Gateway and edge, asked from outside as well."""
    for name in ("gateway", "edge"):
        assert not stack.is_healthy(name), "a healthcheck that cannot fail"
        stack.start(name)
    for name in ("gateway", "edge"):
        stack.wait_until_healthy(name)
    refused = httpx.post(f"{stack.gateway}/upscale", json={"video_url": URL})
    assert refused.status_code == 401


def _work(stack: Stack, api: httpx.Client) -> None:
    """The workers take their pools; the one for small flows runs one."""
    for name in ("worker-cpu", "worker-h100", "worker-h200"):
        assert not stack.is_healthy(name), "a healthcheck that cannot fail"
        stack.start(name)
    for name in ("cpu", "h100", "h200"):
        workers = f"/work_pools/{name}/workers/filter"
        stack.wait_until(
            lambda workers=workers: api.post(workers, json={}).json(),
            f"worker-{name}",
            f"a worker of {name}",
        )
        stack.wait_until_healthy(f"worker-{name}")
    answer = httpx.post(
        f"{stack.gateway}/upscale",
        json={"video_url": URL, "resolution": "4k"},
        headers={"Authorization": "Bearer a-token"},
        timeout=60,
    )
    assert answer.status_code == 202, answer.text
    route = api.get("/deployments/name/route/auto").json()["id"]
    asked = {"parameters": {"video_url": URL, "resolution": "720p"}}
    routed = api.post(f"/deployments/{route}/create_flow_run", json=asked).json()["id"]

    def state_of(run: str) -> dict[str, Any]:
        return api.get(f"/flow_runs/{run}").json()["state"]

    def is_in(run: str, kind: str) -> bool:
        return state_of(run)["type"] == kind

    completed = partial(is_in, routed, "COMPLETED")
    stack.wait_until(completed, "worker-cpu", "the end of route")
    assert state_of(routed)["message"].endswith(" on upscale/h100")
    # No GPU is named, so the docker worker gives up before it asks Docker for anything.
    job = answer.json()["job_id"]
    stack.wait_until(partial(is_in, job, "CRASHED"), "worker-h200", "the job's end")
    assert "SEEDVR2_GPU" in state_of(job)["message"]
