"""A full Prefect server as a process of its own, with every service, and a place alerts go to.

The session's server (conftest.py) is the embedded one; whoever tests triggers, automations or a
server that dies needs this.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

WAIT_SECONDS = 120.0


def eventually(look: Callable[[], Any], what: str) -> Any:
    """What `look` gives, as soon as it gives something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.5)
    return found


@contextmanager
def prefect_server(environment: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Run a server on PREFECT_HOME and the port of PREFECT_API_URL; a client of its REST API."""
    url = environment["PREFECT_API_URL"]
    port = url.split(":")[2].split("/")[0]
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--port", port]
    log = Path(environment["PREFECT_HOME"]) / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, env=dict(environment), stdout=out, stderr=out, start_new_session=True
        )
    with httpx.Client(base_url=url, timeout=30.0) as client:
        try:
            eventually(lambda: _answers(client), f"the server's start ({log})")
            yield client
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


class Alerts:
    """A chat service's webhook: keeps what is posted to it."""

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
