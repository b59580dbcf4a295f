"""Which names a server answers to: DNS rebinding ends here, for requests and for WebSockets."""

import asyncio
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message

from deployments.host.hosts import HostCheck, allowed_hosts, host_in
from tasks.settings import Settings

APP = Starlette(routes=[Route("/", lambda _: PlainTextResponse("served"), methods=["GET", "POST"])])
CHECKED = HostCheck(
    APP, frozenset({"videos.example.org"}), lambda told: PlainTextResponse(told, 421)
)


def ask(host: str, method: str = "GET") -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=CHECKED)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, "/", headers={"Host": host})

    return asyncio.run(asked())


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:4200", "localhost:8000", "LOCALHOST", "localhost.", "[::1]:80"),
        *("[::1]", "videos.example.org", "VIDEOS.example.org:443"),
    ],
)
def test_our_own_names_are_served(host: str) -> None:
    assert ask(host).text == "served"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:4200", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("localhost@evil.example", "evil.example#localhost", "", ":80", "[::1", "[::1]evil"),
        *("127.0.0.1, evil.example", "0.0.0.0", "evil.example:80:localhost"),
    ],
)
def test_every_other_name_is_refused_whatever_is_asked(host: str, method: str) -> None:
    answer = ask(host, method)
    assert answer.status_code == 421
    assert "SEEDVR2_ALLOWED_HOSTS" in answer.text


def raw(kind: str, *hosts: bytes) -> Message:
    """The first message that is sent in answer to a scope with these Host headers."""

    async def asked() -> Message:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": f"{kind}.request"}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", host) for host in hosts]
        await CHECKED(
            {"type": kind, "method": "GET", "path": "/", "headers": headers}, receive, send
        )
        return sent[0]

    return asyncio.run(asked())


def test_a_host_header_that_comes_twice_is_refused() -> None:
    assert raw("http", b"127.0.0.1", b"evil.example")["status"] == 421


def test_a_foreign_web_socket_is_closed() -> None:
    assert raw("websocket", b"evil.example") == {"type": "websocket.close", "code": 1008}


def test_which_names_a_server_has() -> None:
    own = socket.gethostname().lower()
    gateway = "127.0.0.1"  # of the gateway's address, which has a default
    plain = Settings()
    named = Settings(allowed_hosts="gw.example.org,fd00::7")  # pyright: ignore
    public = Settings(public_url="https://videos.example.org:8443/x")
    assert allowed_hosts(plain, guarded=False) == {own, gateway}
    assert allowed_hosts(plain, guarded=True) == {"*"}
    assert allowed_hosts(public, guarded=False) == {own, gateway, "videos.example.org"}
    for guarded in (True, False):
        names = allowed_hosts(named, guarded=guarded)
        assert names == {own, gateway, "gw.example.org", "fd00::7"}
    assert host_in("[fd00::7]:80") == "fd00::7"
