"""The reader of JSON bodies with a video in them, whole and in pieces of every size."""

import base64
import hashlib
import json
from typing import Any

import pytest
from fastapi import HTTPException

from deployments.gateway.base64_json import JsonReader
from seedvr2_core.errors import InvalidRequestError

VIDEO = hashlib.shake_256(b"base64_json").digest(100)
TEXT = base64.b64encode(VIDEO).decode()


def read(body: bytes, size: int, max_bytes: int = 10_000) -> tuple[dict[str, Any], bytes]:
    """Fields and video of a body that arrives in pieces of this size."""
    video = bytearray()
    reader = JsonReader(video.extend, max_bytes=max_bytes)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    return reader.finish(), bytes(video)


BODIES = {
    "plain": json.dumps({"seed": 7, "video_base64": TEXT, "model": "span"}),
    "data url": json.dumps({"seed": 7, "video_base64": f"data:video/mp4;base64,{TEXT}"}),
    "slashes and plus escaped": json.dumps({"seed": 7, "video_base64": TEXT})
    .replace("/", r"\/")
    .replace("+", r"\u002B")
    .replace("=", r"\u003d"),
    "escaped line breaks": json.dumps({"seed": 7, "video_base64": f"{TEXT[:8]}\r\n{TEXT[8:]}\n"}),
    "escaped name": json.dumps({"seed": 7, "video_base64": TEXT}).replace(
        "video_b", r"video\u005fb"
    ),
    "other field nested before": json.dumps({"a": {"video_base64": "x"}, "video_base64": TEXT}),
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 10_000])
@pytest.mark.parametrize("kind", BODIES)
def test_the_size_of_the_pieces_changes_nothing(kind: str, size: int) -> None:
    body = BODIES[kind].encode()
    fields, video = read(body, size)
    assert video == VIDEO
    expected = json.loads(body)
    del expected["video_base64"]
    assert fields == expected


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"video_base64": "AAA"}', "not base64"),
        (b'{"video_base64": "AA==AAAA"}', "not base64"),
        (b'{"video_base64": "AA%A"}', "not base64"),
        (b'{"video_base64": "AAAA\\"}', "not base64"),
        (b'{"video_base64": "AAAA", "video_base64": "AAAA"}', "given twice"),
        (b'{"seed": 7', "not JSON"),
        (b"[1]", "JSON list"),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_what_is_wrong_is_said(body: bytes, named: str, size: int) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        read(body, size)


def test_an_empty_video_stays_in_the_fields() -> None:
    assert read(b'{"video_base64": ""}', 1) == ({"video_base64": ""}, b"")


@pytest.mark.parametrize("size", [1, 10_000])
def test_the_limit_is_for_everything_but_the_video(size: int) -> None:
    body = json.dumps({"video_base64": TEXT, "model": "x" * 50}).encode()
    assert read(body, size, max_bytes=len(body) - len(TEXT))[1] == VIDEO
    with pytest.raises(HTTPException) as caught:
        read(body, size, max_bytes=len(body) - len(TEXT) - 1)
    assert caught.value.status_code == 413
