"""Reads the body of POST /upscale while it arrives: JSON, a multipart form, or the video itself.

A video is written to disk as it arrives, and the request then holds a reference (upload:...) to the
file. Little stays in memory, whatever a caller sends. Parsing and writing run in threads, so that
the event loop can answer other callers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from deployments.gateway.base64_json import JsonReader
from deployments.gateway.quota import Arrival
from seedvr2_core.errors import InvalidRequestError
from tasks.net.answers import whole_number
from tasks.settings import Settings
from tasks.sources.download import disk_errors
from tasks.sources.uploads import PartFile, upload_reference

MAX_FIELDS_BYTES = 65_536
"""Limit of all fields together, without the video."""
MAX_BOUNDARY = 70
"""Characters between the parts of a form, by RFC 2046."""
_BUFFER_BYTES = 2**20
P = ParamSpec("P")
R = TypeVar("R")
_SOURCES = ("video_url", "video_path", "video_base64")


class Upload:
    """The file that an arriving video is written to; it is created with the first byte."""

    def __init__(self, settings: Settings, arrival: Arrival) -> None:
        self._settings = settings
        self._arrival = arrival
        self._part: PartFile | None = None
        self._named: Path | None = None

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            HTTPException: 413, the video is larger than fetch_max_bytes of the settings.
            ResourceError: there is no room for it.
        """
        if self._arrival.num_bytes + len(data) > self._settings.fetch_max_bytes:
            raise too_large(self._settings)
        self._arrival.add(len(data))
        if self._part is None:
            self._part = PartFile(self._settings.intake_dir)
        self._part.write(data)

    def publish(self, name: str) -> str | None:
        """Rename the file to intake/<sha256>; returns its reference, or None if no byte arrived."""
        if self._part is None or self._part.num_bytes == 0:
            return None
        sha256 = self._part.sha256
        target = self._settings.intake_dir / sha256
        self._arrival.videos.publish(self._part, target)
        self._named = target
        return upload_reference(sha256, name or f"upload-{sha256[:8]}")

    def keep(self) -> None:
        """The request was accepted: the video stays, and counts for its caller."""
        if self._named is not None:
            self._arrival.keep(self._named.name)
            self._arrival.videos.keep(self._named)
            self._named = None

    def retract(self) -> None:
        """The request was refused: remove the video, unless others have sent the same one."""
        if self._named is not None:
            self._arrival.videos.retract(self._named)
            self._named = None

    def close(self) -> None:
        """Remove the file unless it has been published."""
        if self._part is not None:
            self._part.close()


@dataclass(frozen=True, slots=True)
class Body:
    """A body that has been read."""

    fields: dict[str, Any]
    """The request's fields; a video that was sent is a reference in `video_url`."""
    upload: Upload
    """The video's file. Whoever judges the request calls its `keep` or its `retract`."""


class BodyReader(Protocol):
    """Parses a body that is handed over in pieces."""

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        ...

    def finish(self) -> dict[str, Any]:
        """Return the fields, `filename` among them, once the whole body has been fed."""
        ...


async def read_body(request: Request, settings: Settings, arrival: Arrival) -> Body:
    """Read a request's body; a video in it becomes a reference.

    Raises:
        InvalidRequestError: the body cannot be read, or it holds more than one source.
        ResourceError: there is no room for the video.
        HTTPException: 400 the body ends early, 408 it is too slow, 413 too large, 415 of a type
            that we do not take.
    """
    _check_length(request, settings, arrival)
    upload = Upload(settings, arrival)
    reader = _reader(request, upload)
    try:
        with disk_errors(settings):
            try:
                async with asyncio.timeout(settings.fetch_seconds):
                    await _feed_body(request, reader.feed)
            except ClientDisconnect as error:
                raise HTTPException(400, "the body ended early; send the request again") from error
            except TimeoutError as error:
                raise HTTPException(
                    408,
                    f"the body took longer than {settings.fetch_seconds:g} s; send it faster",
                ) from error
            fields = await in_thread(reader.finish)
            name = str(fields.pop("filename", None) or "")
            reference = await in_thread(upload.publish, name)
        return Body(_with_upload(fields, reference), upload)
    except BaseException:
        await asyncio.to_thread(upload.retract)
        raise
    finally:
        await asyncio.to_thread(upload.close)


def too_large(settings: Settings) -> HTTPException:
    """The answer to a video that is too large."""
    return HTTPException(
        413, f"the video is larger than {settings.fetch_max_bytes} bytes, the limit of this gateway"
    )


def _with_upload(fields: dict[str, Any], reference: str | None) -> dict[str, Any]:
    """Add a sent video's reference to the fields as their source."""
    if reference is None:
        return fields
    if given := [name for name in _SOURCES if fields.get(name)]:
        raise InvalidRequestError(
            f"exactly one source is needed, got the bytes of a video and {', '.join(given)}"
        )
    return {**fields, "video_url": reference}


