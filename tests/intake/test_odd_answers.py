"""More answers of servers that mean no good: odd numbers, endless frames, promises for a year."""

import gzip
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidVideoError
from tests.kits.http.intake import (
    BROKE,
    LATER,
    NEVER,
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


def endless_trailers(talk: Talk) -> None:
    talk.send(chunked(VIDEO, end=b"0\r\n"))
    talk.pour(b"X-More: " + b"x" * 1000 + b"\r\n")


def endless_chunk_extension(talk: Talk) -> None:
    talk.send(chunked(end=b"5;"))
    talk.pour(b"x" * 1000)


def endless_chunk_size(talk: Talk) -> None:
    talk.send(chunked(end=b""))
    talk.pour(b"0" * 1000)


ANSWERS: dict[str, tuple[Play, type[Exception], str]] = {
    "later-in-a-year": (answer("503 Away", Retry_After="31536000"), LATER, "answered 503"),
    "later-before-now": (answer("429 Wait", Retry_After="-1e300"), LATER, "answered 429"),
    "later-on-no-day": (
        answer("503 Away", Retry_After="Mon, 99 Foo 99999 99:99:99 GMT"),
        LATER,
        "answered 503",
    ),
    "empty-for-now": (answer(Refresh="0; url=http://127.0.0.1/"), InvalidVideoError, "empty file"),
    "endless-chunk-extension": (endless_chunk_extension, LATER, BROKE),
    "endless-chunk-size": (endless_chunk_size, LATER, BROKE),
    "length-with-a-sign": (answer(body=b"video", Content_Length="+5"), LATER, BROKE),
    "length-in-hex": (answer(body=b"video", Content_Length="0x5"), LATER, BROKE),
    "length-with-an-underscore": (answer(body=b"video", Content_Length="0_5"), LATER, BROKE),
    "length-in-arabic": (answer(body=b"video", Content_Length="\xb5"), LATER, BROKE),
    "http-3": (b"HTTP/3.0 200 OK\r\n\r\n", InvalidVideoError, "empty file"),
    "space-before-the-colon": (b"HTTP/1.1 200 OK\r\nETag : x\r\n\r\nvideo", LATER, BROKE),
    "x-gzip": (
        answer(body=gzip.compress(bytes(10**6)), Content_Encoding="x-gzip"),
        NEVER,
        "encoded bytes",
    ),
    "web-page-in-capitals": (
        answer(body=b"<html>", Content_Type=" TEXT/HTML ;charset=utf-7"),
        NEVER,
        "serves a web page",
    ),
}


@pytest.mark.parametrize(
    ("play", "kind", "words"), [pytest.param(*case, id=name) for name, case in ANSWERS.items()]
)
def test_answers_that_leave_nothing(server: HostileServer, trusting, refused, play, kind, words):
    refused(trusting, kind, words, video_url=server.play("/a.mp4", play))
    assert nothing_is_left(trusting)


def test_trailers_without_end(server: HostileServer, trusting, refused) -> None:
    """What came is kept for the next attempt."""
    refused(trusting, LATER, BROKE, video_url=server.play("/a.mp4", endless_trailers))
    kept = [Path(name).suffix for name in left_behind(trusting.work_dir)]
    assert kept == [".json", ".lock", ".part"]
