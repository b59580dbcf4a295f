"""Prefect's docker worker, for containers that remove themselves when they end.

`prefect worker start --type docker` takes this class, because it is a Prefect collection of ours
(pyproject.toml) and the last one that registers the type. It changes four things.

- The engine removes a container as soon as it has ended (`auto_remove`), even if its worker has
  died before, so that none is left. Prefect's worker asks for the exit code when the container is
  gone, finds nothing and takes the run for a good one. We wait for the code from the start.
- A container that cannot be started fails the run with a sentence that says what to do.
- It can be drained; our process worker, which comes with it, can as well (`draining.py`).
- A worker that cannot reach the engine ends when it starts. It would take the jobs of its pool, one
  after another, and fail them all.
"""

import re
import threading
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import requests
from anyio import to_thread
from docker.errors import DockerException
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration

from deployments.docker.draining import Draining
from deployments.host.exits import say
from seedvr2_core.errors import ResourceError, ServiceError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from prefect.events import Event

UNKNOWN_EXIT_CODE = -1
"""Reported where the engine did not tell how a container ended."""
_TOLD_SECONDS = 30.0
"""How long the engine may take to tell the exit code after it has ended the container's log."""
_TOOLKIT = (
    "install the NVIDIA driver and the NVIDIA container toolkit on this host, run nvidia-ctk "
    "runtime configure --runtime=docker, and restart Docker"
)
_ADVICE: Mapping[str, str] = {
    r"could not select device driver": "Docker on this host has no NVIDIA runtime, so that a "
    f"container gets no GPU: {_TOOLKIT}",
    r"nvml error|libnvidia-ml|driver not loaded": "the NVIDIA driver of this host does not "
    f"answer, so that a container gets no GPU: {_TOOLKIT}",
    r"unknown device|no such device|device not found": "SEEDVR2_GPU of this worker names no GPU of "
    "this host: nvidia-smi -L lists them",
    r"pull access denied|manifest.+(unknown|not found)|no such image|docker pull failed|"
    r"failed to resolve|dial tcp": "the image is not on this host and cannot be pulled: build it "
    "here with `make image`, or push it to a registry that this host reaches and name it in "
    "SEEDVR2_IMAGE",
    r"network .+ not found": "the network of SEEDVR2_NETWORK is not on this host: docker network "
    "ls lists them",
    r"no space left on device": "the disk of Docker on this host is full: docker system df",
}
"""What to do about what the engine says when it makes or starts a container."""
_NO_ENGINE = (
    "this worker cannot reach Docker: the engine must be running, and the worker's user must be in "
    "the group that owns its socket (with Compose, DOCKER_GID in .env is that group's number)"
)


# Prefect would tell every operator that a type was registered twice.
warnings.filterwarnings("ignore", message="Type 'SelfRemovingDockerWorker' at .+ has key 'docker'")


class SelfRemovingDockerWorker(Draining, DockerWorker):
    """Runs each flow run in a container that is gone when it has ended."""

    async def setup(self) -> None:
        """Look for the engine, then do what Prefect's worker does.

        Raises:
            SystemExit: the engine does not answer; the reason is told on stderr.
        """
        try:
            await to_thread.run_sync(self._ask_engine)
        except (requests.RequestException, DockerException, RuntimeError) as error:
            cause = error.__cause__ if isinstance(error, RuntimeError) else None
            say(f"error: {_NO_ENGINE} ({_one_line(cause or error)})")
            raise SystemExit(1) from error
        await super().setup()

    def _ask_engine(self) -> None:
        """Get an answer from the engine."""
        client = self._get_client()
        try:
            client.ping()
        finally:
            client.close()

    def _create_and_start_container(
        self, configuration: DockerWorkerJobConfiguration
    ) -> "tuple[Container, Event]":
        """Make the container and start it.

        Raises:
            ResourceError: the engine refuses; the message says what to do.
            ServiceError: the engine is away.
        """
        try:
            return super()._create_and_start_container(configuration)
        except (requests.RequestException, DockerException, RuntimeError) as error:
            advice = advice_for(str(error))
            if advice is not None:
                raise ResourceError(f"{advice} (Docker says: {_one_line(error)})") from error
            if isinstance(error, RuntimeError) and isinstance(error.__cause__, DockerException):
                raise ServiceError(f"{_NO_ENGINE} ({_one_line(error.__cause__)})") from error
            raise

    def _watch_container_safe(
        self,
        container: "Container",
        configuration: DockerWorkerJobConfiguration,
        created_event: "Event",
    ) -> "Container":
        """Watch the container until it has ended; its attributes then hold the exit code."""
        client = self._get_client()
        code = _ExitCode(client, str(container.id))
        try:
            container = super()._watch_container_safe(container, configuration, created_event)
            container.attrs["State"]["ExitCode"] = code.wait()
        finally:
            client.close()
        return container


class _ExitCode:
    """Waits in a thread for a container's exit code, which a removed container no longer has."""

    def __init__(self, client: "DockerClient", container_id: str) -> None:
        self._code = UNKNOWN_EXIT_CODE
        self._thread = threading.Thread(
            target=self._ask, args=(client, container_id), name="exit-code", daemon=True
        )
        self._thread.start()

    def _ask(self, client: "DockerClient", container_id: str) -> None:
        try:
            self._code = int(client.api.wait(container_id, timeout=None)["StatusCode"])
        except (requests.RequestException, DockerException, OSError, ValueError):
            return  # gone before we asked, or the engine was stopped: the code is not known

    def wait(self) -> int:
        """The exit code, once the container has ended; UNKNOWN_EXIT_CODE if nobody told."""
        self._thread.join(_TOLD_SECONDS)
        return self._code


def advice_for(told: str) -> str | None:
    """What to do about an error of the engine; None if it is none that we know."""
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, told, re.IGNORECASE | re.DOTALL):
            return advice
    return None


def _one_line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())[:300]
