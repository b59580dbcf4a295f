"""The headers of tus 1.0 (https://tus.io/protocols/resumable-upload), read and written."""

import base64
import binascii
import hashlib
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastapi import HTTPException, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.gateway.uploads.kept import KeptUpload
from deployments.gateway.uploads.protocol import REFERENCE, VERSION
from tasks.net.answers import whole_number

if TYPE_CHECKING:
    from hashlib import _Hash

EXTENSIONS = "creation,termination,expiration,checksum"
ALGORITHMS: dict[str, Callable[[], "_Hash"]] = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
TOLD = {
    "Upload-Offset": "How many bytes have come.",
    "Upload-Expires": "When the upload is removed if nothing more of it comes.",
    REFERENCE: "Once all bytes have come: what a request says in `video_url`, percent-encoded.",
}
"""Headers of every good answer about an upload, and what they mean."""
_MAX_METADATA = 4096


class TusHeaders:
    """Names the protocol's version in every answer of an upload, refusals included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Tus-Resumable"] = VERSION
                headers["Cache-Control"] = "no-store"
            await send(message)

        ours = scope["type"] == "http" and scope["path"].startswith("/uploads")
        await self._app(scope, receive, tell if ours else send)


def check_version(request: Request) -> None:
    """Refuse a client of another version.

    Raises:
        HTTPException: 412.
    """
    if request.headers.get("tus-resumable") != VERSION:
        raise HTTPException(
            412,
            f"expected the header Tus-Resumable: {VERSION}, the version that is spoken here",
            headers={"Tus-Version": VERSION},
        )


def number_in(request: Request, header: str) -> int:
    """A header that must hold a whole number.

    Raises:
        HTTPException: 400, it does not.
    """
    given = request.headers.get(header, "")
    number = whole_number(given)
    if number is None:
        raise HTTPException(400, f"{header} must be a whole number of bytes, got {given[:40]!r}")
    return number


def metadata_in(request: Request) -> tuple[str, dict[str, str]]:
    """Upload-Metadata as it was sent, and its values by their keys.

    Raises:
        HTTPException: 400, it is not as the protocol says.
    """
    raw = request.headers.get("upload-metadata", "")
    if len(raw) > _MAX_METADATA or not raw.isascii() or not raw.isprintable():
        raise _bad_metadata(f"at most {_MAX_METADATA} printable characters of ASCII")
    values: dict[str, str] = {}
    for pair in filter(None, (one.strip() for one in raw.split(","))):
        key, _, encoded = pair.partition(" ")
        if key in values:
            raise _bad_metadata(f"{key[:40]!r} once")
        try:
            values[key] = base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            raise _bad_metadata(f"base64 after {key[:40]!r}") from None
    return raw, values


def _bad_metadata(expected: str) -> HTTPException:
    return HTTPException(400, f"Upload-Metadata cannot be read; expected {expected}")


def checksum_in(request: Request) -> tuple["_Hash", bytes] | None:
    """A digest to begin and the value that it must have at the end; None: none is asked for.

    Raises:
        HTTPException: 400, the algorithm is not known, or the value is no base64.
    """
    given = request.headers.get("upload-checksum")
    if given is None:
        return None
    name, _, encoded = given.partition(" ")
    if name not in ALGORITHMS:
        raise HTTPException(400, f"Upload-Checksum must be by {' or '.join(ALGORITHMS)}")
    try:
        return ALGORITHMS[name](), base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(400, "the value of Upload-Checksum is no base64") from None


def told_of(upload: KeptUpload, expires_at: float) -> dict[str, str]:
    """The headers that say how far an upload is."""
    headers = {
        "Upload-Offset": str(upload.offset),
        "Upload-Expires": formatdate(expires_at, usegmt=True),
    }
    if upload.reference:
        headers[REFERENCE] = quote(upload.reference, safe=":/")
    return headers
