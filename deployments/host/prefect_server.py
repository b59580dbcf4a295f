"""A Prefect server that does not outlive who needs it: commands, or `seedvr2 serve`.

Prefect's own temporary server goes on when its parent is killed. This one is a single process that
the kernel ends with its parent, or that ends with the last command that uses it. It uses the
database in PREFECT_HOME, so a server that is started later shows the same runs.

    python -P -m deployments.host.prefect_server --shared
        only the API, for all commands on this PREFECT_HOME
    python -P -m deployments.host.prefect_server --parent PID
        only the API, for one process
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
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.host.exits import say
from deployments.host.installation import (
    USER,
    ApiAddress,
    announce,
    has_server,
    is_healthy,
    only_server,
    prefect_home,
    running_server,
    used_by_command,
    when_unused,
)
from deployments.host.loopback import LOOPBACK
from seedvr2_core.errors import ChildFailedError, InvalidRequestError, ServiceError
from seedvr2_core.files.process import die_with_parent

if TYPE_CHECKING:
    import uvicorn

START_SECONDS = 120.0
DRAIN_SECONDS = 10.0
ADDRESS_PREFIX = "server: "
"""The first line on the server's stdout: this, then its address."""
HEARD_AGAIN = {"PREFECT_SERVER_EVENTS_MAXIMUM_WEBSOCKET_BACKFILL": "PT60S"}
"""How old an event may be, by the server's clock, that it sends to who begins to listen. A worker
asks for the last minute by its own clock: one whose clock is ten minutes behind would hear of a
cancellation of ten minutes ago, and end the attempt that has begun since
(`tasks/recovery/states.py`)."""


@contextmanager
def open_api(log_path: Path) -> Iterator[None]:
    """Let Prefect use the server of this installation while the block runs.

    If none is running, of `seedvr2 serve` or of another command, one is started, with a password of
    its own. It ends with the last command that uses it.

    Args:
        log_path: the output of a server that is started is written there.

    Raises:
        ChildFailedError: the server did not start.
        ServiceError: somebody runs one that does not answer.
    """
    home = prefect_home()
    started: list[subprocess.Popen[str]] = []
    with used_by_command(home):
        if has_server(home):
            address = _server_of_another(home)
        else:
            address = _shared_server(home, log_path, started)
        with _used(address):
            yield
    for process in started:
        _reap(process, home)


def _server_of_another(home: Path) -> ApiAddress:
    """The server that somebody else has started, or is starting.

    Raises:
        ServiceError: it does not answer.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (running := running_server(home)) is not None:
            say(f"the run is recorded by the Prefect server that is running at {running.url}")
            return running
        time.sleep(0.2)
    raise ServiceError(
        f"the Prefect server on the database in {home} does not answer after {START_SECONDS:g} s: "
        "look at the logs of seedvr2 serve, or wait for the end of the other seedvr2 command"
    )


def _shared_server(
    home: Path, log_path: Path, started: list["subprocess.Popen[str]"]
) -> ApiAddress:
    """Start a server that ends with the last command that uses it.

    Args:
        home: folder of the database.
        log_path: the server's output is written there.
        started: the process is added to it.
    """
    auth = f"{USER}:{secrets.token_urlsafe(24)}"
    process = _start(log_path, "--shared", auth=auth)
    started.append(process)
    assert process.stdout is not None
    with process.stdout as out:
        line = out.readline().strip()
    if not line and has_server(home):  # it has found one of another command, and has ended
        return _server_of_another(home)
    url = f"{line.removeprefix(ADDRESS_PREFIX)}/api"
    _wait_until_healthy(process, url, log_path)
    return ApiAddress(url=url, auth=auth)


def _reap(process: "subprocess.Popen[str]", home: Path) -> None:
    """Wait for the end of a server that we have started, unless other commands use it."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        # It takes its record away before it ends.
        if running_server(home) is not None and time.monotonic() > deadline - DRAIN_SECONDS + 1:
            return
        time.sleep(0.1)


