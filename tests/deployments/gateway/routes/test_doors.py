"""Who gets through the newer doors of a gateway with tokens, and what its file addresses give out.

No Prefect is there: whoever is let through to it would be told 503. Requests are sent as bytes,
because clients tidy up paths and headers.
"""

import base64
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.gateway.app import create_app
from deployments.gateway.auth import digest
from deployments.gateway.prefect_api import PrefectApi
from tasks.settings import Settings
from tests.kits.http.gateway import served
from tests.kits.http.victim import Told, take_apart

NOBODY = "http://127.0.0.1:9/api"
NO_JOB = "00000000-0000-4000-8000-000000000000"
Ask = Callable[..., Told]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Send a request of these lines; its answer."""
    closed = Settings(
        work_dir=tmp_path_factory.mktemp("work"),
        gateway_tokens=(digest("one"), digest("two")),
    )
    with served(create_app(closed, PrefectApi(NOBODY))) as url:
        host, port = url.removeprefix("http://").split(":")

        def ask(method: str, target: str, *lines: str, body: bytes = b"") -> Told:
            head = [f"{method} {target} HTTP/1.1", f"Content-Length: {len(body)}"]
            head += ["Host: localhost", "Connection: close", *lines, "", ""]
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                connection.sendall("\r\n".join(head).encode("latin-1") + body)
                received = b""
                while piece := connection.recv(65536):
                    received += piece
            return take_apart(received)

        yield ask


def basic(password: str) -> str:
    return f"Authorization: Basic {base64.b64encode(f'anybody:{password}'.encode()).decode()}"


DOORS = {
    "docs": ("GET", "/docs"),
    "openapi": ("GET", "/openapi.json"),
    "docs-part": ("GET", "/docs/start.js"),
    "events": ("GET", f"/events/{NO_JOB}"),
    "preview": ("GET", f"/preview/{NO_JOB}"),
    "retry": ("POST", f"/retry/{NO_JOB}"),
    "plan": ("GET", "/plan?width=1&height=1"),
    "plan-a-video": ("POST", "/plan"),
}
PAGES = ("docs", "openapi", "docs-part")
TOKENS: dict[str, tuple[str, ...]] = {
    "none": (),
    "empty": ("Authorization: Bearer ",),
    "wrong": ("Authorization: Bearer three",),
    "digest": (f"Authorization: Bearer {digest('one')}",),
    "longer": ("Authorization: Bearer one1",),
    "spaces": ("Authorization: Bearer one two",),
    "no scheme": ("Authorization: one",),
    "other scheme": ("Authorization: Token one",),
    "two headers": ("Authorization: Bearer one", "Authorization: Bearer two"),
    "the wrong one first": ("Authorization: Bearer no", "Authorization: Bearer one"),
    "two in one": ("Authorization: Bearer one, Bearer two",),
    "not utf-8": ("Authorization: Bearer \xff\xfe",),
    "long": (f"Authorization: Bearer {'one' * 10_000}",),
    "cookie": ("Cookie: token=one", "X-Token: one"),
    "a proxy's": ("Proxy-Authorization: Bearer one", "X-Forwarded-User: one"),
    "basic that is none": ("Authorization: Basic !!!",),
    "basic without a colon": (f"Authorization: Basic {base64.b64encode(b'one').decode()}",),
    "a wrong password": (basic("three"),),
    "the token as the user": (f"Authorization: Basic {base64.b64encode(b'one:').decode()}",),
}


@pytest.mark.parametrize("lines", TOKENS.values(), ids=TOKENS.keys())
@pytest.mark.parametrize("door", DOORS)
def test_without_a_token_nobody_gets_in(ask: Ask, door: str, lines: tuple[str, ...]) -> None:
    method, target = DOORS[door]
    told = ask(method, target, *lines)
    assert told.status == 401, told.body
    assert "needs one of its tokens" in told.detail
    assert "www-authenticate" in told.headers.lower()
    assert "one" not in told.headers.lower().replace("connection", "")


@pytest.mark.parametrize("door", [door for door in DOORS if door not in PAGES])
def test_a_password_that_a_browser_adds_by_itself_opens_pages_alone(ask: Ask, door: str) -> None:
    method, target = DOORS[door]
    assert ask(method, target, basic("one")).status == 401
    assert ask(*DOORS["docs"], basic("one")).status == 200


@pytest.mark.parametrize("query", ["token=one", "access_token=one", "authorization=Bearer%20one"])
@pytest.mark.parametrize("door", PAGES)
def test_a_token_in_the_address_is_none(ask: Ask, door: str, query: str) -> None:
    """It would stand in logs and in the browser's history."""
    assert ask("GET", f"{DOORS[door][1]}?{query}").status == 401


