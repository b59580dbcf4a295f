"""Servers that lie, stall, cut and never end. What may heal is kept for the next attempt."""

import gzip
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.errors import (
    InvalidVideoError,
    ResourceError,
)
from tasks.net import untrusted
from tasks.schemas import UpscaleRequest
from tasks.sources import download
from tasks.sources.obtain import check_source
from tests.kits.http.intake import (
    BROKE,
    LATER,
    NEVER,
    SECRET,
    HostileServer,
    Play,
    Talk,
    answer,
    chunked,
    left_behind,
    nothing_is_left,
)

pytestmark = pytest.mark.timeout(60)

VIDEO = bytes(range(256)) * 64


def endless(talk: Talk) -> None:
    talk.send(b"HTTP/1.1 200 OK\r\n\r\n")
    talk.pour(bytes(2**16))


def endless_chunks(talk: Talk) -> None:
    talk.send(chunked(end=b""))
    talk.pour(b"10000\r\n" + bytes(2**16) + b"\r\n")


def endless_headers(talk: Talk) -> None:
    talk.send(b"HTTP/1.1 200 OK\r\n")
    talk.pour(b"X-More: " + b"x" * 1000 + b"\r\n")


def endless_interim_answers(talk: Talk) -> None:
    talk.pour(b"HTTP/1.1 103 Early Hints\r\n\r\n")


NOTHING_CAME: dict[str, tuple[Play, type[Exception], str]] = {
    "endless-body": (endless, NEVER, "holds .* bytes or more, at most 1048576"),
    "endless-chunks": (endless_chunks, NEVER, "holds .* bytes or more, at most 1048576"),
    "too-large": (answer(length=2**20 + 1), NEVER, "holds 1048577 bytes or more"),
    "absurdly-large": (answer(length=10**15), NEVER, "holds 1000000000000000 bytes"),
    "length-without-end": (answer(length=10**40), LATER, BROKE),
    "empty": (answer(), InvalidVideoError, "empty file"),
    "empty-chunked": (chunked(), InvalidVideoError, "empty file"),
    "empty-closed": (b"HTTP/1.1 200 OK\r\n\r\n", InvalidVideoError, "empty file"),
    "negative-length": (answer(length=-1), LATER, BROKE),
    "length-no-number": (answer(Content_Length="12 apples"), LATER, BROKE),
    "two-lengths": (answer(body=VIDEO, content_length="7"), LATER, BROKE),
    "nothing-of-its-length": (answer(length=1000), LATER, BROKE),
    "bad-chunk": (chunked(end=b"zz\r\n"), LATER, BROKE),
    "unknown-transfer-encoding": (answer(Transfer_Encoding="br, chunked"), LATER, BROKE),
    "gzip": (
        answer(body=gzip.compress(bytes(10**6)), Content_Encoding="gzip"),
        NEVER,
        "encoded bytes",
    ),
    "deflate": (
        answer(body=zlib.compress(bytes(10**6)), Content_Encoding="Deflate"),
        NEVER,
        "encoded bytes",
    ),
    "brotli": (answer(body=VIDEO, Content_Encoding="br"), NEVER, r"encoded bytes \('br'\)"),
    "zstd": (answer(body=VIDEO, Content_Encoding="zstd"), NEVER, r"encoded bytes \('zstd'\)"),
    "bomb-in-a-bomb": (
        answer(body=gzip.compress(gzip.compress(bytes(10**6))), Content_Encoding="gzip, gzip"),
        NEVER,
        "encoded bytes",
    ),
    "web-page": (answer(body=b"<html>", Content_Type="text/html"), NEVER, "serves a web page"),
    "xhtml": (
        answer(body=b"<html/>", Content_Type="Application/XHTML+XML;x=y"),
        NEVER,
        "serves a web page",
    ),
    "part-unasked": (
        answer("206 Partial Content", VIDEO, Content_Range="bytes 0-9/10"),
        LATER,
        "answers a plain request with a part",
    ),
    "not-modified-unasked": (answer("304 Not Modified"), NEVER, "answered 304"),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", NEVER, "answered 204 No Content"),
    "range-unasked": (answer("416 Range Not Satisfiable"), NEVER, "answered 416"),
    "unauthorised": (answer("401 Unauthorized"), NEVER, "answered 401 Unauthorized"),
    "payment": (answer("402 Payment Required"), NEVER, "answered 402"),
    "forbidden": (answer("403 Forbidden"), NEVER, "answered 403 Forbidden"),
    "missing": (answer("404 Not Found"), NEVER, "answered 404 Not Found"),
    "gone": (answer("410 Gone"), NEVER, "answered 410 Gone"),
    "teapot": (answer("418 Short"), NEVER, "answered 418"),
    "legal": (answer("451 No"), NEVER, "answered 451"),
    "too-many": (answer("429 Too Many Requests"), LATER, "answered 429"),
    "broken": (answer("500 Oops"), LATER, "answered 500"),
    "away": (answer("503 Away"), LATER, "answered 503"),
    "unknown-status": (answer("599 Secret " + SECRET), LATER, "answered 599; try again"),
    "status-no-number": (b"HTTP/1.1 OK\r\n\r\n", LATER, BROKE),
    "status-too-large": (answer("2000 OK"), LATER, BROKE),
    "closed-at-once": (b"", LATER, BROKE),
    "closed-in-the-status-line": (b"HTTP/1.1 20", LATER, BROKE),
    "closed-in-the-headers": (b"HTTP/1.1 200 OK\r\nContent-Le", LATER, BROKE),
    "ssh": (b"SSH-2.0-OpenSSH_9.9\r\n", LATER, BROKE),
    "ftp": (b"220 welcome\r\n331 password\r\n", LATER, BROKE),
    "http-0.9": (b"just a video\r\n\r\n", LATER, BROKE),
    "http-2": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(64), LATER, BROKE),
    "tls-alert": (b"\x15\x03\x01\x00\x02\x02\x46" * 20, LATER, BROKE),
    "binary": (bytes(range(256)) * 40, LATER, BROKE),
    "huge-header": (answer(body=VIDEO, X_Big="x" * 300_000), LATER, BROKE),
    "header-without-colon": (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", LATER, BROKE),
    "header-folded": (b"HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\nvideo", LATER, BROKE),
    "header-nul": (b"HTTP/1.1 200 OK\r\nETag: \x00\r\n\r\nvideo", LATER, BROKE),
    "endless-headers": (endless_headers, LATER, BROKE),
    "switching-protocols": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", LATER, BROKE),
}


