"""What the fuzzers feed: each target takes any bytes and raises only when the code is at fault.

A target hands the bytes to code that reads what strangers or bad disks wrote. That code may refuse
them with the errors its docstring names; the target lets those pass. Everything else is a finding.
"""

import asyncio
import contextlib
import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.types import Message

from deployments.edge import create_app
from deployments.gateway.auth import Caller
from deployments.gateway.base64_json import JsonReader
from deployments.gateway.body import MAX_FIELDS_BYTES, read_body
from deployments.gateway.quota import Quota
from seedvr2_core.errors import CheckpointError, InvalidRequestError, SegmentError
from seedvr2_core.files import read_record
from seedvr2_core.files.mp4_index import most_indexed
from seedvr2_core.job.sidecar import Sidecar
from seedvr2_core.planning import Plan, build_plan
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.weights.reader import open_reader
from tasks.settings import Settings
from tests.kits.factories import make_info, make_options

Target = Callable[[bytes], None]

SERVED = bytes(range(256)) * 4
"""The file that the edge serves to `range_header`."""


@cache
def folder() -> Path:
    """A folder of this process for the files that targets write."""
    return Path(tempfile.mkdtemp(prefix="seedvr2-fuzz-"))


def _file(data: bytes) -> Path:
    path = folder() / "input"
    path.write_bytes(data)
    return path


def records(data: bytes) -> None:
    """Probe records, plans and sidecars: valid, or refused as SegmentError."""
    path = _file(data)
    for kind in (VideoInfo, Plan, PlanOutline, Sidecar):
        with contextlib.suppress(SegmentError):
            read_record(path, kind)


def mp4_index(data: bytes) -> None:
    """The index of an mp4: a count, whatever the boxes say."""
    assert most_indexed(_file(data)) >= 0


def weights(data: bytes) -> None:
    """Headers of weights files in all formats: names and shapes, or a CheckpointError."""
    with contextlib.suppress(CheckpointError):
        open_reader(_file(data)).close()


def json_body(data: bytes) -> None:
    """A JSON body: it gives the same fields and the same video in whatever pieces it arrives."""
    whole = _read_json([data])
    size = 1 + sum(data[:1]) % 7
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert _read_json(pieces) == whole


def _read_json(pieces: list[bytes]) -> tuple[str, bytes]:
    """The fields as text and the video, or the refusal's kind."""
    video = bytearray()
    reader = JsonReader(video.extend, max_bytes=MAX_FIELDS_BYTES)
    try:
        for piece in pieces:
            reader.feed(piece)
        return json.dumps(reader.finish()), bytes(video)
    except (InvalidRequestError, HTTPException) as error:
        return type(error).__name__, b""


def any_body(data: bytes) -> None:
    """A body of any content type: the first line is the header, the rest the body."""
    kind, _, body = data.partition(b"\n")

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", kind)],
        "query_string": b"",
        "path_params": {},
    }
    settings = Settings(work_dir=folder())
    try:
        with Quota(settings).count(Caller("local", sees_all=False)) as arrival:
            asyncio.run(read_body(Request(scope, receive), settings, arrival))
    except InvalidRequestError:
        return
    except HTTPException as error:
        status = error.status_code
    else:
        status = 200
    assert status == 200 or 400 <= status < 500, status


@cache
def _edge() -> Any:
    root = folder() / "edge"
    root.mkdir(exist_ok=True)
    (root / "file.mp4").write_bytes(SERVED)
    return create_app(root, zone="local", key=None)


def range_header(data: bytes) -> None:
    """A Range header at the edge: the asked bytes, the whole file, or a refusal; never an error."""
    status, headers, body = asyncio.run(_get(b"/file.mp4", data))
    assert status in (200, 206, 400, 416), status
    if status == 200:
        assert body == SERVED
    if status == 206 and headers[b"content-type"] == b"video/mp4":
        span, _, total = headers[b"content-range"].removeprefix(b"bytes ").partition(b"/")
        first, _, last = span.partition(b"-")
        assert int(total) == len(SERVED)
        assert body == SERVED[int(first) : int(last) + 1]


async def _get(path: bytes, asked: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """GET a path from the edge with a Range header; status, headers and body."""
    sent: list[Message] = []
    asked_for = 0

    async def receive() -> Message:
        nonlocal asked_for
        asked_for += 1
        if asked_for > 1:  # the caller stays until everything is sent
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path.decode(),
        "raw_path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"range", asked)],
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 1),
    }
    await _edge()(scope, receive, send)
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    return sent[0]["status"], dict(sent[0]["headers"]), body


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (records, mp4_index, weights, json_body, any_body, range_header)
}


def seeds(name: str) -> Iterator[bytes]:
    """Inputs from which a target's fuzzing begins: what it reads in real life, and near misses."""
    yield b""
    yield from _SEEDS[name]
    if name == "records":
        info = make_info(pts=tuple(range(5)))
        for record in (info, build_plan(info, "0" * 64, make_options())):
            yield TypeAdapter(type(record)).dump_json(record)


