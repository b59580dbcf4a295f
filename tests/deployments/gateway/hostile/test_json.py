"""JSON bodies that no form or program of a friend sends; each is refused with its own sentence."""

import json
from typing import Any

import pytest

from tests.kits.http.intake import Canary
from tests.kits.http.victim import DIGITS, Victim, cases

pytestmark = [pytest.mark.usefixtures("on_the_server"), pytest.mark.timeout(240)]

URL = "https://example.org/a.mp4"
CANARY = "CANARY"
"""Replaced by the address of a listener on loopback that must see nobody."""


def fields(**given: Any) -> bytes:
    """A JSON body with a good source, unless the case brings its own."""
    return json.dumps({"video_url": URL} | given).encode()


BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the body is not JSON"),
    "nul": (b"\0", "the body is not JSON"),
    "not-utf8": (b'{"model": "\xff"}', "the body is not JSON"),
    "utf16": ("{}".encode("utf-16"), "exactly one source"),
    "comment": (b"{} // more", "the body is not JSON"),
    "two-objects": (b"{}{}", "the body is not JSON"),
    "list": (b"[]", "JSON list; expected an object"),
    "text": (b'"x"', "JSON str; expected an object"),
    "null": (b"null", "JSON NoneType; expected an object"),
    "number": (b"7", "JSON int; expected an object"),
    "number-of-4000-digits": (DIGITS.encode(), "JSON int; expected an object"),
    "number-of-5000-digits": (b"9" * 5000, "the body is not JSON"),
    "nested-lists": (b"[" * 60_000, "the body"),
    "nested-objects": (b'{"a":' * 12_000, "the body"),
    "no-source": (b"{}", "exactly one source is needed"),
    "unknown-field": (fields(frames=1), "frames: there is no such option"),
    "field-of-a-surrogate": (b'{"video_url":"' + URL.encode() + b'","\\ud800":1}', "valid string"),
    "field-of-escape-codes": (fields(**{"\x1b[2J": 1}), "there is no such option"),
    "field-of-30000-characters": (fields(**{"x" * 30_000: 1}), "there is no such option"),
    "prototype": (fields(__proto__={"a": 1}), "__proto__: there is no such option"),
    "source-a-list": (fields(video_url=[URL]), "video_url: Input should be a valid string"),
    "source-a-number": (fields(video_url=7), "video_url: Input should be a valid string"),
    "source-an-object": (fields(video_url={"a": 1}), "video_url: Input should be a valid string"),
    "source-true": (fields(video_url=True), "video_url: Input should be a valid string"),
    "source-blank": (fields(video_url="   "), "addresses without a scheme"),
    "source-of-a-surrogate": (b'{"video_url": "http://\\ud800.test/"}', "cannot be read as an"),
    "source-with-a-nul": (fields(video_url="http://a.test/\0"), "cannot be read as an address"),
    "source-with-an-emoji-port": (fields(video_url="http://xn--ls8h.test:0/"), "at port 0"),
    "source-on-loopback": (fields(video_url=f"http://{CANARY}/"), "leads to"),
    "source-on-localhost-ftp": (fields(video_url=f"ftp://{CANARY}/"), "ftp: addresses"),
    "source-metadata": (fields(video_url="http://169.254.169.254/"), "no public address"),
    "source-a-file": (fields(video_url="file:///etc/passwd"), "file: addresses"),
    "source-of-9000-characters": (fields(video_url=f"{URL}?{'a' * 9000}"), "at most 8192"),
    "upload-of-nothing": (fields(video_url="upload:"), "no reference to an upload"),
    "upload-of-a-path": (fields(video_url="upload:../../etc/passwd"), "no reference to an upload"),
    "upload-with-folders": (fields(video_url=f"upload:{'0' * 64}/../x"), "no reference to an up"),
    "upload-unknown": (fields(video_url=f"upload:{'0' * 64}/a.mp4"), "there is no upload"),
    "upload-in-capitals": (fields(video_url=f"upload:{'A' * 64}"), "no reference to an upload"),
    "path": (b'{"video_path": "/etc/passwd"}', "local files are off"),
    "path-with-a-nul": (b'{"video_path": "/etc/\\u0000passwd"}', "local files are off"),
    "path-of-a-surrogate": (b'{"video_path": "/\\ud800"}', "local files are off"),
    "path-and-url": (fields(video_path="/etc/passwd"), "exactly one source"),
    "base64-bad": (b'{"video_base64": "!!!!"}', "video_base64 is not base64"),
    "base64-unpadded": (b'{"video_base64": "AAAAA"}', "video_base64 is not base64"),
    "base64-after-padding": (b'{"video_base64": "AA==AAAA"}', "video_base64 is not base64"),
    "base64-twice": (b'{"video_base64": "AAAA", "video_base64": "AAAA"}', "given twice"),
    "base64-a-number": (b'{"video_base64": 7}', "video_base64: Input should be a valid string"),
    "base64-null": (b'{"video_base64": null}', "exactly one source"),
    "base64-url-alphabet": (b'{"video_base64": "_-_-"}', "video_base64 is not base64"),
    "base64-bad-escape": (b'{"video_base64": "\\u00zz"}', "not base64"),
    "base64-and-url": (fields(video_base64="AAAA"), "exactly one source is needed, got the bytes"),
    "base64-without-end": (b'{"video_base64": "AAAA', "the body is not JSON"),
    "base64-and-bad-option": (b'{"video_base64": "AAAA", "crf": 99}', "crf: Input should be less"),
    "resolution-unknown": (fields(resolution="8k"), "resolution: "),
    "resolution-a-number": (fields(resolution=1080), "resolution: "),
    "resolution-a-list": (fields(resolution=["720p"]), "resolution: "),
    "model-unknown": (fields(model="gpt"), "model: choose one of"),
    "model-a-path": (fields(model="../../etc/passwd"), "model: choose one of"),
    "model-of-a-surrogate": (b'{"video_url":"%b","model":"\\ud800"}' % URL.encode(), "model: "),
    "model-null-byte": (fields(model="span\0"), "model: choose one of"),
    "batch-0": (fields(batch_size=0), "batch_size: Input should be greater"),
    "batch-negative": (fields(batch_size=-1), "batch_size: Input should be greater"),
    "batch-huge": (fields(batch_size=10**9), "batch_size: Input should be less"),
    "batch-of-4000-digits": (fields(batch_size=int(DIGITS)), "batch_size: "),
    "batch-text-of-4000-digits": (fields(batch_size=DIGITS), "batch_size: "),
    "batch-a-fraction": (fields(batch_size=1.5), "batch_size: Input should be a valid integer"),
    "batch-nan": (b'{"video_url":"%b","batch_size":NaN}' % URL.encode(), "batch_size: "),
    "batch-infinite": (b'{"video_url":"%b","batch_size":1e999}' % URL.encode(), "batch_size: "),
    "overlap-too-large": (fields(batch_size=5, temporal_overlap=5), "overlap"),
    "seed-negative": (fields(seed=-1), "seed: "),
    "seed-2-64": (fields(seed=2**64), "seed: "),
    "seed-of-4000-digits": (fields(seed=int(DIGITS)), "seed: "),
    "crf-99": (fields(crf=99), "crf: "),
    "preset-unknown": (fields(preset="placebo; rm -rf /"), "preset: "),
    "color-unknown": (fields(color_correction="x"), "color_correction: "),
    "stitch-unknown": (fields(stitch_mode="x"), "stitch_mode: "),
    "fresh-no-truth": (fields(fresh="maybe"), "fresh: "),
    "callback-on-loopback": (fields(callback_url=f"http://{CANARY}/"), "callback_url: "),
    "callback-a-file": (fields(callback_url="file:///etc/passwd"), "callback_url: file: addresses"),
    "callback-with-a-user": (fields(callback_url="http://a:b@c.test/"), "user name or password"),
    "callback-of-a-surrogate": (
        b'{"video_url":"%b","callback_url":"http://\\ud800/"}' % URL.encode(), "callback_url: "
    ),
    "callback-a-number": (fields(callback_url=7), "callback_url: "),
}  # fmt: skip


@pytest.mark.parametrize("address", ["/upscale", "/plan"])
@pytest.mark.parametrize(("body", "words"), cases(BODIES))
def test_json(victim: Victim, canary: Canary, body: bytes, words: str, address: str) -> None:
    body = body.replace(CANARY.encode(), f"127.0.0.1:{canary.port}".encode())
    told = victim.ask("POST", address, body, "application/json")
    assert told.status == 422, told.body
    assert words in told.detail
    assert len(told.detail) <= 2000
