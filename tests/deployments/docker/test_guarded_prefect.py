"""The Prefect server of the Docker stack, as a process: which hosts it answers to."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.kits.processes import ROOT, ends_with_us, free_port
from tests.kits.server import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server with the settings that compose.yaml gives it, on sqlite; its address."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    changes = {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "ui"),
        "PREFECT_SERVER_API_AUTH_STRING": "a:b",
        "PREFECT_SERVER_UI_API_URL": "https://prefect.example.org/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "SEEDVR2_ALLOWED_HOSTS": "gpu.example.org",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-P",
        "-m",
        "deployments.docker.guarded_prefect",
        "--port",
        str(port),
    ]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | changes,
            stdout=out,
            stderr=out,
            preexec_fn=ends_with_us(),
        )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(url), f"the server: {log.read_text()}")
        yield url
    finally:
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM, log.read_text()


def answers(url: str) -> bool:
    """Whether the server is there."""
    try:
        return httpx.get(f"{url}/api/health").status_code in (200, 401)
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("server:4200", 200),
        ("prefect.example.org", 200),
        ("gpu.example.org", 200),
        ("127.0.0.1", 200),
        ("evil.example", 421),
        ("server.evil.example", 421),
    ],
)
def test_it_answers_to_its_own_names_alone(server: str, host: str, status: int) -> None:
    asked = httpx.get(f"{server}/api/admin/version", headers={"Host": host}, auth=("a", "b"))
    assert asked.status_code == status
    assert ("SEEDVR2_ALLOWED_HOSTS" in asked.text) is (status == 421)


def test_it_asks_for_its_password(server: str) -> None:
    assert httpx.get(f"{server}/api/admin/version").status_code == 401