def _safetensors(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


_VIDEO_TRACK = _box(
    b"trak",
    _box(b"tkhd", bytes(12) + (1).to_bytes(4, "big"))
    + _box(b"hdlr", bytes(8) + b"vide")
    + _box(b"stsz", bytes(8) + (10**9).to_bytes(4, "big")),
)
_RUN = _box(
    b"traf",
    _box(b"tfhd", bytes(4) + (1).to_bytes(4, "big"))
    + _box(b"trun", bytes(4) + (10**9).to_bytes(4, "big")),
)
_FORM = (
    b"multipart/form-data; boundary=x\n--x\r\nContent-Disposition: form-data; name=resolution\r\n"
    b"\r\n720p\r\n--x\r\nContent-Disposition: form-data; name=file; filename=a.mp4\r\n\r\nbytes\r\n"
    b"--x--\r\n"
)
_GGUF = b"GGUF" + struct.pack("<I", 3)
_GGUF_KEY = struct.pack("<Q", 1) + b"k" + struct.pack("<IIQQ", 9, 8, 1, 2) + b"ab"
_GGUF_TENSOR = struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 32, 1, 8, 0)
_TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
_SEEDS: dict[str, tuple[bytes, ...]] = {
    "records": (
        b"{}",
        b"[]",
        b"null",
        b'{"pts": [1e400], "width": -1, "time_base": [1, 0]}',
        b'{"pts": ' + b"[" * 2000,
        b'{"width": 1' + b"0" * 5000 + b"}",
        b'\xff\xfe{"a": "\\ud800"}',
    ),
    "mp4_index": (
        _box(b"ftyp", b"isom") + _box(b"moov", _VIDEO_TRACK),
        _box(b"ftyp", b"isom") + _box(b"moov", _VIDEO_TRACK * 3) + _box(b"moof", _RUN),
        _box(b"moof", _RUN) + _box(b"moov", _VIDEO_TRACK),
        b"\x00\x00\x00\x01moov" + b"\xff" * 8 + _VIDEO_TRACK,
        b"\x00\x00\x00\x00moov" + _VIDEO_TRACK,
    ),
    "weights": (
        _safetensors({"a": _TENSOR, "__metadata__": {"k": "v"}}, bytes(8)),
        _safetensors({"a": {**_TENSOR, "shape": [2**62, 2**62]}}, bytes(8)),
        _safetensors({"a": {**_TENSOR, "shape": [[]]}}, bytes(8)),
        _safetensors(b'{"a":' + b"[" * 5000, b""),
        _safetensors(b'{"a": 1' + b"0" * 5000 + b"}", b""),
        (2**63).to_bytes(8, "little") + b"{",
        b"\x01\x00\x00\x00\x00\x00\x00\x00{",
        b"PK\x03\x04",
        b"\x80\x02}q\x00.",
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"GGUF",
        _GGUF + struct.pack("<QQ", 1, 0) + _GGUF_TENSOR + bytes(64),
        _GGUF + struct.pack("<QQ", 1, 1) + _GGUF_KEY + _GGUF_TENSOR + bytes(64),
        _GGUF + struct.pack("<QQ", 2**62, 2**62) + _GGUF_KEY * 3,
    ),
    "json_body": (
        b'{"video_base64": "AAAA", "resolution": "720p"}',
        b'{"video_base64": "data:video/mp4;base64,AA\\u003d\\u003d"}',
        b'{"a": {"video_base64": "x"}, "video_base64": "AAAA", "video_base64": "AAAA"}',
        b'["video_base64", "AAAA"]',
        b'{"a": ' + b"[" * 3000,
        b'{"seed": 1' + b"0" * 5000 + b"}",
        b'{"video_base64": "AA\\',
    ),
    "any_body": (
        _FORM,
        _FORM.replace(b"filename=a.mp4", b'filename*=utf-8\'\'%ff%00; filename="a\\"b"'),
        _FORM.replace(b"boundary=x", b"boundary=" + b"x" * 5000),
        _FORM.replace(b"boundary=x", b"boundary="),
        b'application/json; charset=utf-7\n{"video_url": "https://example.org/a.mp4"}',
        b"video/mp4\nbytes",
        b"\xff\xfe; =\n",
    ),
    "range_header": (
        b"bytes=0-1",
        b"bytes=-5",
        b"bytes=1000-",
        b"bytes=0-0,5-6,100-",
        b"bytes=" + b"1" * 5000 + b"-",
        b"bytes=9-1",
        b"bytes=" + b"0-0," * 2000,
        b"lines=1-2",
        b"bytes=\xb2-\xb3",
        b"bytes=1_0-2_0",
    ),
}
