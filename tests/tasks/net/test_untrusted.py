"""What messages and logs show of an address, and which answers are judged how.

Hostile addresses, redirects and servers are in tests/intake.
"""

import logging
import traceback

import pytest

from seedvr2_core.errors import InvalidVideoError, SourceRefusedError, SourceUnavailableError
from tasks.fetch import fetch
from tasks.net.untrusted import check_url, shown_url
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings, get_settings
from tasks.sources.obtain import check_source
from tests.kits.http.video_server import VideoServer

SECRET = "sekret42"


def get(url: str) -> FetchedSource:
    source = fetch.fn(_by_url(url))
    assert source is not None
    return source


def knock(url: str) -> None:
    check_source(_by_url(url), get_settings())


def _by_url(url: str) -> UpscaleRequest:
    return UpscaleRequest(video_url=url)


def _everything_told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, chain=True)) + repr(error)


@pytest.mark.parametrize("ask", [get, knock])
@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        pytest.param(404, SourceRefusedError, "404 Not Found", id="404"),
        pytest.param(403, SourceRefusedError, "403 Forbidden", id="403"),
        pytest.param(410, SourceRefusedError, "410 Gone", id="410"),
        pytest.param(401, SourceRefusedError, "401 Unauthorized", id="401"),
        pytest.param(204, SourceRefusedError, "204 No Content", id="204"),
        pytest.param(304, SourceRefusedError, "304 Not Modified", id="304-unasked"),
        pytest.param(408, SourceUnavailableError, "408", id="408"),
        pytest.param(429, SourceUnavailableError, "429", id="429"),
        pytest.param(500, SourceUnavailableError, "500 Internal", id="500"),
        pytest.param(503, SourceUnavailableError, "503", id="503"),
        pytest.param(520, SourceUnavailableError, "520", id="unknown-5xx"),
        pytest.param(
            {"Content_Type": "Text/HTML; charset=utf-8"},
            SourceRefusedError,
            "web page",
            id="page",
        ),
        pytest.param({"Content_Encoding": "gzip"}, SourceRefusedError, "encoded", id="gzip"),
        pytest.param({"content": b""}, InvalidVideoError, "empty", id="empty"),
        pytest.param(
            lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n\r\n"),
            SourceUnavailableError,
            "broke off",
            id="no-http",
        ),
        pytest.param(lambda handler: None, SourceUnavailableError, "broke off", id="hangs-up"),
    ],
)
def test_answers_that_are_no_video(server, settings: Settings, ask, answer, kind, told) -> None:
    server.answer("/a.mp4", answer)
    with pytest.raises(kind, match=told) as caught:
        ask(server.url(f"/a.mp4?token={SECRET}"))
    assert type(caught.value) is kind
    assert SECRET not in _everything_told(caught.value)
    assert list(settings.work_dir.rglob("*.part")) == []


@pytest.mark.parametrize("ask", [get, knock])
def test_closed_port(server, settings: Settings, ask) -> None:
    server.close()
    with pytest.raises(SourceUnavailableError, match="no connection"):
        ask(server.url("/a.mp4"))
    server.close = lambda: None


def test_nothing_secret_in_any_log(server, settings: Settings, caplog) -> None:
    server.answer("/a.mp4", f"/b.mp4?key={SECRET}")
    server.offer("/b.mp4")
    with caplog.at_level(logging.DEBUG):
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        get(server.url(f"/a.mp4?token={SECRET}"))
        check_source(_by_url(server.url(f"/a.mp4?token={SECRET}")), settings)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@Example.org:81/a/b.mp4?x=1#y", "https://example.org:81/a/b.mp4"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("s3://u:p@bucket/In/a b.mp4?x=1", "s3://bucket/In/a b.mp4"),
        ("data:video/mp4;base64,AAAA", "data: address"),
        ("nothing", "the address"),
        ("http://[", "the address"),
        ("http://h/\x1b[31m\ud800", "http://h/"),
        (f"http://h/{'a' * 999}", f"http://h/{'a' * 191}..."),
    ],
)
def test_shown_url(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_check_url_takes_what_people_paste() -> None:
    assert (
        str(check_url(" HTTPS://Example.org/a b.mp4\n", Settings()).url)
        == "https://example.org/a%20b.mp4"
    )


def test_no_proxy_of_the_environment_is_asked(
    server, other_server, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would connect in our place, to addresses that nobody has checked."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other_server.url(""))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.offer("/a.mp4")
    other_server.offer("/a.mp4", content=b"the proxy's")
    assert get(server.url("/a.mp4")).path.read_bytes() == VideoServer.VIDEO
    assert other_server.headers_of("/a.mp4") == []
