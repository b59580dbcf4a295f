"""An edge that does what storages and CDNs do to their clients on bad days.

`FaultyEdge(create_app(...))` wraps the edge (`deployments/edge.py`, which knows nothing of it) and
does what its `faults` say; at first no fault is on. Only tests start it. In a process of its own,
on loopback,

    SEEDVR2_EDGE_KEY=... python -m tests.kits.http.edge_faults --root DIR

it takes new faults as JSON by `PUT /.faults`, and tells by `GET /.faults` what was asked for and
how many bytes of bodies came in. No stored file can have that name.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs

import typer
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.edge import create_app
from deployments.host.exits import exit_codes
from deployments.host.listen import run_server
from tasks.settings import get_settings

CONTROL = "/.faults"
PAGE = "<!doctype html><title>404</title><p>This page does not exist."
_STORAGE = ("PUT", "DESCRIBE", "DELETE")
_OTHER_BYTES = bytes(255 - value for value in range(256))


class Faults(BaseModel):
    """What goes wrong from now on.

    Faults that are a list or a number of requests are used up by the requests that meet them.
    """

    model_config = ConfigDict(extra="forbid")

    refusals: list[int] = []
    """Storage: statuses that the next requests get instead of an answer."""
    refuse: tuple[str, ...] = _STORAGE
    """Methods that `refusals` are for."""
    retry_after: int | None = None
    """Storage: seconds in the Retry-After of refusals."""
    cut_uploads: int = 0
    """Storage: of the next PUTs, the connection ends after an eighth of the body."""
    lost_answers: int = 0
    """Storage: the next PUTs are stored, and the connection ends before their answer."""
    checksum: Literal["right", "wrong", "none"] = "right"
    """Storage: what DESCRIBE tells."""
    negative_cache_seconds: float = 0.0
    """Public: how long a 404 is remembered and told again."""
    replica_seconds: float = 0.0
    """Public: how long after its PUT a file is not there yet."""
    page: Literal["never", "missing", "always"] = "never"
    """Public: a web page with the status 200, for files that are missing or for all."""
    public_status: int | None = None
    """Public: a status for everything."""
    show: Literal["right", "other bytes", "other length"] = "right"
    """Public: what is sent of a file."""
    cut_downloads: int = 0
    """Public: of the next answers, the connection ends in the middle of the body."""
    token_key: str | None = None
    """Public: addresses must be signed with this key."""
    bytes_per_second: float | None = None
    """Both: bodies go no faster."""


@dataclass(kw_only=True)
class Seen:
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    status: int | None = None
    """The status of the answer; None if the connection ended without one."""
    received: int = 0
    """Bytes of its body that came in."""


@dataclass(kw_only=True)
class _Exchange:
    """A request under way, and uvicorn's own functions for it."""

    scope: Scope
    receive: Receive
    send: Send
    seen: Seen
    gone: bool = field(default=False)

    async def cut(self) -> None:
        """End the connection without an answer; returns when the server has noticed it."""
        self.gone = True
        # uvicorn hands out bound methods of the request's cycle, which holds the connection.
        self.send.__self__.transport.abort()  # type: ignore[attr-defined]
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def answer(self, response: Response) -> None:
        """Send this answer instead of the edge's."""
        self.seen.status = response.status_code
        await response(self.scope, self.receive, self.send)


