"""Starts a Prefect server, a worker or a gateway as processes, for the benchmarks of the service.

This is no benchmark by itself: gateway.py and overhead.py use it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.kits.processes import ends_with_us, free_port

ROOT = Path(__file__).parents[1]
START_SECONDS = 180.0

T = TypeVar("T")


def until(look: Callable[[], T | None], what: str, seconds: float = START_SECONDS) -> T:
    """Call `look` until it returns something, and return that."""
    deadline = time.monotonic() + seconds
    while (found := look()) in (None, False, ""):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.1)
    return found


def service_environment(folder: Path) -> dict[str, str]:
    """Environment of a service with its own server on a free port and all its files in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEEDVR2_")}
    return kept | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "SEEDVR2_WORK_DIR": str(folder / "work"),
        "SEEDVR2_ALLOW_LOCAL_FILES": "1",
        "SEEDVR2_ALLOW_CPU_ENGINE": "1",
        "SEEDVR2_DEPLOYMENTS": "*=upscale/local",
        "SEEDVR2_IMAGE": "seedvr2:benchmark",
    }


@contextmanager
def process(environment: Mapping[str, str], log: Path, *arguments: str) -> Iterator[int]:
    """Run `python -m arguments...` while the block runs; yields its process id."""
    with log.open("wb") as out:
        command = [sys.executable, "-m", *arguments]
        options: dict[str, Any] = {"stdout": out, "stderr": out, "stdin": subprocess.DEVNULL}
        options["preexec_fn"] = ends_with_us()
        child = subprocess.Popen(
            command, env=dict(environment), cwd=ROOT, start_new_session=True, **options
        )
    try:
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@contextmanager
def prefect_server(environment: Mapping[str, str], folder: Path) -> Iterator[httpx.Client]:
    """Run a Prefect server while the block runs; yields a client of its REST API."""
    url = environment["PREFECT_API_URL"]
    port = url.split(":")[2].split("/")[0]
    start = ("prefect", "server", "start", "--no-ui", "--port", port)
    with (
        process(environment, folder / "server.log", *start),
        httpx.Client(base_url=url, timeout=30.0) as client,
    ):
        until(lambda: answers(f"{url}/health"), "the Prefect server")
        yield client


def answers(url: str) -> bool:
    """Whether an address answers with success."""
    try:
        return httpx.get(url, timeout=5.0).is_success
    except httpx.TransportError:
        return False


def deploy(environment: Mapping[str, str]) -> None:
    """Run what `make deploy` runs, on that server."""
    command = [sys.executable, "-m", "deployments.deploy", "deploy"]
    subprocess.run(command, env=dict(environment), cwd=ROOT, check=True, capture_output=True)


def post(client: httpx.Client, path: str, body: object) -> Any:
    """POST and read the answer; while the server answers 503 (its database is busy), ask again."""

    def ask() -> httpx.Response | None:
        answer = client.post(path, json=body)
        return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

    return until(ask, path).raise_for_status().json()