@contextmanager
def _used(address: ApiAddress) -> Iterator[None]:
    """Let Prefect in this process use a server."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address.url, PREFECT_API_AUTH_STRING: address.auth}):
        try:
            yield
        finally:
            send_queued()


def _start(log_path: Path, *options: str, auth: str) -> "subprocess.Popen[str]":
    """Start a server that asks for this password; its output goes to the log."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "deployments.host.prefect_server", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=os.environ | {"PREFECT_SERVER_API_AUTH_STRING": auth},
        )


def send_queued() -> None:
    """Send the events and log lines that Prefect has queued, while there still is a server."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=DRAIN_SECONDS)
    EventsWorker.drain_all(timeout=DRAIN_SECONDS)


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
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--parent", type=int)
    whose.add_argument("--shared", action="store_true")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    with ExitStack() as until_end:
        if arguments.shared:
            try:
                until_end.enter_context(only_server(prefect_home()))
            except InvalidRequestError as error:
                sys.exit(str(error))
        else:
            die_with_parent(arguments.parent)
        _serve(arguments.port, full=arguments.full, shared=arguments.shared)
    # Python would wait for the threads of connections that the server has not closed (aiosqlite's
    # are no daemons), perhaps for ever, and every later command for this process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _serve(port: int, *, full: bool, shared: bool) -> None:
    """Serve until a signal comes or, if the server is shared, until nobody uses it."""
    from deployments.host.listen import listen

    try:
        listener = listen("127.0.0.1", port)
    except OSError as error:
        sys.exit(f"cannot listen on 127.0.0.1 port {port}: {error.strerror}")
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    sys.stdout.write(f"{ADDRESS_PREFIX}{address}\n")
    sys.stdout.flush()
    os.environ.update(_settings(address, full=full))
    if home := os.environ.get("PREFECT_HOME"):
        os.environ["PREFECT_HOME"] = str(Path(home).expanduser().absolute())
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import PREFECT_HOME

    from deployments.host.hosts import guard_prefect
    from deployments.host.sqlite import let_writers_wait

    let_writers_wait()
    home = PREFECT_HOME.value()
    _keep_private(home)
    # When it migrates the database, the server imports from its working directory (alembic's
    # prepend_sys_path), and that was the caller's folder until now.
    os.chdir(home)
    config = uvicorn.Config(
        guard_prefect(create_app(), LOOPBACK),
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
    )
    server = uvicorn.Server(config)
    if shared:
        _share(address, server)
    server.run(sockets=[listener])


def _share(address: str, server: "uvicorn.Server") -> None:
    """Tell other commands where the server is, and end it when the last of them has ended."""
    home = prefect_home()
    # The command that started us may be gone before us; nobody reads our output then.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    auth = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    announce(home, ApiAddress(url=f"{address}/api", auth=auth))

    def end() -> None:
        server.should_exit = True

    threading.Thread(target=when_unused, args=(home, end), daemon=True).start()


def _keep_private(home: Path) -> None:
    """Let nobody else read the database, one of an earlier version included."""
    os.umask(0o077)
    home.mkdir(parents=True, exist_ok=True)
    for file in home.glob("prefect.db*"):
        file.chmod(0o600)


def _settings(address: str, *, full: bool) -> dict[str, str]:
    """Prefect's settings: which services run, and where the UI finds the API."""
    port = address.rpartition(":")[2]
    common = HEARD_AGAIN | {
        "PREFECT__SERVER_FINAL": "1",
        # Prefect's default lets every web page read the answers.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{address},http://localhost:{port}",
    }
    if not full:
        return common | {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    return common | {"PREFECT_UI_ENABLED": "1", "PREFECT_SERVER_UI_API_URL": f"{address}/api"}


if __name__ == "__main__":
    main()


def check_api(url: str) -> None:
    """Refuse to begin without the Prefect server that is to record the run.

    Raises:
        ServiceError: nothing answers there.
    """
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=10.0)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ServiceError(
            f"no Prefect server answers at {url} ({type(error).__name__}); start it, or unset "
            "PREFECT_API_URL (the environment's or the Prefect profile's): then the command runs "
            "a server of its own"
        ) from error
