"""A small storage and CDN for one machine that speaks Bunny's HTTP API.

Storage side, /<zone>/<path> with the AccessKey: PUT (its Checksum is verified), DESCRIBE, DELETE.
Public side, /<path>: GET and HEAD with Range. Both show one folder; names that begin with a dot do
not exist. Files stream from and to disk. The same client code runs against Bunny.

    SEEDVR2_EDGE_KEY=... python -m deployments.edge --port 9000 --root DIR
"""

import asyncio
import contextlib
import errno
import hmac
import mimetypes
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from deployments.host.exits import exit_codes
from deployments.host.listen import run_server
from seedvr2_core.files import file_sha256
from tasks.settings import get_settings
from tasks.sources.uploads import PartFile, sweep_parts

MAX_NAME_BYTES = 255
_BUFFER_BYTES = 2**20
_MAX_DIGESTS = 10_000
_FULL = (errno.ENOSPC, errno.EDQUOT)
_Identity = tuple[str, int, int, int]


class Edge:
    """The folder, seen from both sides."""

    def __init__(self, root: Path, *, zone: str, key: SecretStr | None) -> None:
        """Serve this folder, which is made if need be; without a key nothing can be stored."""
        root.mkdir(parents=True, exist_ok=True)
        self._root = root.resolve()
        self._zone = zone
        self._key = key
        self._public = StaticFiles(directory=self._root)
        # Digests by path and what changes with the bytes: stored files are large and asked often.
        self._digests: dict[_Identity, str] = {}
        self._publishing = asyncio.Lock()
        sweep_parts(self._root)

    async def answer(self, request: Request) -> Response:
        """Any request: storage by method, else the public side."""
        storage = {"PUT": self._put, "DESCRIBE": self._describe, "DELETE": self._delete}
        try:
            if request.method in storage:
                return await storage[request.method](request, self._stored_path(request))
            return await self._get(request)
        except OSError as error:
            return _refused(error)
        except ClientDisconnect:
            return _told(400, "the body ended early")

    async def _get(self, request: Request) -> Response:
        """A file for everybody: Starlette answers ranges, validators and methods."""
        path = _inside(self._root, request.scope["path"].removeprefix("/"))
        if path is None:
            raise HTTPException(404)
        return await self._public.get_response(str(path.relative_to(self._root)), request.scope)

    async def _put(self, request: Request, path: Path) -> Response:
        """Store a file: streamed beside its name, its checksum compared, then named."""
        part = await asyncio.to_thread(PartFile, self._root)
        try:
            await _fill(part, request)
            wanted = request.headers.get("checksum")
            if wanted is not None and not hmac.compare_digest(
                wanted.encode(), part.sha256.upper().encode()
            ):
                return _told(400, "the checksum is not the body's SHA-256 in upper-case hex")
            # One at a time: the digest is this part's only while nobody else takes the name.
            async with self._publishing:
                await asyncio.to_thread(part.publish, path)
                with contextlib.suppress(FileNotFoundError):  # somebody may have deleted it
                    self._remember(_identity(path), part.sha256)
        finally:
            await asyncio.to_thread(part.close)
        return _told(201, "File uploaded.")

    async def _describe(self, request: Request, path: Path) -> Response:
        """What is stored, by the storage's own count."""
        if not path.is_file():
            return _told(404, "Object Not Found")
        status = path.stat()
        changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="milliseconds")
        folder = path.parent.relative_to(self._root).as_posix()
        return JSONResponse(
            {
                "Guid": str(uuid.uuid5(uuid.NAMESPACE_URL, str(path))),
                "StorageZoneName": self._zone,
                "Path": f"/{self._zone}/" + (f"{folder}/" if folder != "." else ""),
                "ObjectName": path.name,
                "Length": status.st_size,
                "Checksum": (await self._digest(path)).upper(),
                "ContentType": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
                "IsDirectory": False,
                "DateCreated": changed,
                "LastChanged": changed,
                "ReplicatedZones": None,
            }
        )

    async def _delete(self, request: Request, path: Path) -> Response:
        """Remove a file, or a folder with all that is in it."""
        if path.is_dir():
            await asyncio.to_thread(shutil.rmtree, path)
        elif path.is_file():
            path.unlink()
        else:
            return _told(404, "Object Not Found")
        return _told(200, "File deleted successfuly.")  # Bunny's own spelling

    async def _digest(self, path: Path) -> str:
        """SHA-256 of a file, read again whenever the file is another."""
        identity = _identity(path)
        if identity not in self._digests:
            self._remember(identity, await asyncio.to_thread(file_sha256, path))
        return self._digests[identity]

    def _remember(self, identity: _Identity, sha256: str) -> None:
        """Keep a file's digest."""
        if len(self._digests) >= _MAX_DIGESTS:
            self._digests.clear()
        self._digests[identity] = sha256

    def _stored_path(self, request: Request) -> Path:
        """The file a storage request means, if its key and zone are right.

        Bunny answers a wrong zone as it answers a wrong key.
        """
        zone, _, name = request.scope["path"].removeprefix("/").partition("/")
        given = request.headers.get("accesskey", "").encode()
        right = self._key.get_secret_value().encode() if self._key else b""
        if not right or not hmac.compare_digest(given, right) or zone != self._zone:
            raise HTTPException(401, "Unauthorized")
        path = _inside(self._root, name.removesuffix("/"))
        if path is None or (name.endswith("/") and request.method == "PUT"):
            raise HTTPException(400, "Bad Request: this cannot be the name of a stored file")
        return path