@pytest.mark.parametrize(
    ("play", "kind", "words"), [pytest.param(*case, id=name) for name, case in NOTHING_CAME.items()]
)
def test_answers_that_leave_nothing(server: HostileServer, trusting, refused, play, kind, words):
    refused(trusting, kind, words, video_url=server.play("/a.mp4", play))
    assert nothing_is_left(trusting)


CUT: dict[str, Play] = {
    "cut-body": answer(body=VIDEO, length=2 * len(VIDEO)),
    "cut-chunk": chunked(VIDEO, end=b"ffff\r\nabc"),
    "cut-between-chunks": chunked(VIDEO, end=b""),
    "bad-second-chunk": chunked(VIDEO, end=b"-5\r\nabc"),
}


@pytest.mark.parametrize("play", [pytest.param(play, id=name) for name, play in CUT.items()])
def test_bodies_that_are_cut(server: HostileServer, trusting, refused, play: Play) -> None:
    """Only the part and what is known of it are kept, and nothing among the sources."""
    refused(trusting, LATER, BROKE, video_url=server.play("/a.mp4", play))
    assert [Path(name).suffix for name in left_behind(trusting.work_dir)] == [
        ".json",
        ".lock",
        ".part",
    ]


class TestPatience:
    """Each limit alone, the others being long: slow-loris in all its forms."""

    def drip_body(self, talk: Talk) -> None:
        talk.send(answer(length=10**6))
        talk.drip(b"x")

    def test_a_body_that_drips(self, server, trusting, refused, monkeypatch) -> None:
        monkeypatch.setattr(download, "SLOW_SECONDS", 0.3)
        url = server.play("/a.mp4", self.drip_body)
        refused(trusting, LATER, "less than 10000 a second; what came is kept", video_url=url)

    def test_a_body_that_stops(self, server, trusting, refused, monkeypatch) -> None:
        monkeypatch.setattr(download, "TIMEOUT", download.httpx.Timeout(0.3))

        def stop(talk: Talk) -> None:
            talk.send(answer(body=VIDEO, length=10**6))
            talk.released.wait()

        url = server.play("/a.mp4", stop)
        refused(trusting, LATER, "did not answer in time", video_url=url)

    def test_the_deadline_of_a_whole_download(self, server, settings_with, refused) -> None:
        settings = settings_with(fetch_allow=(server.host,), fetch_seconds=0.4)
        url = server.play("/a.mp4", self.drip_body)
        refused(settings, LATER, r"not whole after 0.4 s \(SEEDVR2_FETCH_SECONDS\)", video_url=url)

    @pytest.mark.parametrize("play", ["silent", "drip", "interim", "redirects"])
    def test_headers_that_do_not_come(
        self, server: HostileServer, trusting, refused, monkeypatch, play: str
    ) -> None:
        monkeypatch.setattr(untrusted, "ANSWER_SECONDS", 0.3)

        def slow_redirect(talk: Talk) -> None:
            talk.released.wait(0.1)
            talk.send(answer("302 Found", Location="/a.mp4"))

        plays: dict[str, Callable[[Talk], Any]] = {
            "silent": lambda talk: talk.released.wait(),
            "drip": lambda talk: talk.drip(b"HTTP/1.1 200 OK\r\n" + b"X-More: x\r\n" * 1000),
            "interim": endless_interim_answers,
            "redirects": slow_redirect,
        }
        url = server.play("/a.mp4", plays[play])
        refused(trusting, LATER, "did not answer in time", video_url=url)
        assert nothing_is_left(trusting)

    @pytest.mark.parametrize("play", ["silent", "drip"])
    def test_the_door(self, server: HostileServer, trusting, monkeypatch, play: str) -> None:
        monkeypatch.setattr("tasks.sources.obtain._DOOR_SECONDS", 0.3)
        drip = b"HTTP/1.1 200 OK\r\n" + b"X-More: x\r\n" * 1000
        url = server.play(
            "/a.mp4", lambda talk: talk.drip(drip) if play == "drip" else talk.released.wait()
        )
        with pytest.raises(LATER, match=r"did not answer within 0\.3 s|in time"):
            check_source(UpscaleRequest(video_url=url), trusting)


