"""Who may be asked by which host name: DNS rebinding ends here."""

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from deployments.host.allowed_hosts import AllowedHosts, allowed_hosts, host_of
from deployments.host.loopback import LOOPBACK, keep_loopback_direct
from tasks.settings import Settings

APP = Starlette(routes=[Route("/", lambda _: PlainTextResponse("served"), methods=["GET", "POST"])])
OURS = {*LOOPBACK, "videos.example.org"}


def ask(host: str, method: str = "GET") -> int:
    async def asked() -> int:
        transport = httpx.ASGITransport(app=AllowedHosts(APP, OURS))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.request(method, "/", headers={"Host": host})).status_code

    return asyncio.run(asked())


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:4200", "localhost:8000", "LOCALHOST", "localhost.", "[::1]:80"),
        *("[::1]", "videos.example.org", "VIDEOS.example.org:443"),
    ],
)
def test_our_own_names_are_served(host: str) -> None:
    assert ask(host) == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:4200", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("localhost@evil.example", "evil.example#localhost", "", ":80", "[::1", "[::1]evil"),
        *("127.0.0.1, evil.example", "0.0.0.0", "evil.example:80:localhost", "127.0.0.2"),
    ],
)
def test_every_other_name_is_refused_whatever_is_asked(host: str, method: str) -> None:
    assert ask(host, method) == 421


def test_a_host_header_that_comes_twice_is_refused() -> None:
    async def asked() -> int:
        sent: list[int] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request"}

        async def send(message: object) -> None:
            sent.append(dict(message).get("status", 0))  # pyright: ignore

        scope = {
            "type": "http", "method": "GET", "path": "/",
            "headers": [(b"host", b"127.0.0.1"), (b"host", b"evil.example")],
        }  # fmt: skip
        await AllowedHosts(APP, OURS)(scope, receive, send)
        return sent[0]

    assert asyncio.run(asked()) == 421


def test_which_names_a_server_has(tmp_path: Path) -> None:
    plain = Settings(work_dir=tmp_path)
    named = Settings(allowed_hosts="gw.example.org,[fd00::7]")  # pyright: ignore
    public = Settings(public_url="https://videos.example.org:8443/x")
    loopback = frozenset(LOOPBACK)
    assert allowed_hosts(plain, listening="127.0.0.1", guarded=False) == loopback
    assert allowed_hosts(plain, listening="::1", guarded=False) == loopback
    assert allowed_hosts(plain, listening="127.0.0.1", guarded=True) is None
    assert allowed_hosts(plain, listening="0.0.0.0", guarded=True) is None
    assert allowed_hosts(public, listening="127.0.0.1", guarded=False) == loopback | {
        "videos.example.org"
    }
    for address in ("127.0.0.1", "0.0.0.0"):
        for guarded in (True, False):
            names = allowed_hosts(named, listening=address, guarded=guarded)
            assert names == loopback | {"gw.example.org", "fd00::7"}
    assert host_of("[fd00::7]:80") == "fd00::7"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "a, localhost", "NO_PROXY": "b"}, "a,localhost,127.0.0.1,::1"),
    ],
)
def test_loopback_never_goes_through_a_proxy(given: dict[str, str], expected: str) -> None:
    keep_loopback_direct(given)
    assert given["no_proxy"] == given["NO_PROXY"] == expected
