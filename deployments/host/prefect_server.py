"""A Prefect server that ends with its parent: for one command, or in full for `seedvr2 serve`.

Prefect's own temporary server goes on when its parent is killed. This one is a single process that
the kernel ends with its parent. It uses the database in PREFECT_HOME, so a server that is started
later shows the same runs.

    python -P -m deployments.host.prefect_server --parent PID
        only the API, for one command
    python -P -m deployments.host.prefect_server --parent PID --full --port 4200
        also the UI, automations and all other services

It listens on loopback, answers only requests that name loopback as their host, and lets only pages
of its own address read its answers. If the environment has PREFECT_SERVER_API_AUTH_STRING, it asks
for that password.
"""

import argparse
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.host.exits import say
from deployments.host.health import is_healthy
from deployments.host.installation import USER, ApiAddress, prefect_home, running_server
from deployments.host.loopback import LOOPBACK
from seedvr2_core.errors import ChildFailedError
from seedvr2_core.files.process import die_with_parent

START_SECONDS = 120.0
DRAIN_SECONDS = 10.0
ADDRESS_PREFIX = "server: "
"""The first line on the server's stdout: this, then its address."""


@contextmanager
def open_api(log_path: Path) -> Iterator[None]:
    """Let Prefect use a server of this installation while the block runs.

    It is the one of `seedvr2 serve`, if that is running on the same PREFECT_HOME, because SQLite
    takes no second one. Otherwise it is an embedded server with a password of its own.

    Args:
        log_path: the embedded server's output is written there.

    Raises:
        ChildFailedError: the embedded server did not start.
    """
    running = running_server(prefect_home())
    if running is not None:
        say(f"the run is recorded by the seedvr2 serve at {running.url}")
        with _used(running):
            yield
        return
    auth = f"{USER}:{secrets.token_urlsafe(24)}"
    with embedded_server(log_path, auth=auth) as url, _used(ApiAddress(url=url, auth=auth)):
        yield


@contextmanager
def _used(address: ApiAddress) -> Iterator[None]:
    """Let Prefect in this process use a server."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address.url, PREFECT_API_AUTH_STRING: address.auth}):
        try:
            yield
        finally:
            _send_queued()


@contextmanager
def embedded_server(log_path: Path, *, auth: str | None = None) -> Iterator[str]:
    """Run a server while the block runs.

    Args:
        log_path: the server's output is written there.
        auth: user:password that it asks for; None: nothing.

    Yields:
        The URL of its API.

    Raises:
        ChildFailedError: it did not start; the message names the log.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    parent = ("--parent", str(os.getpid()))
    environment = os.environ | ({"PREFECT_SERVER_API_AUTH_STRING": auth} if auth else {})
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "deployments.host.prefect_server", *parent],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=environment,
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix(ADDRESS_PREFIX) + "/api"
        _wait_until_healthy(process, url, log_path)
        try:
            yield url
        finally:
            _send_queued()
    finally:
        _end(process)
        if process.stdout is not None:
            process.stdout.close()


def _send_queued() -> None:
    """Send the events and log lines that Prefect has queued, while there still is a server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=DRAIN_SECONDS)
    EventsWorker.drain_all(timeout=DRAIN_SECONDS)


def _end(process: "subprocess.Popen[str]") -> None:
    """Ask the server to end, so that it can write what it has received; kill it if it does not."""
    process.terminate()
    try:
        process.wait(timeout=DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_healthy(process: "subprocess.Popen[str]", url: str, log_path: Path) -> None:
    """Wait until the server's health address answers."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_healthy(f"{url}/health"):
            return
        time.sleep(0.1)
    raise ChildFailedError(f"the embedded Prefect server did not start; its log is {log_path}")


def main() -> None:
    """Run the server process: print its address to stdout, then serve on loopback."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    from deployments.host.listen import listen

    try:
        listener = listen("127.0.0.1", arguments.port)
    except OSError as error:
        sys.exit(f"cannot listen on 127.0.0.1 port {arguments.port}: {error.strerror}")
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    sys.stdout.write(f"{ADDRESS_PREFIX}{address}\n")
    sys.stdout.flush()
    os.environ.update(_settings(address, full=arguments.full))
    if home := os.environ.get("PREFECT_HOME"):
        os.environ["PREFECT_HOME"] = str(Path(home).expanduser().absolute())
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import PREFECT_HOME
    from starlette.responses import PlainTextResponse

    from deployments.host.hosts import HostCheck

    home = PREFECT_HOME.value()
    _keep_private(home)
    # When it migrates the database, the server imports from its working directory (alembic's
    # prepend_sys_path), and that was the caller's folder until now.
    os.chdir(home)
    config = uvicorn.Config(
        HostCheck(create_app(), frozenset(LOOPBACK), lambda told: PlainTextResponse(told, 421)),
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
    )
    uvicorn.Server(config).run(sockets=[listener])


def _keep_private(home: Path) -> None:
    """Let nobody else read the database, one of an earlier version included."""
    os.umask(0o077)
    home.mkdir(parents=True, exist_ok=True)
    for file in home.glob("prefect.db*"):
        file.chmod(0o600)


def _settings(address: str, *, full: bool) -> dict[str, str]:
    """Prefect's settings: which services run, and where the UI finds the API."""
    port = address.rpartition(":")[2]
    common = {
        "PREFECT__SERVER_FINAL": "1",
        # Prefect's default lets every web page read the answers.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{address},http://localhost:{port}",
    }
    if not full:
        return common | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    return common | {"PREFECT_UI_ENABLED": "1", "PREFECT_SERVER_UI_API_URL": f"{address}/api"}


if __name__ == "__main__":
    main()
