"""Which names our servers answer to, and what is said when they listen beyond this machine."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from deployments.host.hosts import HostCheck, allowed_hosts
from deployments.host.listen import exposure_note
from deployments.host.machine import this_machine
from tasks.settings import Settings
from tests.kits.http.gateway import served


async def hello(_: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


@contextmanager
def answering(settings: Settings) -> Iterator[httpx.Client]:
    """A server with these settings and a client of it."""
    app = HostCheck(
        Starlette(routes=[Route("/", hello)]),
        allowed=allowed_hosts(settings, guarded=False),
        refuse=lambda sentence: PlainTextResponse(sentence, status_code=421),
    )
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client


OURS = Settings(
    allowed_hosts=("gpu.example.org",),
    public_url="https://videos.example.org/out",
    gateway_url="http://Api.example.org:8000",
)


@pytest.fixture(scope="module")
def ours() -> Iterator[httpx.Client]:
    with answering(OURS) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("localhost.", 200),
        ("127.0.0.1:1", 200),
        ("127.8.9.10", 200),
        ("[::1]:8000", 200),
        ("gpu.example.org", 200),
        ("GPU.example.org:443", 200),
        ("videos.example.org", 200),
        ("api.example.org", 200),
        ("evil.test", 421),
        ("gpu.example.org.evil.test", 421),
        ("evil.gpu.example.org", 421),
        ("10.0.0.1", 421),
        ("0.0.0.0", 421),
        ("[::]", 421),
        ("2130706433", 421),
        ("0x7f.1", 421),
        ("*", 421),
    ],
)
def test_hosts(ours: httpx.Client, host: str, status: int) -> None:
    assert ours.get("/", headers={"Host": host}).status_code == status


def test_names_are_known_only_if_they_are_set() -> None:
    for settings, status in ((Settings(), 421), (Settings(allowed_hosts=("*",)), 200)):
        with answering(settings) as client:
            assert client.get("/", headers={"Host": "gpu.example.org"}).status_code == status


def test_this_machine_is_known_by_its_name() -> None:
    assert socket.gethostname().lower() in allowed_hosts(Settings(), guarded=False)
    assert this_machine()


def test_allowed_hosts_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDVR2_ALLOWED_HOSTS", "A.example.org, b")
    assert Settings().allowed_hosts == ("a.example.org", "b")
    for wrong in ("https://a.example.org", "a.example.org:443", "a/b"):
        monkeypatch.setenv("SEEDVR2_ALLOWED_HOSTS", wrong)
        with pytest.raises(ValueError, match="without scheme and port"):
            Settings()


def test_who_listens_beyond_this_machine_is_told_of_a_proxy() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        assert exposure_note("gateway", host) is None
    for host in ("0.0.0.0", "::", "192.168.1.5"):
        note = exposure_note("gateway", host)
        assert note
        assert "put a proxy with TLS in front" in note
