"""A Prefect server for one command: started when there is no API URL, gone when the command is.

Prefect's own temporary server outlives a killed parent; this one is a single process that the
kernel ends with its parent. It uses PREFECT_HOME's database, so that a server started later shows
the runs.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from seedvr2_core.errors import ChildFailedError
from seedvr2_core.process import die_with_parent

START_SECONDS = 120.0
DRAIN_SECONDS = 10.0


@contextmanager
def embedded_server(log_path: Path) -> Iterator[str]:
    """Run a server while the block runs.

    Yields:
        Its API URL.

    Raises:
        ChildFailedError: it did not come up; the message says where its log is.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.server", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        url = f"http://127.0.0.1:{port}/api"
        _wait_until_healthy(process, url, log_path)
        try:
            yield url
        finally:
            _send_what_is_queued()
    finally:
        _end(process)
        if process.stdout is not None:
            process.stdout.close()


def _send_what_is_queued() -> None:
    """Task states and log lines travel in the background: send them while there is a server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=DRAIN_SECONDS)
    EventsWorker.drain_all(timeout=DRAIN_SECONDS)


def _end(process: "subprocess.Popen[str]") -> None:
    """Let the server write what it has received, then make sure that it is gone."""
    process.terminate()
    try:
        process.wait(timeout=DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_healthy(process: "subprocess.Popen[str]", url: str, log_path: Path) -> None:
    """Poll the health address."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2.0).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise ChildFailedError(f"the embedded Prefect server did not start; its log is {log_path}")


def main() -> None:
    """Entry point of the server process."""
    die_with_parent(int(sys.argv[1]))
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    os.environ.update(
        PREFECT_UI_ENABLED="0",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT__SERVER_EPHEMERAL="1",
        PREFECT__SERVER_FINAL="1",
    )
    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(), log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
