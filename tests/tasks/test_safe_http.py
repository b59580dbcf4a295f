"""Where requests for strangers' addresses may lead, and which answers are taken."""

import logging
import traceback
from ipaddress import ip_address

import pytest

from seedvr2_core.errors import InvalidVideoError, SourceRefusedError, SourceUnavailableError
from tasks.fetch import fetch
from tasks.intake import check_source
from tasks.safe_http import check_url, may_reach, shown_url
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings, get_settings

SECRET = "sekret42"


def get(url: str) -> FetchedSource:
    return fetch.fn(_by_url(url))


def knock(url: str) -> None:
    check_source(_by_url(url), get_settings())


def _by_url(url: str) -> UpscaleRequest:
    return UpscaleRequest(video_url=url)


def _everything_told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, chain=True)) + repr(error)


def test_redirect_to_a_private_address(server, other_server, settings: Settings) -> None:
    other_server.offer("/inner.mp4")
    server.answer("/a.mp4", other_server.url("/inner.mp4"))
    with pytest.raises(SourceRefusedError, match="no public address"):
        get(server.url("/a.mp4"))
    assert other_server.requests == []
    assert list(settings.work_dir.rglob("*.part")) == []


@pytest.mark.parametrize(
    "to",
    ["file:///etc/passwd", "ftp://example.org/a.mp4", "http://user:pw@127.0.0.1/a.mp4", "/a.mp4"],
    ids=["file", "ftp", "userinfo", "loop"],
)
def test_redirects_that_are_not_followed(server, settings: Settings, to: str) -> None:
    server.answer("/a.mp4", to)
    with pytest.raises(SourceRefusedError):
        get(server.url("/a.mp4"))
    assert len(server.requests) == (6 if to == "/a.mp4" else 1)


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
    "url",
    [
        "ftp://example.org/a.mp4",
        "file:///etc/passwd",
        "data:video/mp4;base64,AAAA",
        "gopher://127.0.0.1/x",
        "/etc/passwd",
        "//example.org/a.mp4",
        "http://",
        "http:///a.mp4",
        "http://example.org:0/a.mp4",
        "http://example.org:99999/a.mp4",
        "http://[::1/a.mp4",
        "http://exa\nmple.org/a.mp4",
        f"https://user:{SECRET}@example.org/a.mp4",
        f"https://{SECRET}@example.org/a.mp4",
        f"https://user:{SECRET}/x@example.org/a.mp4",
        f"https://example.org:{SECRET}/a.mp4",
    ],
)
def test_addresses_that_are_refused_unasked(settings_with, url: str) -> None:
    settings = settings_with()
    for ask in (get, knock):
        with pytest.raises(SourceRefusedError) as caught:
            ask(url)
        assert SECRET not in _everything_told(caught.value)
    assert not settings.work_dir.exists()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
    ],
)
def test_private_addresses_are_not_reached(server, settings_with, host: str) -> None:
    settings_with()
    server.offer("/a.mp4")
    url = server.url("/a.mp4").replace("127.0.0.1", host)
    for ask in (get, knock):
        with pytest.raises(SourceRefusedError, match="SEEDVR2_FETCH_ALLOW"):
            ask(url)
    assert server.requests == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("2001:0:4136:e378::1", False),
        ("2002:808:808::", False),
        ("64:ff9b::808:808", False),
        ("64:ff9b:1::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert may_reach(())("example.org", ip_address(address), 443) is public


@pytest.mark.parametrize(
    ("entry", "host", "port", "reached"),
    [
        ("media.lan", "media.lan", 80, True),
        ("media.lan", "MEDIA.LAN", 8080, True),
        ("media.lan:8080", "media.lan", 8080, True),
        ("media.lan:8080", "media.lan", 80, False),
        ("media.lan", "evil.media.lan", 80, False),
        ("10.0.0.5", "10.0.0.5", 80, True),
        ("10.0.0.5", "evil.example", 80, False),
        ("[fd00::5]:80", "fd00::5", 80, True),
        ("[fd00::5]:80", "fd00::5", 81, False),
        ("fd00::5", "fd00::5", 81, True),
    ],
)
def test_private_hosts_that_are_allowed(entry: str, host: str, port: int, reached: bool) -> None:
    assert may_reach((entry,))(host, ip_address("10.0.0.5"), port) is reached


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@Example.org:81/a/b.mp4?x=1#y", "https://example.org:81/a/b.mp4"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
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
    assert str(check_url(" HTTPS://Example.org/a b.mp4\n")) == "https://example.org/a%20b.mp4"
