"""A real S3-compatible server (moto) in a process of its own, and a line to it that has faults."""

import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import httpx
from pydantic import SecretStr

from tests.kits.processes import ends_with_us, free_port
from tests.kits.server import eventually

SECRET = "secret-access-key-0123456789"
ANSWERS = {
    "busy": (503, b"<Error><Code>SlowDown</Code></Error>"),
    "skewed": (
        403,
        b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time "
        b"and the current time is too large.</Message></Error>",
    ),
}
"""Faults that are an answer of the server's own."""


@dataclass
class Line:
    """What is between the client and the server: a proxy that does something wrong when asked."""

    url: str = ""
    faults: list[tuple[str, str, int]] = field(default_factory=list)
    """Kind, what "METHOD /path?query" must match, and how often it still happens.

    busy: 503. skewed: the server's clock differs. cut: half of the answer's body. lost: the server
    has done it, and the answer does not come. slow: two seconds later. away: the connection is
    closed before the request is passed on. torn: the server gets half of the request's body, then
    both connections end.
    """
    happened: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    ahead_seconds: int = 0
    """How far the clock is ahead by which the server dates its answers."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, kind: str, what: str, times: int = 1) -> None:
        """Let the next requests that match fail in this way."""
        self.faults.append((kind, what, times))

    def mend(self) -> None:
        """No more faults."""
        self.faults.clear()
        self.happened.clear()

    def dated(self, told: str) -> str:
        """The date of an answer, by the clock that is ahead."""
        at = parsedate_to_datetime(told) if told else datetime.now(UTC)
        return format_datetime(at + timedelta(seconds=self.ahead_seconds), usegmt=True)

    def next_fault(self, request: str) -> str:
        """What goes wrong with a request; "" if nothing does."""
        with self._lock:
            self.requests.append(request)
            for number, (kind, what, times) in enumerate(self.faults):
                if times > 0 and re.search(what, request):
                    self.faults[number] = (kind, what, times - 1)
                    self.happened.append(kind)
                    return kind
        return ""


@dataclass(frozen=True, kw_only=True)
class S3:
    """A bucket of a test's own."""

    url: str
    """Of the server itself."""
    bucket: str
    line: Line

    @property
    def address(self) -> str:
        """A folder in the bucket."""
        return f"s3://{self.bucket}/some/folder"

    def settings(self, **fields: Any) -> dict[str, Any]:
        """Fields of settings with which the server is reached over the line."""
        return {
            "s3_endpoint": self.line.url,
            "s3_access_key_id": "key-id",
            "s3_secret_access_key": SecretStr(SECRET),
            **fields,
        }

    def variables(self) -> dict[str, str]:
        """The same as environment variables of a process, with the bucket as its store."""
        return {
            "SEEDVR2_S3_ENDPOINT": self.line.url,
            "SEEDVR2_S3_ACCESS_KEY_ID": "key-id",
            "SEEDVR2_S3_SECRET_ACCESS_KEY": SECRET,
            "SEEDVR2_STORE": self.address,
        }


@contextmanager
def s3_server() -> Iterator[str]:
    """Run the server; yields its address."""
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    quiet = subprocess.DEVNULL
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=quiet, stderr=quiet, preexec_fn=ends_with_us()
    ) as process:
        try:
            eventually(lambda: _answers(url), "the start of the S3 server")
            yield url
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/moto-api/", timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def bucket_on(url: str) -> Iterator[S3]:
    """Make a bucket, and a line to it."""
    name = f"bucket-{uuid4()}"
    httpx.put(f"{url}/{name}", timeout=30).raise_for_status()
    with line_to(url) as line:
        yield S3(url=url, bucket=name, line=line)


@contextmanager
def line_to(url: str) -> Iterator[Line]:
    """Lay a line to a server."""
    line = Line()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(url, line))
    line.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield line
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(url: str, line: Line) -> type[BaseHTTPRequestHandler]:
    host = url.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = line.next_fault(f"{self.command} {self.path}")
            time.sleep(2.0 if fault == "slow" else 0.0)
            if fault in ANSWERS:
                status, content = ANSWERS[fault]
                self.answer(status, [], content)
                return
            ends = ("away", "lost", "cut", "torn")
            self.close_connection = self.close_connection or fault in ends
            if fault in ("away", "torn"):
                _leave(self, host, body[: len(body) // 2] if fault == "torn" else b"")
                return
            status, told, content = self.ask(body)
            if fault != "lost":
                self.answer(status, told, content, cut=fault == "cut")

        def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            with closing(http.client.HTTPConnection(host, timeout=60)) as to_server:
                to_server.request(self.command, self.path, body=body, headers=headers)
                answer = to_server.getresponse()
                content = answer.read()
            return answer.status, answer.getheaders(), content

        def answer(
            self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False
        ) -> None:
            given = {name.lower(): value for name, value in headers}
            given.setdefault("content-length", str(len(content)))
            given["date"] = line.dated(given.get("date", ""))
            self.send_response_only(status)
            for name in given.keys() - {"transfer-encoding", "connection"}:
                self.send_header(name, given[name])
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return Handler


def _leave(request: BaseHTTPRequestHandler, host: str, begun: bytes) -> None:
    """Pass on a request whose body ends early; nothing at all if there is nothing of it."""
    if not begun:
        return
    to_server = http.client.HTTPConnection(host, timeout=60)
    to_server.putrequest(request.command, request.path, skip_host=True)
    for name, value in request.headers.items():
        to_server.putheader(name, value)
    to_server.endheaders(begun)
    to_server.close()