TRAVERSALS = {
    "dots": "../app.py",
    "encoded dots": "%2e%2e/app.py",
    "encoded slash": "..%2fapp.py",
    "encoded all": "%2e%2e%2f%2e%2e%2fpyproject.toml",
    "twice encoded": "%252e%252e%252fapp.py",
    "backslash": "..\\app.py",
    "encoded backslash": "..%5capp.py",
    "four dots": "....//app.py",
    "absolute": "/etc/passwd",
    "encoded absolute": "%2fetc%2fpasswd",
    "a scheme": "file:%2f%2f%2fetc%2fpasswd",
    "nul": "main.js%00.txt",
    "over-long utf-8": "%c0%ae%c0%ae%c0%afapp.py",
    "another case": "MAIN.JS",
    "a dot behind": "main.js.",
    "a space behind": "main.js%20",
    "a slash behind": "main.js/",
    "a part of a part": "main.js/../main.js",
    "a file of ours": "__init__.py",
    "a source map": "main.js.map",
    "a hidden file": ".env",
    "escape codes": "%1b%5b2J",
    "a long name": "a" * 8000,
    "nothing": "",
}


@pytest.mark.parametrize("name", TRAVERSALS.values(), ids=TRAVERSALS.keys())
@pytest.mark.parametrize("folder", ["page", "docs"])
def test_no_other_file_is_given_out(ask: Ask, folder: str, name: str) -> None:
    told = ask("GET", f"/{folder}/{name}", "Authorization: Bearer one")
    assert told.status in (307, 404), told.body  # a slash behind leads to the same address without
    if told.status == 307:
        assert f"localhost/{folder}" in told.headers
        return
    assert told.body.isprintable()
    assert "root:" not in told.body
    assert len(told.body) < 300


PARTS = sorted(path.name for path in Path("deployments/gateway/page").glob("*.*"))


@pytest.mark.parametrize("name", ["", *PARTS])
def test_what_a_browser_is_told_about_the_page(ask: Ask, name: str) -> None:
    told = ask("GET", f"/page/{name}" if name else "/")
    headers = told.headers.lower()
    assert told.status == 200
    for line in ("x-content-type-options: nosniff", "referrer-policy: no-referrer"):
        assert line in headers
    (policy,) = (line for line in headers.split("\r\n") if line.startswith("content-security"))
    for rule in (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"),
        *("frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"),
    ):
        assert rule in policy
    assert "unsafe" not in policy
    assert "access-control" not in headers
    assert "set-cookie" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/page/main.js", "/docs", "/openapi.json"])
def test_files_are_read_and_nothing_else(ask: Ask, path: str, method: str) -> None:
    told = ask(method, path, "Authorization: Bearer one", "Origin: https://evil.test")
    assert told.status == 405
    assert "access-control" not in told.headers.lower()


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/docs", "/openapi.json", "/healthz"])
def test_the_document_names_no_host_that_a_caller_chose(ask: Ask, path: str) -> None:
    lines = ("Authorization: Bearer one", "X-Forwarded-Host: evil.test", "Forwarded: host=evil")
    told = ask("GET", path, *lines, "X-Forwarded-Prefix: //evil.test", "Referer: //evil.test")
    assert "evil" not in told.headers + told.body
