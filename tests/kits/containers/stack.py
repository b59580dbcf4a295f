"""The stack of compose.yaml, run by Compose itself in a test's engine."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.kits.containers.engine import Engine
from tests.kits.processes import ROOT, free_port
from tests.kits.server import eventually

DEPLOYMENTS = ROOT / "deployments"
SOCKET = "/var/run/docker.sock"
PORTS = ("4200", "8000", "8001")
UP_SECONDS = 600


class Stack:
    """A folder with compose.yaml, .env and site.env, as an operator has it."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self.engine = engine
        self.ports = {port: free_port() for port in PORTS}
        text = (DEPLOYMENTS / "compose.yaml").read_text()
        # Debian's Compose is a version 1, which takes the project's name from the folder alone.
        text = text.replace("\nname: seedvr2\n", "\n", 1)
        # The engine's socket and the ports of this host are the test's own; nothing else differs.
        assert f"{SOCKET}:{SOCKET}" in text
        text = text.replace(f"{SOCKET}:{SOCKET}", f"{engine.socket}:{SOCKET}")
        for port, free in self.ports.items():
            assert f"127.0.0.1:{port}:{port}" in text
            text = text.replace(f"127.0.0.1:{port}:{port}", f"127.0.0.1:{free}:{port}")
        (folder / "compose.yaml").write_text(text)

    def fill_in(self, env: Mapping[str, str], site: Mapping[str, str]) -> None:
        """Fill in the two samples as an operator does."""
        for name, values in (("env", env), ("site.env", site)):
            text = (DEPLOYMENTS / f"{name}.sample").read_text()
            for key, value in values.items():
                text, found = re.subn(rf"^#?{key}=.*$", f"{key}={value}", text, flags=re.M)
                assert found == 1, f"{name}.sample does not show {key}"
            file = self.folder / (".env" if name == "env" else name)
            file.write_text(text)
            file.chmod(0o600)

    def compose(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run Compose on the stack."""
        found = shutil.which("docker-compose")
        done = subprocess.run(
            [*([found] if found else ["docker", "compose"]), "--project-name", "seedvr2", *words],
            cwd=self.folder,
            env=self.engine.environment | {"COMPOSE_HTTP_TIMEOUT": "200"},
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def up(self, *profiles: str) -> None:
        """`up -d`, and wait until every service is healthy or has done its work."""
        self.compose(*(f"--profile={name}" for name in profiles), "up", "-d")
        eventually(self._is_whole, f"a healthy stack: {self.states()}")

    def down(self) -> None:
        """End all and remove what belongs to it, volumes included."""
        self.compose("--profile=h100", "--profile=h200", "down", "--volumes", check=False)

    def container(self, service: str) -> str:
        """Name of a service's container."""
        labels = [f"com.docker.compose.service={service}", "com.docker.compose.project=seedvr2"]
        (found,) = self.engine.client.containers.list(all=True, filters={"label": labels})
        return str(found.name)

    def states(self) -> dict[str, str]:
        """Service -> its health, or its exit code."""
        wanted = {"label": "com.docker.compose.project=seedvr2"}
        states = {}
        for container in self.engine.client.containers.list(
            all=True, filters=wanted, ignore_removed=True
        ):
            state = container.attrs["State"]
            health = state.get("Health", {}).get("Status", state["Status"])
            ended = state["Status"] == "exited"
            name = container.labels["com.docker.compose.service"]
            states[name] = f"exited {state['ExitCode']}" if ended else health
        return states

    def log(self, service: str) -> str:
        """What a service wrote."""
        done = self.engine.docker("logs", self.container(service), check=False)
        return done.stdout + done.stderr

    def _is_whole(self) -> bool:
        states = self.states()
        bad = {name: state for name, state in states.items() if re.match("exited [^0]|unh", state)}
        assert not bad, {name: (state, self.log(name)[-2000:]) for name, state in bad.items()}
        return all(state in ("healthy", "exited 0") for state in states.values())