class TestResume:
    """The second attempt meets a server that has changed, or lies about it."""

    HALF = len(VIDEO) // 2

    def first_half(self, server, trusting, refused, **headers: str) -> str:
        told = {"ETag": '"v1"', **headers}
        half = answer(body=VIDEO[: self.HALF], length=len(VIDEO), **told)
        url = server.play("/a.mp4", half)
        refused(trusting, LATER, BROKE, video_url=url)
        return url + f"?token={SECRET}"

    def rest(self, span: str, body: bytes = VIDEO[HALF:], **headers: str) -> bytes:
        told = {"ETag": '"v1"', **headers}
        return answer("206 Partial Content", body, Content_Range=span, **told)

    @pytest.mark.parametrize(
        ("span", "headers"),
        [
            pytest.param("bytes 0-8191/16384", {}, id="starts-too-early"),
            pytest.param("bytes 8193-16383/16384", {}, id="starts-too-late"),
            pytest.param("bytes 8192-16383/99999", {}, id="another-length"),
            pytest.param("octets 8192-16383/16384", {}, id="other-unit"),
            pytest.param(f"bytes 8192-16383/{'9' * 5000}", {}, id="length-of-5000-digits"),
            pytest.param(f"bytes {'9' * 5000}-16383/*", {}, id="start-of-5000-digits"),
            pytest.param("", {}, id="no-range"),
            pytest.param("bytes */16384", {}, id="no-span"),
            pytest.param("bytes 8192-16383/16384, bytes 0-1/2", {}, id="two-ranges"),
            pytest.param("bytes -8192-16383/16384", {}, id="negative"),
            pytest.param(
                "bytes \uff18192-16383/16384".encode().decode("latin-1"), {}, id="odd-digits"
            ),
            pytest.param("bytes 8192-16383/16384", {"ETag": '"v2"'}, id="another-etag"),
            pytest.param(
                "bytes 8192-16383/16384", {"ETag": "", "Last_Modified": "now"}, id="another-date"
            ),
        ],
    )
    def test_a_part_that_does_not_fit(
        self, server: HostileServer, trusting, refused, obtained, span: str, headers
    ) -> None:
        """It is thrown away, and the file is asked for from its start."""
        url = self.first_half(server, trusting, refused)
        parts = [self.rest(span, **headers), answer(body=VIDEO)]
        server.play("/a.mp4", lambda talk: talk.send(parts.pop(0)))
        assert obtained(trusting, video_url=url).path.read_bytes() == VIDEO
        assert [b"Range: bytes=8192-" in head for head in server.heads] == [False, True, False]

    @pytest.mark.parametrize(
        "then",
        [
            pytest.param(answer(body=VIDEO, ETag='"v2"'), id="200-another-file"),
            pytest.param(answer(body=VIDEO), id="200-no-etag"),
            pytest.param(chunked(VIDEO), id="200-chunked"),
        ],
    )
    def test_a_whole_answer_instead_of_a_part(
        self, server: HostileServer, trusting, refused, obtained, then: bytes
    ) -> None:
        url = self.first_half(server, trusting, refused)
        server.play("/a.mp4", then)
        assert obtained(trusting, video_url=url).path.read_bytes() == VIDEO

    def test_a_file_that_has_shrunk(self, server, trusting, refused, obtained) -> None:
        url = self.first_half(server, trusting, refused)
        parts = [answer("416 Range Not Satisfiable"), answer(body=b"small")]
        server.play("/a.mp4", lambda talk: talk.send(parts.pop(0)))
        assert obtained(trusting, video_url=url).path.read_bytes() == b"small"

    def test_more_than_was_announced(self, server, trusting, refused) -> None:
        url = self.first_half(server, trusting, refused)
        server.play("/a.mp4", self.rest("bytes 8192-16383/16384", VIDEO))
        refused(trusting, LATER, "sends more than the 16384 bytes it announced", video_url=url)
        assert nothing_is_left(trusting)

    def test_less_than_was_announced(self, server, trusting, refused, obtained) -> None:
        url = self.first_half(server, trusting, refused)
        server.play("/a.mp4", self.rest("bytes 8192-8195/16384", VIDEO[8192:8196]))
        refused(trusting, LATER, "ended after 8196 of 16384 bytes", video_url=url)
        server.play("/a.mp4", self.rest("bytes 8196-16383/16384", VIDEO[8196:]))
        assert obtained(trusting, video_url=url).path.read_bytes() == VIDEO

    def test_a_rest_that_is_refused(self, server, trusting, refused) -> None:
        url = self.first_half(server, trusting, refused)
        server.play("/a.mp4", answer("410 Gone"))
        refused(trusting, NEVER, "answered 410", video_url=url)
        assert nothing_is_left(trusting)

    def test_a_rest_that_is_encoded(self, server, trusting, refused) -> None:
        url = self.first_half(server, trusting, refused)
        server.play("/a.mp4", self.rest("bytes 8192-16383/16384", Content_Encoding="gzip"))
        refused(trusting, NEVER, "encoded bytes", video_url=url)
        assert nothing_is_left(trusting)

    @pytest.mark.parametrize(
        "etag",
        [
            pytest.param("\xff\xfe", id="no-ascii"),
            pytest.param('"' + "x" * 5000 + '"', id="endless"),
            pytest.param('"a\tb"', id="tab"),
        ],
    )
    def test_a_validator_that_cannot_be_sent_back(
        self, server: HostileServer, trusting, refused, obtained, etag: str
    ) -> None:
        url = self.first_half(server, trusting, refused, ETag=etag)
        server.play("/a.mp4", answer(body=VIDEO))
        assert obtained(trusting, video_url=url).path.read_bytes() == VIDEO
        assert all(b"Range" not in head for head in server.heads)


