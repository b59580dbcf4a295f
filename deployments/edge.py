"""The edge: a small storage and file server for one machine that speaks Bunny's HTTP API.

Our storage client therefore works with the edge and with Bunny alike. The storage side is
/<zone>/<path> with the AccessKey: PUT (its Checksum is verified), DESCRIBE and DELETE. The public
side is /<path>: GET and HEAD with Range. Both sides show the same folder; names that begin with a
dot do not exist for them. Files are streamed from and to disk.

    SEEDVR2_EDGE_KEY=... python -P -m deployments.edge --port 9000 --root DIR
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
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from deployments.host.exits import exit_codes, run_program
from deployments.host.hosts import HostCheck, allowed_hosts
from deployments.host.listen import run_server
from deployments.host.loopback import is_loopback
from seedvr2_core.files import file_sha256
from tasks.settings import get_settings
from tasks.sources.uploads import PartFile, sweep_parts

MAX_NAME_BYTES = 255
_BUFFER_BYTES = 2**20
_MAX_DIGESTS = 10_000
_FULL = (errno.ENOSPC, errno.EDQUOT)
_Identity = tuple[str, int, int, int]


class Edge:
    """Answers requests of both sides for one folder."""

    def __init__(self, root: Path, *, zone: str, key: SecretStr | None) -> None:
        """Serve the folder `root`, which is made if it does not exist.

        Args:
            root: the folder.
            zone: name of the storage zone.
            key: AccessKey of the storage side; None: nothing can be stored.
        """
        root.mkdir(parents=True, exist_ok=True)
        self._root = root.resolve()
        self._zone = zone
        self._key = key
        self._public = StaticFiles(directory=self._root)
        # SHA-256 by identity of the file: files are large, and their digest is asked for often.
        self._digests: dict[_Identity, str] = {}
        self._publishing = asyncio.Lock()
        sweep_parts(self._root)

    async def answer(self, request: Request) -> Response:
        """Answer a request: PUT, DESCRIBE and DELETE are the storage side's, others public."""
        storage = {"PUT": self._put, "DESCRIBE": self._describe, "DELETE": self._delete}
        try:
            if request.method in storage:
                return await storage[request.method](request, self._stored_path(request))
            return await self._get(request)
        except OSError as error:
            return _refused(error)
        except ClientDisconnect:
            return _reply(400, "the body ended early")

    async def _get(self, request: Request) -> Response:
        """Send a file to anybody; Starlette handles ranges, validators and HEAD."""
        path = _inside(self._root, request.scope["path"].removeprefix("/"))
        if path is None:
            raise HTTPException(404)
        return await self._public.get_response(str(path.relative_to(self._root)), request.scope)

    async def _put(self, request: Request, path: Path) -> Response:
        """Store a file: write it under a temporary name, compare its checksum, then rename it."""
        part = await asyncio.to_thread(PartFile, self._root)
        try:
            await _write_body(part, request)
            wanted = request.headers.get("checksum")
            if wanted is not None and not hmac.compare_digest(
                wanted.encode(), part.sha256.upper().encode()
            ):
                return _reply(400, "the checksum is not the body's SHA-256 in upper-case hex")
            # One at a time, so that the digest we remember is that of the file under this name.
            async with self._publishing:
                await asyncio.to_thread(part.publish, path)
                with contextlib.suppress(FileNotFoundError):  # somebody may have deleted it since
                    self._remember(_identity(path), part.sha256)
        finally:
            await asyncio.to_thread(part.close)
        return _reply(201, "File uploaded.")

    async def _describe(self, request: Request, path: Path) -> Response:
        """Describe a stored file: its length and checksum are read from the disk."""
        if not path.is_file():
            return _reply(404, "Object Not Found")
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
        """Delete a file, or a folder with everything in it."""
        if path.is_dir():
            await asyncio.to_thread(shutil.rmtree, path)
        elif path.is_file():
            path.unlink()
        else:
            return _reply(404, "Object Not Found")
        return _reply(200, "File deleted successfuly.")  # Bunny's own spelling

    async def _digest(self, path: Path) -> str:
        """SHA-256 of a file in hex; computed again when the file has changed."""
        identity = _identity(path)
        if identity not in self._digests:
            self._remember(identity, await asyncio.to_thread(file_sha256, path))
        return self._digests[identity]

    def _remember(self, identity: _Identity, sha256: str) -> None:
        """Keep a file's digest; all are dropped when there are too many."""
        if len(self._digests) >= _MAX_DIGESTS:
            self._digests.clear()
        self._digests[identity] = sha256

    def _stored_path(self, request: Request) -> Path:
        """The path of the file that a storage request names, after its key and zone are checked.

        Raises:
            HTTPException: 401 for a wrong key or zone, as at Bunny; 400 for a name that no stored
                file can have.
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


def create_app(
    root: Path, *, zone: str, key: SecretStr | None, hosts: frozenset[str] = frozenset()
) -> Starlette:
    """Build the edge's ASGI application.

    Args:
        root: as for `Edge`.
        zone: as for `Edge`.
        key: as for `Edge`.
        hosts: the names that requests may ask for, beside this machine's addresses.
    """
    edge = Edge(root, zone=zone, key=key)
    methods = ["GET", "HEAD", "PUT", "DESCRIBE", "DELETE"]
    host_check = Middleware(HostCheck, allowed=hosts, refuse=lambda told: _reply(421, told))
    return Starlette(
        routes=[Route("/{path:path}", edge.answer, methods=methods)],
        middleware=[host_check],
        exception_handlers={HTTPException: _http_error},
    )


async def _write_body(part: PartFile, request: Request) -> None:
    """Write a body to disk as it arrives, in pieces of about 1 MiB and in a thread."""
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _BUFFER_BYTES:
            await asyncio.to_thread(part.write, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(part.write, bytes(buffer))


def _identity(path: Path) -> _Identity:
    """Values of which at least one changes when a file is replaced or written."""
    status = path.stat()
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns


def _inside(root: Path, name: str) -> Path | None:
    """The path that a name means below the root; None if it is hidden or leads outside."""
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


def _reply(code: int, message: str) -> Response:
    """An answer in the form that Bunny's storage uses."""
    return JSONResponse({"HttpCode": code, "Message": message}, status_code=code)


def _refused(error: OSError) -> Response:
    """The answer to an error of the file system: 507 if the disk is full, else 400."""
    code = 507 if error.errno in _FULL else 400
    return _reply(code, f"{error.strerror or error}")


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer errors of both sides in Bunny's form."""
    assert isinstance(error, HTTPException)
    answer = _reply(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


def main(
    root: Annotated[Path, typer.Option(help="Folder to serve.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine, behind a proxy.")
    ] = "127.0.0.1",
    zone: Annotated[str, typer.Option(help="Name of the storage zone.")] = "local",
    parent: Annotated[
        int | None, typer.Option(help="Id of a process; the edge ends with it.")
    ] = None,
) -> None:
    """Serve a folder as a storage zone and to the public."""
    with exit_codes("stored files are kept"):
        settings = get_settings()
        # What lies here is for everybody, but for a page's visitors only if others reach us too.
        hosts = allowed_hosts(settings, guarded=not is_loopback(host))
        app = create_app(root, zone=zone, key=settings.edge_key, hosts=hosts)
        run_server(app, "edge", host=host, port=port, parent=parent)


if __name__ == "__main__":
    run_program(lambda: typer.run(main))