def create_app(root: Path, *, zone: str, key: SecretStr | None) -> Starlette:
    """The edge as an ASGI application."""
    edge = Edge(root, zone=zone, key=key)
    methods = ["GET", "HEAD", "PUT", "DESCRIBE", "DELETE"]
    return Starlette(
        routes=[Route("/{path:path}", edge.answer, methods=methods)],
        exception_handlers={HTTPException: _http_error},
    )


async def _fill(part: PartFile, request: Request) -> None:
    """Write a body as it comes, in large pieces and off the event loop."""
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _BUFFER_BYTES:
            await asyncio.to_thread(part.write, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(part.write, bytes(buffer))


def _identity(path: Path) -> _Identity:
    """What changes when a file gets other bytes."""
    status = path.stat()
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns


def _inside(root: Path, name: str) -> Path | None:
    """The path of a name below the root; None if it could lead elsewhere or is hidden."""
    pieces = name.split("/")
    if any(
        not piece
        or piece.startswith(".")
        or not piece.isprintable()
        or "\\" in piece
        or len(piece.encode(errors="surrogatepass")) > MAX_NAME_BYTES
        for piece in pieces
    ):
        return None
    path = root.joinpath(*pieces)
    return path if path.resolve().is_relative_to(root) else None


def _told(code: int, message: str) -> Response:
    """An answer as Bunny's storage words it."""
    return JSONResponse({"HttpCode": code, "Message": message}, status_code=code)


def _refused(error: OSError) -> Response:
    """What the file system said, as a status."""
    code = 507 if error.errno in _FULL else 400
    return _told(code, f"{error.strerror or error}")


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors on either side, in the same words."""
    assert isinstance(error, HTTPException)
    answer = _told(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


def main(
    root: Annotated[Path, typer.Option(help="Folder that is served.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    zone: Annotated[str, typer.Option(help="Name of the storage zone.")] = "local",
    parent: Annotated[int | None, typer.Option(help="End when this process does.")] = None,
) -> None:
    """Serve a folder as storage zone and CDN."""
    with exit_codes("stored files are kept"):
        app = create_app(root, zone=zone, key=get_settings().edge_key)
        run_server(app, "edge", host=host, port=port, parent=parent)


if __name__ == "__main__":
    typer.run(main)