def _check_length(request: Request, settings: Settings, arrival: Arrival) -> None:
    """Refuse a body whose declared length is too large, before any of it is read.

    base64 is a third larger than the video that it holds.
    """
    declared = whole_number(request.headers.get("content-length", "")) or 0
    if declared > settings.fetch_max_bytes * 4 // 3 + 2 * MAX_FIELDS_BYTES:
        raise too_large(settings)
    if declared > MAX_FIELDS_BYTES:
        arrival.check(declared * 3 // 4)


def _reader(request: Request, upload: Upload) -> BodyReader:
    """Choose the reader for the request's content type."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    whole = kind.startswith((b"video/", b"image/")) or kind == b"application/octet-stream"
    if request.method == "PUT" or whole:
        return _RawReader(request, upload)
    if kind == b"application/json":
        return JsonReader(upload.write, max_bytes=MAX_FIELDS_BYTES)
    if kind == b"multipart/form-data":
        return _FormReader(_boundary(options), upload)
    raise HTTPException(
        415,
        f"got a body of type {kind.decode('latin-1')[:80]!r}; expected application/json, "
        "multipart/form-data, video/*, image/* or application/octet-stream",
    )


def _boundary(options: dict[bytes, bytes]) -> bytes:
    """The boundary of a form.

    Raises:
        InvalidRequestError: there is none, or it is none that RFC 2046 allows.
    """
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= MAX_BOUNDARY or not boundary.isascii():
        raise InvalidRequestError(
            f"the form's boundary has {len(boundary)} characters; expected 1 to {MAX_BOUNDARY} "
            "ASCII characters in the header Content-Type"
        )
    return boundary


async def _feed_body(request: Request, feed: Callable[[bytes], None]) -> None:
    """Hand the body to `feed` in pieces of about 1 MiB."""
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _BUFFER_BYTES:
            await in_thread(feed, bytes(buffer))
            buffer.clear()
    await in_thread(feed, bytes(buffer))


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call the function in a thread, and go on only when that has ended.

    A request whose time is over would otherwise close its file while a thread still writes it or
    gives it its name, and that file would stay without anybody's knowing of it.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise


class _RawReader:
    """Reads a body that is the video itself; the fields are in the query."""

    def __init__(self, request: Request, upload: Upload) -> None:
        self._fields: dict[str, Any] = dict(request.query_params)
        if name := request.path_params.get("filename"):
            self._fields["filename"] = name
        self._empty = True
        self._upload = upload

    def feed(self, data: bytes) -> None:
        if data:
            self._empty = False
            self._upload.write(data)

    def finish(self) -> dict[str, Any]:
        if self._empty:
            raise InvalidRequestError("the body is empty; expected the bytes of a video file")
        return self._fields


class _FormReader:
    """Reads a multipart form: one of its parts is the video, the others are fields."""

    def __init__(self, boundary: bytes, upload: Upload) -> None:
        self._upload = upload
        self._values: dict[str, bytearray] = {}
        self._size = 0
        self._headers: dict[bytes, bytes] = {}
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._field: str | None = None
        self._filename: str | None = None
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": lambda data, start, end: self._name(data[start:end]),
                "on_header_value": lambda data, start, end: self._value(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_part,
                "on_part_data": lambda data, start, end: self._data(data[start:end]),
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequestError(f"the form cannot be read: {error}") from error

    def finish(self) -> dict[str, Any]:
        if not self._ended:
            raise InvalidRequestError(
                "the form ends before its last boundary; send the request again"
            )
        try:
            fields: dict[str, Any] = {k: v.decode() for k, v in self._values.items()}
        except UnicodeDecodeError as error:
            raise InvalidRequestError("a field of the form is not UTF-8 text") from error
        return {"filename": self._filename, **fields}

    # The methods below are callbacks of the parser.

    def _name(self, data: bytes) -> None:
        self._count(data)
        self._header[0].extend(data)

    def _value(self, data: bytes) -> None:
        self._count(data)
        self._header[1].extend(data)

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _begin_part(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or (b"name" not in options and b"filename" not in options):
            raise InvalidRequestError(
                "a part of the form has no name; expected Content-Disposition: form-data; "
                'name="FIELD", or filename="FILE" for the video'
            )
        self._field = None
        if b"filename" in options:
            if self._filename is not None:
                raise InvalidRequestError("the form holds two files; expected one video")
            self._filename = options[b"filename"].decode("utf-8", "replace")
            return
        self._field = options[b"name"].decode("utf-8", "replace")
        if self._field in self._values:
            raise InvalidRequestError(f"the form's field {self._field[:80]!r} is given twice")
        self._values[self._field] = bytearray()

    def _data(self, data: bytes) -> None:
        if self._field is None:
            self._upload.write(data)
        else:
            self._count(data)
            self._values[self._field].extend(data)

    def _count(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_FIELDS_BYTES:
            raise HTTPException(413, f"the form's fields hold more than {MAX_FIELDS_BYTES} bytes")

    def _end(self) -> None:
        self._ended = True
