"""Clients that are slow on purpose, against a real server whose limits are short."""

import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from deployments.host import slow_clients
from tests.kits.http.gateway import served
from tests.kits.server import eventually

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
LARGE = 64 * 2**20

Connect = Callable[..., socket.socket]


async def take(request: Request) -> Response:
    """Read the body and say how long it is."""
    num_bytes = 0
    async for piece in request.stream():
        num_bytes += len(piece)
    return PlainTextResponse(str(num_bytes))


async def refuse(_: Request) -> Response:
    """Answer without reading the body."""
    return PlainTextResponse("no", status_code=401)


async def give(_: Request) -> Response:
    """Send more than any buffer holds."""
    return PlainTextResponse(b"x" * LARGE)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    routes = [
        Route("/", take, methods=["GET", "PUT"]),
        Route("/refuse", refuse, methods=["PUT"]),
        Route("/large", give),
    ]
    with served(Starlette(routes=routes)) as url:
        yield url


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_clients, "HEAD_SECONDS", 0.6)
    monkeypatch.setattr(slow_clients, "BODY_SECONDS", 0.6)
    monkeypatch.setattr(slow_clients, "TAKE_SECONDS", 0.6)
    monkeypatch.setattr(slow_clients, "MAX_CONNECTIONS", 20)


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    """Open connections that send these bytes; they are closed after the test."""
    opened: list[socket.socket] = []

    def open_one(*pieces: bytes) -> socket.socket:
        host, port = url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), timeout=10)
        opened.append(connection)
        for piece in pieces:
            connection.sendall(piece)
        return connection

    yield open_one
    for connection in opened:
        connection.close()


def to_the_end(connection: socket.socket) -> bytes:
    """All that the server sends until it ends the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def drip(connection: socket.socket, piece: bytes) -> bytes:
    """Send a piece every tenth of a second until the server ends it; returns what it sent.

    Gives up after ten seconds, in which a server without limits takes everything.
    """
    connection.settimeout(0.1)
    received, end = b"", time.monotonic() + 10
    while time.monotonic() < end:
        try:
            connection.sendall(piece)
            got = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            return received
        if not got:
            return received
        received += got
    raise AssertionError("the server lets this client drip for ever")


def test_nothing_is_sent(connect: Connect) -> None:
    assert to_the_end(connect()) == b""


@pytest.mark.parametrize("begun", [b"G", HEAD, HEAD + b"X-More: "], ids=["method", "host", "value"])
def test_a_head_that_stops(connect: Connect, begun: bytes) -> None:
    told = to_the_end(connect(begun))
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"took too long" in told


def test_a_head_in_drops(connect: Connect) -> None:
    assert drip(connect(HEAD), b"X: y\r\n").startswith(b"HTTP/1.1 408 ")


def test_the_second_head_of_a_connection_has_the_same_limit(connect: Connect) -> None:
    connection = connect(HEAD + b"\r\n")
    assert b"200 OK" in connection.recv(65536)
    told = drip(connection, b"G")
    assert b"HTTP/1.1 408 " in told


def test_two_requests_in_one_go_and_the_third_stops(connect: Connect) -> None:
    told = to_the_end(connect((HEAD + b"\r\n") * 2 + b"GET"))
    assert told.count(b"200 OK") == 2
    assert b"408 Request Timeout" in told


@pytest.mark.parametrize("length", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_a_body_that_stops(connect: Connect, length: bytes) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n"
    told = to_the_end(connect(head, b"5\r\nhello\r\n"))
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"bytes of the body came in" in told


def test_a_body_in_drops(connect: Connect) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    assert drip(connect(head), b"x").startswith(b"HTTP/1.1 408 ")


def test_a_body_in_drops_that_was_refused(connect: Connect) -> None:
    head = b"PUT /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    assert drip(connect(head), b"x").startswith(b"HTTP/1.1 401 ")


def test_the_rest_of_a_refused_body_may_come(connect: Connect, url: str) -> None:
    """A client sees the refusal, and its connection serves its next request."""
    head = b"PUT /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    connection = connect(head)
    refused = b""
    while not refused.endswith(b"no"):
        refused += connection.recv(65536)
    connection.sendall(b"0123456789")
    time.sleep(0.3)
    connection.sendall(HEAD + b"\r\n")
    assert b"200 OK" in connection.recv(65536)


@pytest.mark.long
def test_an_answer_that_nobody_takes(connect: Connect) -> None:
    connection = connect(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(2.0)
    assert len(to_the_end(connection)) < LARGE


@pytest.mark.long
def test_a_slow_body_that_keeps_its_pace_is_taken(url: str) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(0.25)
            yield b"x" * slow_clients.MIN_BODY_BYTES

    assert httpx.put(url, content=pieces()).text == str(8 * slow_clients.MIN_BODY_BYTES)


def test_an_idle_connection_is_kept(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        client.get("/")
        time.sleep(1.0)
        answer = client.get("/")
        assert answer.status_code == 200


@pytest.mark.parametrize("begun", [b"", HEAD, HEAD + b"\r\n"], ids=["idle", "dripping", "served"])
def test_many_waiting_connections_keep_nobody_out(
    connect: Connect, url: str, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_clients, "HEAD_SECONDS", 60.0)
    for _ in range(60):
        connect(begun)
    assert httpx.get(url, timeout=5).status_code == 200


def test_more_requests_than_connections_are_told_so(
    connect: Connect, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_clients, "BODY_SECONDS", 60.0)
    busy = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    held = [connect(busy) for _ in range(20)]

    def is_full() -> bool:
        answer = httpx.get(url, timeout=5)
        return answer.status_code == 503 and "too many connections" in answer.text

    eventually(is_full, "the refusal")
    for connection in held:
        connection.sendall(b"123456789")
        assert b"200 OK" in connection.recv(65536), "who was there first is served"
