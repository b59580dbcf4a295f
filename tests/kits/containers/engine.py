"""A Docker engine of the tests' own.

Debian's `docker.io` runs as root: the engine has its own folders and socket, and ends with the
test. No GPU is here. With `gpus=True` the engine takes requests for one as it does beside NVIDIA's
container toolkit: it looks for the toolkit's hook when it starts, and finds one of ours that does
nothing. All of the engine's own handling of such a request is then real.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import pytest

from tests.kits.processes import ROOT, ends_with_us
from tests.kits.server import eventually

KEPT = "SEEDVR2_TEST_DOCKER_DATA"
"""Environment variable: a folder where images stay from one run of the tests to the next."""
NVIDIA_HOOK = "nvidia-container-runtime-hook"


class Engine:
    """A running Docker engine."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.address = f"unix://{socket}"
        self.environment = {**os.environ, "DOCKER_HOST": self.address}
        self.client = docker.DockerClient(base_url=self.address, timeout=120)

    def docker(
        self, *words: str | Path, check: bool = True, cwd: Path = ROOT, timeout: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        """Run Docker's command line."""
        done = subprocess.run(
            ["docker", *map(str, words)],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0 or not check, f"docker {words}: {done.stdout}{done.stderr}"
        return done

    def run(self, image: str, *command: str, options: Sequence[str] = ()) -> str:
        """Run a command in a new container of an image; returns what it prints."""
        return self.docker("run", "--rm", *options, image, *command).stdout.strip()


def needs(*programs: str) -> None:
    """Skip the test where one of these programs is not installed, or where we are not root."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        of_debian = "docker.io, docker-compose, debootstrap"
        pytest.skip(f"{', '.join(missing)} is not installed (Debian: {of_debian})")
    if os.geteuid() != 0:
        pytest.skip("Docker's engine needs root")


@contextlib.contextmanager
def engine(folder: Path, data: Path, *, gpus: bool = False) -> Iterator[Engine]:
    """Run an engine while the block runs.

    Args:
        folder: new; for its socket and log.
        data: images and volumes; may be those of an engine that has ended.
        gpus: whether it takes requests for a GPU.
    """
    needs("dockerd", "docker")
    socket, log = folder / "docker.sock", folder / "dockerd.log"
    places = ("--data-root", data, "--exec-root", folder / "exec", "--pidfile", folder / "pid")
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["dockerd", *places, "--host", f"unix://{socket}"],
            env=_with_hook(folder / "bin") if gpus else os.environ,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=ends_with_us(signal.SIGTERM),  # it ends its containers
        )
    try:
        _wait_for(process, f"unix://{socket}", log)
        found = Engine(socket)
        try:
            yield found
        finally:
            _leave_only_images(found)
            found.client.close()
    finally:
        process.send_signal(signal.SIGTERM)  # it ends its containers
        process.wait(120)
        _unmount(folder, data)


def _with_hook(folder: Path) -> dict[str, str]:
    """The environment of an engine that finds the toolkit's hook."""
    folder.mkdir()
    hook = folder / NVIDIA_HOOK
    hook.write_text("#!/bin/sh\nexec cat >/dev/null\n")
    hook.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def _unmount(*folders: Path) -> None:
    """Unmount what the engine leaves mounted when it ends: nobody could remove the folder."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if any(Path(mount).is_relative_to(folder) for folder in folders):
            subprocess.run(["umount", mount], check=True)


def _leave_only_images(engine: Engine) -> None:
    """Remove what a later engine on the same data would start again or find."""
    for container in engine.client.containers.list(all=True, ignore_removed=True):
        with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
            container.remove(force=True, v=True)
    for volume in engine.client.volumes.list():
        volume.remove(force=True)
    engine.client.networks.prune()


def _wait_for(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """Wait until the engine answers; skip the test where it cannot run."""

    def answers() -> bool:
        if process.poll() is not None:
            last = log.read_text().strip().splitlines()[-1][-300:]
            pytest.skip(f"Docker's engine does not run on this machine: {last}")
        # A client of docker-py that cannot connect never closes its socket.
        return (
            subprocess.run(["docker", "-H", address, "info"], capture_output=True).returncode == 0
        )

    eventually(answers, "the engine's start", seconds=60)
