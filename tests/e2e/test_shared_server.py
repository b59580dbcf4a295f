"""Commands on one PREFECT_HOME share one Prefect server, because SQLite takes no second one."""

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from deployments.host.installation import has_server, running_server
from tests.kits.prefect_home import prepare_home
from tests.kits.processes import (
    MARK,
    children_of,
    command_line,
    command_of,
    environment,
    marked,
    run_command,
)
from tests.kits.server import eventually

pytestmark = pytest.mark.slow
SERVER = "deployments.host.prefect_server"


class Commands:
    """Commands on one PREFECT_HOME, each with a work directory of its own."""

    def __init__(self, folder: Path, clip: Path) -> None:
        self.folder = folder
        self.home = folder / "prefect"
        self._clip = clip
        self._mark = f"shared-{folder}"
        self.started: list[subprocess.Popen[str]] = []
        prepare_home(self.home)

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """Start an upscale that takes four seconds at least."""
        name = str(len(self.started))
        words = ("upscale", self._clip, "--model", "sleep", "--resolution", "720p", *options)
        variables = {
            "PREFECT_HOME": str(self.home),
            "SEEDVR2_TEST_ENGINES": "true",
            MARK: self._mark,
        }
        process = subprocess.Popen(
            command_line(*words, "--preset", "ultrafast", "--work-dir", self.folder / name),
            env=environment(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def servers(self) -> list[int]:
        """Ids of the Prefect servers that they have started and that still run."""
        return [pid for pid in marked(self._mark) if SERVER in command_of(pid)]

    def end(self) -> None:
        """kill -9 everything."""
        for pid in marked(self._mark):
            os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.communicate()


@pytest.mark.long
def test_two_commands_at_once_share_a_server_that_outlives_the_first(
    tmp_path: Path, demo_clip: Path
) -> None:
    commands = Commands(tmp_path, demo_clip)
    try:
        first, second = commands.start(), commands.start("--crf", "30")
        address = eventually(lambda: running_server(commands.home), "the server")
        eventually(lambda: len(_runs(address.url, address.auth)) == 2, "two runs on it")
        assert len(commands.servers()) == 1
        refused = run_command(
            *("serve", "--work-dir", tmp_path / "serve", "--gateway-port", "0", "--api-port", "0"),
            PREFECT_HOME=str(commands.home),
        )
        assert refused.returncode == 2
        assert "is running already" in refused.stderr
        (server,) = commands.servers()
        starter = next(p for p in commands.started if server in children_of(p.pid))
        starter.kill()
        (other,) = (process for process in (first, second) if process is not starter)
        said = other.communicate(timeout=120)[0]
        assert other.returncode == 0, said
        assert "recorded by the Prefect server that is running" in said
        eventually(lambda: not commands.servers(), "the server's end", seconds=30)
        assert not has_server(commands.home)
        assert running_server(commands.home) is None
    finally:
        commands.end()


def _runs(url: str, auth: str | None) -> list[object]:
    user, _, password = (auth or "").partition(":")
    answer = httpx.post(f"{url}/flow_runs/filter", json={}, auth=(user, password), timeout=30)
    return answer.json() if answer.is_success else []
