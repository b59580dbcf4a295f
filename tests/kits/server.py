"""A full Prefect server in a process of its own, a running `seedvr2 serve`, and a webhook.

The server that tests share (conftest.py) is the embedded one, without all of Prefect's services.
Tests of triggers, of automations and of a server that dies need this one.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from deployments.host.attached import attached
from deployments.host.installation import is_healthy
from deployments.host.prefect_server import send_queued
from tests.kits.prefect_home import prepare_home
from tests.kits.processes import (
    MARK,
    ROOT,
    command_line,
    command_of,
    ends_with_us,
    free_port,
    marked,
    run_command,
)

WAIT_SECONDS = 300.0


def eventually(look: Callable[[], Any], what: str, *, seconds: float = WAIT_SECONDS) -> Any:
    """Call `look` until it returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.5)
    return found


class Server:
    """A Prefect server on PREFECT_HOME that can be killed and started again at its address."""

    def __init__(self, environment: Mapping[str, str], *, ui: bool = False) -> None:
        """Use the port in PREFECT_API_URL, or a free one; `self.environment` then names the URL."""
        self._options = [] if ui else ["--no-ui"]
        self.url = environment.get("PREFECT_API_URL") or _free_url()
        self.environment = {**environment, "PREFECT_API_URL": self.url}
        self.client = httpx.Client(base_url=self.url, timeout=30.0)
        self._log = Path(environment["PREFECT_HOME"]) / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.client.close()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        port = self.url.split(":")[2].split("/")[0]
        command = [sys.executable, "-m", "prefect", "server", "start", "--port", port]
        prepare_home(self._log.parent)
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                [*command, *self._options],
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=ends_with_us(),
            )
        eventually(self._answers, f"the server's start ({self._log})")

    def kill(self) -> None:
        """kill -9 the server; its database stays as it is."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def post(self, path: str, body: object) -> Any:
        """POST and return the answer; only for requests that may be repeated.

        A server whose sqlite is busy answers late or with 503, and is asked again.
        """
        answers: list[httpx.Response] = []

        def ask() -> bool:
            with suppress(httpx.TimeoutException):
                answers.append(self.client.post(path, json=body))
            return bool(answers) and answers[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE

        eventually(ask, f"an answer to {path}")
        assert answers[-1].is_success, answers[-1].text
        return answers[-1].json() if answers[-1].content else None

    def _answers(self) -> bool:
        try:
            return self.client.get("/health").is_success
        except httpx.TransportError:
            return False


def _free_url() -> str:
    return f"http://127.0.0.1:{free_port()}/api"


@contextmanager
def small_server(home: Path) -> Iterator[str]:
    """Run the server that commands share, without their lock and password; yields its URL."""
    prepare_home(home)
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "deployments.host.prefect_server"),
                *("--parent", str(os.getpid())),
            ],
            env=os.environ | {"PREFECT_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix("server: ") + "/api"
        try:
            eventually(lambda: is_healthy(f"{url}/health"), f"the server's start ({log.name})")
            yield url
        finally:
            send_queued()
            process.terminate()


@contextmanager
def prefect_server(environment: Mapping[str, str], *, ui: bool = False) -> Iterator[httpx.Client]:
    """Run a server on PREFECT_HOME and the port of PREFECT_API_URL; yields a REST client of it."""
    with Server(environment, ui=ui) as server:
        yield server.client


class Serve:
    """A running `seedvr2 serve` on free ports, with every process that it started.

    It ends with the thread that makes it, so that nothing is left of a test that was killed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        command: Sequence[str] = (),
        cwd: Path = ROOT,
        **changes: str,
    ) -> None:
        """Start it.

        Args:
            folder: holds its database and work directory. A second one on the same folder goes on
                where the first ended.
            command: how `seedvr2` is started; as a module of this checkout if not given.
            cwd: folder to start it in.
            changes: environment variables to set.
        """
        self.folder = folder
        self.work_dir = folder / "work"
        self._mark = uuid4().hex
        self.environment = {
            **{name: v for name, v in os.environ.items() if not name.startswith("SEEDVR2_")},
            "PREFECT_HOME": str(folder / "prefect"),
            "SEEDVR2_TEST_ENGINES": "true",
            "SEEDVR2_SEGMENT_SECONDS": "0.5",
            MARK: self._mark,
            **changes,
        }
        ports = ["--gateway-port", "0", "--api-port", "0", "--edge-port", "0"]
        self._error_log = folder / f"serve-{self._mark}.err"
        with self._error_log.open("w") as errors:
            self.process = subprocess.Popen(
                [*(command or command_line()), "serve", *ports, "--work-dir", str(self.work_dir)],
                env=self.environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                preexec_fn=ends_with_us(),
            )
        self.urls: dict[str, str] = {}

    def __enter__(self) -> "Serve":
        return self.wait_until_ready()

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.close()

    def wait_until_ready(self) -> "Serve":
        """Read the addresses that it prints when everything is running."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            name, _, value = line.strip().partition(": ")
            self.urls[name] = value
            if name == "prefect password":
                self.urls[name] = Path(value.rpartition(" ")[2]).read_text().strip()
            if name == "prefect CLI":
                return self
        raise AssertionError(f"serve ended: {self.said()}")

    @property
    def auth(self) -> tuple[str, str]:
        """User and password of its Prefect API."""
        user, _, password = self.urls["prefect password"].partition(":")
        return user, password

    def said(self) -> str:
        """What it wrote to stderr."""
        return self._error_log.read_text()

    def command(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the CLI against its gateway."""
        variables = {"SEEDVR2_GATEWAY_URL": self.urls["gateway"], "SEEDVR2_TEST_ENGINES": "true"}
        done = run_command(*words, timeout=WAIT_SECONDS, **variables)
        print(*words, "->", done.returncode, done.stdout[-300:], done.stderr[-600:])
        return done

    def start_script(self, source: str | Path) -> "subprocess.Popen[str]":
        """Start upscale.sh with its gateway."""
        return subprocess.Popen(
            ["bash", "upscale.sh", str(source), "--resolution", "720p"],
            env=self.environment
            | {"SEEDVR2_GATEWAY_URL": self.urls["gateway"], "SEEDVR2_POLL_SECONDS": "0.5"},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def submit(self, *words: str | Path) -> str:
        """Submit a job; returns the job's id."""
        done = self.command("submit", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def status(self, job: str) -> dict[str, Any]:
        """The gateway's status of a job."""
        return httpx.get(f"{self.urls['gateway']}/status/{job}", timeout=60).json()

    def wait_for(self, job: str, *statuses: str, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """Wait until the job has one of these statuses; returns the gateway's answer."""

        def there() -> dict[str, Any] | None:
            with suppress(httpx.TransportError, KeyError):  # a part is being started again
                found = self.status(job)
                return found if found["status"] in statuses else None

        said = f"job {job} {statuses}; serve said: {self.said()}"
        return eventually(there, said, seconds=seconds)

    def add_worker(
        self,
        name: str,
        work_dir: Path | None = None,
        *,
        within: Sequence[str] = (),
        **changes: str,
    ) -> "subprocess.Popen[bytes]":
        """Start one more worker of the pool local; it ends with the test's process.

        Args:
            name: of the worker.
            work_dir: its work directory; that of the service if not given.
            within: a command that runs the one after it in its own place.
            changes: environment variables that are the worker's alone.
        """
        environment = self.environment | {
            "PREFECT_HOME": str(self.folder / f"home-{name}"),
            "PREFECT_API_URL": f"{self.urls['prefect']}/api",
            "PREFECT_API_AUTH_STRING": self.urls["prefect password"],
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "SEEDVR2_WORK_DIR": str(work_dir or self.work_dir),
            "SEEDVR2_ALLOW_LOCAL_FILES": "true",
            "SEEDVR2_ALLOW_CPU_ENGINE": "true",
            "SEEDVR2_DEPLOYMENTS": "*=upscale/local",
            "SEEDVR2_PUBLIC_URL": self.urls["edge"],
            **changes,
        }
        words = ("worker", "start", "--type", "process", "--pool", "local", "--limit", "1")
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*within, *attached("prefect", *words, "--name", name)],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def processes(self) -> dict[int, str]:
        """Command lines by process id of everything it started that runs, orphans included."""
        return {pid: command_of(pid) for pid in marked(self._mark)}

    def part(self, text: str) -> int:
        """Id of the child of serve that has this text in its command line."""
        own = {pid: command for pid, command in self.processes().items() if text in command}
        return min(own)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_SECONDS)

    def close(self) -> None:
        """Kill it if it is still running."""
        self.process.kill()
        self.process.communicate()


class Alerts:
    """A webhook that keeps the JSON bodies posted to it, like a chat service's."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()