class TestDisk:
    """Checked before the first byte and while bytes come."""

    def free(self, monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
        left = list(free)

        def usage(_: object) -> Any:
            now = left.pop(0) if len(left) > 1 else left[0]
            return shutil._ntuple_diskusage(10**12, 10**12 - now, now)

        monkeypatch.setattr(shutil, "disk_usage", usage)

    def test_too_full_for_what_is_announced(self, server, trusting, refused, monkeypatch) -> None:
        self.free(monkeypatch, download.KEEP_FREE_BYTES + 1000)
        url = server.play("/a.mp4", answer(body=VIDEO))
        refused(trusting, ResourceError, "free in .* free space", video_url=url)
        assert nothing_is_left(trusting)

    def test_too_full_meanwhile(self, server, trusting, refused, monkeypatch) -> None:
        monkeypatch.setattr(download, "DISK_CHECK_BYTES", 1000)
        self.free(monkeypatch, 10**12, 10**6)
        url = server.play("/a.mp4", endless)
        refused(trusting, ResourceError, "free in .* free space", video_url=url)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        pytest.param('attachment; filename="../../etc/passwd"', "passwd", id="dots"),
        pytest.param("attachment; filename*=UTF-8''..%2F..%2Fx.mp4", "x.mp4", id="encoded-dots"),
        pytest.param('attachment; filename="C:\\\\temp\\\\x.mp4"', "x.mp4", id="backslashes"),
        pytest.param(f'attachment; filename="{"x" * 400}.mp4"', "x" * 116 + ".mp4", id="endless"),
        pytest.param('attachment; filename=".bashrc"', "bashrc", id="hidden"),
        pytest.param('attachment; filename=""', "a.mp4", id="empty"),
    ],
)
def test_names_that_servers_give(
    server: HostileServer, trusting, obtained, disposition: str, name: str
) -> None:
    url = server.play("/a.mp4", answer(body=b"video", Content_Disposition=disposition))
    source = obtained(trusting, video_url=url)
    assert source.name == name
    assert source.path.parent == trusting.sources_dir


def test_the_request_gives_nothing_away(server: HostileServer, trusting, obtained) -> None:
    obtained(trusting, video_url=server.play("/a.mp4", answer(body=b"video")))
    (head,) = server.heads
    assert b"Accept-Encoding: identity\r\n" in head
    for header in (b"authorization", b"cookie", b"referer", b"range", b"x-"):
        assert b"\r\n" + header not in head.lower()
