"""POST /uploads, and HEAD, PATCH and DELETE of one: uploads that go on after an interruption.

They follow tus 1.0, so its clients work with them. A whole upload is named in a request's
`video_url` by the reference that the answer holds; POST /upscale and PUT /upscale/NAME still take a
video at once.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakValueDictionary

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Request, Response
from starlette.requests import ClientDisconnect

from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.body import in_thread, too_large
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.quota import Arrival, Quota
from deployments.gateway.routes.docs import json_refusals
from deployments.gateway.uploads import headers as tus
from deployments.gateway.uploads.kept import KeptUpload, Note, Uploads
from deployments.gateway.uploads.protocol import BODY_TYPE, VERSION
from seedvr2_core.errors import InvalidVideoError
from tasks.net.answers import whole_number
from tasks.settings import Settings
from tasks.sources.download import disk_errors

if TYPE_CHECKING:
    from hashlib import _Hash

_BUFFER_BYTES = 2**20
_REFUSALS = json_refusals(problems(*WITH_TOKEN, 400, 404, 408, 409, 410, 412, 413, 415, 429, 507))
_BEGUN = {"Location": "Address of the upload, relative to this one's folder.", **tus.TOLD}
_LOOKED = {
    **tus.TOLD,
    "Upload-Length": "How many bytes it will have.",
    "Upload-Metadata": "As it was sent.",
}
UploadId = Annotated[str, Path(description="The end of the upload's address.")]


def add_uploads(
    app: FastAPI, settings: Settings, quota: Quota, uploads: Uploads, authenticate: Authenticate
) -> None:
    """Add the addresses of uploads."""
    app.add_middleware(tus.TusHeaders)
    serving = _Serving(settings, quota, uploads)

    @app.options("/uploads", status_code=204, include_in_schema=False)
    async def abilities() -> Response:
        return Response(
            status_code=204,
            headers={
                "Tus-Version": VERSION,
                "Tus-Extension": tus.EXTENSIONS,
                "Tus-Max-Size": str(settings.fetch_max_bytes),
                "Tus-Checksum-Algorithm": ",".join(tus.ALGORITHMS),
            },
        )

    @app.post("/uploads", status_code=201, response_class=Response, responses=_answers(201, _BEGUN))
    async def create(
        request: Request, caller: Annotated[Caller, Depends(authenticate)]
    ) -> Response:
        """Begin an upload by tus 1.0; its address is in `Location`, its length in `Upload-Length`.

        `Upload-Metadata` may hold `filename`. Where it holds a `fingerprint` as well, and an upload
        of the same file was begun with it, that one is found again: ask for its offset by HEAD.
        """
        return await serving.create(request, caller)

    @app.head("/uploads/{upload_id}", response_class=Response, responses=_answers(200, _LOOKED))
    async def look(
        upload_id: UploadId, request: Request, caller: Annotated[Caller, Depends(authenticate)]
    ) -> Response:
        """Tell in `Upload-Offset` how many bytes have come.

        Once all have, `Upload-Video-Url` is what a request says in `video_url`, percent-encoded.
        """
        return await serving.look(upload_id, request, caller)

    @app.patch("/uploads/{upload_id}", status_code=204, responses=_answers(204, tus.TOLD))
    async def append(
        upload_id: UploadId, request: Request, caller: Annotated[Caller, Depends(authenticate)]
    ) -> Response:
        """Send the bytes from `Upload-Offset` on. What has come before a connection breaks stays.

        With `Upload-Checksum` (sha1 or sha256) the bytes stay only if they have this digest; else
        the answer is 460.
        """
        return await serving.append(upload_id, request, caller)

    @app.delete("/uploads/{upload_id}", status_code=204, responses=_REFUSALS)
    async def remove(
        upload_id: UploadId, request: Request, caller: Annotated[Caller, Depends(authenticate)]
    ) -> Response:
        """Remove an upload. A whole one stays for the jobs that name it."""
        return await serving.remove(upload_id, request, caller)

    _add_override(app, serving, authenticate)


def _answers(status: int, headers: dict[str, str]) -> dict[int | str, dict[str, Any]]:
    """The declaration of an address whose good answer is headers alone; with its refusals."""
    told = {name: {"description": m, "schema": {"type": "string"}} for name, m in headers.items()}
    return {status: {"headers": told}, **_REFUSALS}


def _add_override(app: FastAPI, serving: "_Serving", authenticate: Authenticate) -> None:
    """Add POST to an upload, for clients that cannot send PATCH."""

    @app.post("/uploads/{upload_id}", include_in_schema=False)
    async def override(
        upload_id: UploadId,
        request: Request,
        caller: Annotated[Caller, Depends(authenticate)],
        x_http_method_override: Annotated[str, Header()] = "",
    ) -> Response:
        calls = {"PATCH": serving.append, "DELETE": serving.remove, "HEAD": serving.look}
        call = calls.get(x_http_method_override.upper())
        if call is None:
            raise HTTPException(405, "send PATCH, HEAD or DELETE to an upload")
        return await call(upload_id, request, caller)


class _Serving:
    """Answers requests about uploads."""

    def __init__(self, settings: Settings, quota: Quota, uploads: Uploads) -> None:
        self._settings, self._quota, self._uploads = settings, quota, uploads
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._limits: dict[str, asyncio.Timeout] = {}

    async def create(self, request: Request, caller: Caller) -> Response:
        """POST."""
        tus.check_version(request)
        length = tus.number_in(request, "Upload-Length")
        raw, values = tus.metadata_in(request)
        if length > self._settings.fetch_max_bytes:
            raise too_large(self._settings)
        if length == 0:
            raise InvalidVideoError("the file is empty (0 bytes), not a video")
        name = values.get("filename") or values.get("name") or "video"
        note = Note(
            owner=caller.name,
            length=length,
            name=name,
            metadata=raw,
            fingerprint=values.get("fingerprint", ""),
        )
        with disk_errors(self._settings), self._quota.count(caller) as arrival:
            upload = await in_thread(self._begin, note, arrival)
        told = tus.told_of(upload, self._uploads.expires_at(upload))
        # Relative, so that a proxy may put the gateway under any path.
        return Response(status_code=201, headers={"Location": f"uploads/{upload.id}", **told})

    def _begin(self, note: Note, arrival: Arrival) -> KeptUpload:
        upload = self._uploads.find_begun(note)
        if upload is None:
            arrival.check(note.length)
            upload = self._uploads.create(note)
        return upload

    async def look(self, name: str, request: Request, caller: Caller) -> Response:
        """HEAD. What is whole and has no name yet, because the gateway was killed, gets it now."""
        tus.check_version(request)
        async with self._turn(name, caller) as upload:
            with disk_errors(self._settings), self._quota.count(caller) as arrival:
                await in_thread(upload.complete, self._settings, arrival)
            told = tus.told_of(upload, self._uploads.expires_at(upload))
        told["Upload-Length"] = str(upload.note.length)
        if upload.note.metadata:
            told["Upload-Metadata"] = upload.note.metadata
        return Response(status_code=200, headers=told)

    async def append(self, name: str, request: Request, caller: Caller) -> Response:
        """PATCH."""
        tus.check_version(request)
        if request.headers.get("content-type", "") != BODY_TYPE:
            raise HTTPException(415, f"expected the header Content-Type: {BODY_TYPE}")
        given, checksum = tus.number_in(request, "Upload-Offset"), tus.checksum_in(request)
        async with self._turn(name, caller) as upload:
            begun = upload.offset
            if given != begun:
                raise HTTPException(
                    409, f"the upload has {begun} bytes, got Upload-Offset {given}; go on there"
                )
            declared = whole_number(request.headers.get("content-length", "")) or 0
            if declared > upload.note.length - begun:
                raise _too_many(upload)
            with disk_errors(self._settings), self._quota.count(caller) as arrival:
                try:
                    await _take(request, upload, arrival, checksum and checksum[0])
                finally:
                    await in_thread(upload.sync)
                    if checksum and not hmac.compare_digest(checksum[0].digest(), checksum[1]):
                        await in_thread(upload.cut, begun)
                        raise HTTPException(
                            460,
                            "the bytes have another digest than Upload-Checksum; send them again",
                        )
                await in_thread(upload.complete, self._settings, arrival)
            told = tus.told_of(upload, self._uploads.expires_at(upload))
        return Response(status_code=204, headers=told)

    async def remove(self, name: str, request: Request, caller: Caller) -> Response:
        """DELETE."""
        tus.check_version(request)
        async with self._turn(name, caller) as upload:
            with disk_errors(self._settings):
                await in_thread(self._uploads.remove, upload)
        return Response(status_code=204)

    @asynccontextmanager
    async def _turn(self, name: str, caller: Caller) -> AsyncIterator[KeptUpload]:
        """Have an upload for oneself.

        A request of the same upload that still waits for bytes is ended: its caller has lost the
        connection and asks anew, while the server may not know that for minutes.

        Raises:
            HTTPException: 404, 410; 408, another request came, or this one took too long.
        """
        await in_thread(self._uploads.find, name, caller.name)
        if limit := self._limits.get(name):
            limit.reschedule(asyncio.get_running_loop().time())
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            try:
                async with asyncio.timeout(self._settings.fetch_seconds) as limit:
                    self._limits[name] = limit
                    yield await in_thread(self._uploads.find, name, caller.name)
            except TimeoutError as error:
                raise HTTPException(
                    408, "the upload took too long, or goes on in another request; ask by HEAD"
                ) from error
            finally:
                del self._limits[name]


async def _take(
    request: Request, upload: KeptUpload, arrival: Arrival, digest: "_Hash | None"
) -> None:
    """Append a request's body to an upload; what has come stays, whatever ends it.

    Raises:
        HTTPException: 400, the body ended early; 413, it is longer than was announced.
        ResourceError: there is no room for it.
    """
    buffer = bytearray()

    def write() -> None:
        data = bytes(buffer)
        buffer.clear()
        if upload.offset + len(data) > upload.note.length:
            raise _too_many(upload)
        arrival.check_disk(len(data))
        upload.append(data)
        if digest is not None:
            digest.update(data)

    try:
        async for chunk in request.stream():
            buffer += chunk
            if len(buffer) >= _BUFFER_BYTES:
                await in_thread(write)
    except ClientDisconnect as error:
        raise HTTPException(400, "the body ended early; ask by HEAD where to go on") from error
    finally:
        if buffer:
            await in_thread(write)


def _too_many(upload: KeptUpload) -> HTTPException:
    return HTTPException(413, f"the upload was announced with {upload.note.length} bytes")