class FaultyEdge:
    """The edge behind faults, and what it saw."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an edge, with no fault on."""
        self.faults = Faults()
        self.seen: list[Seen] = []
        self._app = app
        self._stored_at: dict[str, float] = {}
        self._missing_until: dict[str, float] = {}

    def received(self, path: str | None = None) -> int:
        """How many bytes of PUT bodies came in, for one path or for all."""
        puts = [seen for seen in self.seen if seen.method == "PUT"]
        return sum(seen.received for seen in puts if path in (None, seen.path))

    def public(self) -> list[Seen]:
        """The requests to the public side."""
        return [seen for seen in self.seen if seen.method not in _STORAGE]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == CONTROL:
            await self._control(scope, receive, send)
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        headers.pop("accesskey", None)
        seen = Seen(method=scope["method"], path=scope["path"], headers=headers)
        self.seen.append(seen)
        exchange = _Exchange(scope=scope, receive=receive, send=send, seen=seen)
        side = self._storage if seen.method in _STORAGE else self._public
        await side(exchange)

    async def _control(self, scope: Scope, receive: Receive, send: Send) -> None:
        """PUT sets the faults; GET tells the faults and the requests that came in."""
        request = Request(scope, receive)
        if request.method == "PUT":
            self.faults = Faults.model_validate_json(await request.body())
        told = {"faults": self.faults.model_dump(), "seen": [asdict(seen) for seen in self.seen]}
        await JSONResponse(told)(scope, receive, send)

    async def _storage(self, exchange: _Exchange) -> None:
        faults, method = self.faults, exchange.seen.method
        if faults.refusals and method in faults.refuse:
            status = faults.refusals.pop(0)
            after = (
                {"Retry-After": str(faults.retry_after)} if faults.retry_after is not None else {}
            )
            told = {"HttpCode": status, "Message": "refused on purpose"}
            await exchange.answer(JSONResponse(told, status_code=status, headers=after))
            return
        cut_at = None
        if method == "PUT" and faults.cut_uploads:
            faults.cut_uploads -= 1
            cut_at = int(exchange.seen.headers["content-length"]) // 8
        receive, send = self._counted(exchange, cut_at), self._sent(exchange)
        if method == "PUT":
            send = self._stored(exchange, send)
        if method == "DESCRIBE" and faults.checksum != "right":
            send = self._misdescribed(send)
        await self._app(exchange.scope, receive, send)

    async def _public(self, exchange: _Exchange) -> None:
        faults, path = self.faults, exchange.seen.path
        if faults.public_status is not None:
            await exchange.answer(Response(status_code=faults.public_status))
        elif not self._signed(exchange.scope):
            await exchange.answer(Response(status_code=403))
        elif faults.page == "always":
            await exchange.answer(HTMLResponse(PAGE))
        elif time.monotonic() < self._missing_until.get(path, 0.0):
            await self._answer_missing(exchange, cache="HIT")
        elif time.monotonic() < self._stored_at.get(path, -1e9) + faults.replica_seconds:
            await self._answer_missing(exchange, cache="MISS")
        else:
            await self._show(exchange)

    async def _show(self, exchange: _Exchange) -> None:
        """Answer with the edge's file, whole or spoilt as the faults say."""
        missing = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 404:
                missing.append(True)
            if not missing:
                await spoilt(message)

        spoilt = self._spoilt(exchange, self._sent(exchange))
        await self._app(exchange.scope, exchange.receive, send)
        if missing:
            await self._answer_missing(exchange, cache="MISS")

    async def _answer_missing(self, exchange: _Exchange, *, cache: str) -> None:
        """Say that there is no such file; a CDN remembers this for a while."""
        faults, path = self.faults, exchange.seen.path
        if cache == "MISS" and faults.negative_cache_seconds:
            self._missing_until[path] = time.monotonic() + faults.negative_cache_seconds
        headers = {"CDN-Cache": cache}
        if faults.page == "missing":
            await exchange.answer(HTMLResponse(PAGE, headers=headers))
        else:
            await exchange.answer(Response(status_code=404, headers=headers))

    def _signed(self, scope: Scope) -> bool:
        """Whether the address has a valid token that has not expired, if tokens are asked for."""
        if self.faults.token_key is None:
            return True
        query = parse_qs(scope["query_string"].decode())
        expires = query.get("expires", ["0"])[0]
        path = scope.get("raw_path", scope["path"].encode()).decode()
        digest = hmac.digest(self.faults.token_key.encode(), f"{path}{expires}".encode(), "sha256")
        token = "HS256-" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
        return query.get("token") == [token] and float(expires) > time.time()

    def _counted(self, exchange: _Exchange, cut_at: int | None) -> Receive:
        """Count the bytes of a body as they come, slow it down, and cut it at `cut_at` bytes."""

        async def receive() -> Message:
            if exchange.gone:
                return {"type": "http.disconnect"}
            message = await exchange.receive()
            exchange.seen.received += len(message.get("body", b""))
            await self._slow_down(message)
            if cut_at is not None and exchange.seen.received >= cut_at:
                await exchange.cut()
                return {"type": "http.disconnect"}
            return message

        return receive

    def _sent(self, exchange: _Exchange) -> Send:
        """Note the status and slow the body down; on a connection that was cut, send nothing."""

        async def send(message: Message) -> None:
            if exchange.gone:
                return
            if message["type"] == "http.response.start":
                exchange.seen.status = message["status"]
            await self._slow_down(message)
            await exchange.send(message)

        return send

    def _stored(self, exchange: _Exchange, send: Send) -> Send:
        """Note when a file was stored, and lose the answer if the faults say so."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 201:
                _, _, name = exchange.seen.path.removeprefix("/").partition("/")
                self._stored_at[f"/{name}"] = time.monotonic()
                if self.faults.lost_answers:
                    self.faults.lost_answers -= 1
                    await exchange.cut()
            await send(message)

        return note

    def _misdescribed(self, send: Send) -> Send:
        """Tell another checksum, or none.

        The start of the answer has the length of its body, so it is sent when that is known.
        """
        start: list[Message] = []

        async def change(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.append(message)
                return
            told = json.loads(message["body"])
            if "Checksum" in told:
                wrong = hashlib.sha256(told["Checksum"].encode()).hexdigest().upper()
                told["Checksum"] = wrong if self.faults.checksum == "wrong" else None
            body = json.dumps(told).encode()
            await send(_with_header(start[0], b"content-length", str(len(body)).encode()))
            await send({**message, "body": body})

        return change

    def _spoilt(self, exchange: _Exchange, send: Send) -> Send:
        """Send other bytes, another length, or half of the body before the connection ends."""
        faults = self.faults
        cut = faults.cut_downloads > 0
        if cut:
            faults.cut_downloads -= 1

        async def change(message: Message) -> None:
            if message["type"] == "http.response.start" and faults.show == "other length":
                message = _shorter(message)
            body: bytes = message.get("body", b"")
            if faults.show == "other bytes":
                message = {**message, "body": body.translate(_OTHER_BYTES)} if body else message
            if cut and body:
                half = {**message, "body": body[: len(body) // 2], "more_body": True}
                await send(half)
                await exchange.cut()
            else:
                await send(message)

        return change

    async def _slow_down(self, message: Message) -> None:
        if self.faults.bytes_per_second and (body := message.get("body")):
            await asyncio.sleep(len(body) / self.faults.bytes_per_second)


def _with_header(start: Message, name: bytes, value: bytes) -> Message:
    """An answer's start with one header changed."""
    headers = [(n, value if n.lower() == name else v) for n, v in start["headers"]]
    return {**start, "headers": headers}


def _shorter(start: Message) -> Message:
    """A partial answer's start as of a file that is one byte shorter."""
    headers = {name.lower(): value for name, value in start["headers"]}
    part, _, total = headers.get(b"content-range", b"").rpartition(b"/")
    if not total.isdigit():
        return start
    return _with_header(start, b"content-range", b"%b/%d" % (part, int(total) - 1))


def main(
    root: Annotated[Path, typer.Option(help="Folder that is served.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    zone: Annotated[str, typer.Option(help="Name of the storage zone.")] = "local",
    parent: Annotated[int | None, typer.Option(help="End when this process does.")] = None,
) -> None:
    """Serve an edge with faults on loopback, for tests."""
    with exit_codes("stored files are kept"):
        app = FaultyEdge(create_app(root, zone=zone, key=get_settings().edge_key))
        run_server(app, "edge", host="127.0.0.1", port=port, parent=parent)


if __name__ == "__main__":
    typer.run(main)
