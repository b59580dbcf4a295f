"""Limits for clients that are slow on purpose: a connection each, kept busy with a byte at a time.

uvicorn has no limits of this kind, except for idle connections. These are the ones that other web
servers have by default: the head of a request must come in time, a body must not come in drops, and
whoever asks for data must take it.
"""

import asyncio
from typing import Any

import h11
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 500
"""At a time. Most systems let a process open 1024 files, and every request may open some."""
HEAD_SECONDS = 15.0
"""From a connection, or from the first byte of its next request, to the end of the headers. What is
left of a body that was refused is read for as long."""
BODY_SECONDS = 30.0
"""Seconds of waiting in which MIN_BODY_BYTES, or the rest of the body, must come."""
MIN_BODY_BYTES = 30_000
TAKE_SECONDS = 120.0
"""How long a client may take nothing of an answer."""

ENDS_AT_SHUTDOWN = "seedvr2.ends_at_shutdown"
"""Key in a request's scope. Whoever sets it has an answer without an end, which would keep a server
that is to stop waiting: its connection is closed then."""

_LATE = b"the headers of the request took too long; send it again"
_BUSY = b"too many connections at a time; try again"


def _plain(status: bytes, text: bytes) -> bytes:
    """A whole answer, for clients whose request never reaches the application."""
    return (
        b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
        b"retry-after: 10\r\nconnection: close\r\n\r\n%b" % (status, len(text), text)
    )


class PatientProtocol(H11Protocol):
    """uvicorn's connection with deadlines, and a bound on the number of connections.

    At the bound, the connection that has waited longest without a whole request makes room. So
    idle and dripping connections, however many, do not keep others out.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._take_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._heard = False  # whether any byte of the request that is awaited has come
        self._waits_since = 0.0

    # The methods below are called by asyncio and uvicorn.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection if there is room for it."""
        if len(self.connections) >= MAX_CONNECTIONS and not self._make_room():
            self.transport = transport
            transport.write(_plain(b"503 Service Unavailable", _BUSY))
            transport.close()
            return
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes: the deadline of the headers ends with them and begins with the next."""
        if self.flow is None:
            return  # refused: there was no room
        self._heard = True
        super().data_received(data)
        self._look_at_head()
        if self._rest_timer is not None and self.conn.their_state is not h11.SEND_BODY:
            self._rest_timer.cancel()
            self._rest_timer = None

    def on_response_complete(self) -> None:
        """The answer is out; a rest of its request, or a part of the next one, may yet come.

        A body that nobody wants is read for a while: a client that is cut off while it sends
        would not see the answer.
        """
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._rest_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)
            return
        self._heard = bool(self.conn.trailing_data[0])
        self._waits_since = self.loop.time()
        if self._heard:
            self._look_at_head()

    def shutdown(self) -> None:
        """The server stops: answers without an end are ended, all others may finish."""
        super().shutdown()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and cycle.scope.get(ENDS_AT_SHUTDOWN):
            self.transport.close()  # what it was sent is still delivered

    def pause_writing(self) -> None:
        """The client takes less than we send."""
        super().pause_writing()
        self._take_timer = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken what waited for it."""
        super().resume_writing()
        if self._take_timer is not None:
            self._take_timer.cancel()

    def _look_at_head(self) -> None:
        """Start the deadline when a head begins, and stop it when the head is whole."""
        if self.conn.their_state is not h11.IDLE:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None:
            self._await_head()

    def _await_head(self) -> None:
        self._waits_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        """End the connection; who has sent nothing at all is told nothing."""
        self._head_timer = None
        if not self.transport.is_closing():
            if self._heard:
                self.transport.write(_plain(b"408 Request Timeout", _LATE))
            self.transport.close()

    def _make_room(self) -> bool:
        """End the connection that has waited longest for a request; False if all are at work."""
        waiting = [
            one
            for one in self.connections
            if isinstance(one, PatientProtocol)
            and (one.cycle is None or one.cycle.response_complete)
        ]
        if not waiting:
            return False
        longest = min(waiting, key=lambda one: one._waits_since)
        self.connections.discard(longest)
        longest.transport.abort()
        return True

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._take_timer, self._rest_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._take_timer = self._rest_timer = None


class BodyPace:
    """ASGI middleware: a body that comes too slowly ends in HTTPException 408.

    The exception is raised where the application reads the body, so that the application cleans up
    and answers in its own form. Only time in which we wait for the client counts, not the time in
    which we write to a disk.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with a `receive` that has a limit until the body has ended."""
        if scope["type"] == "http":
            receive = _BodyReceiver(receive).receive
        await self._app(scope, receive, send)


class _BodyReceiver:
    """Receives one request's body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waited = 0.0
        self._got = 0
        self._ended = False

    async def receive(self) -> Message:
        """Receive the next message.

        Raises:
            HTTPException: 408, too little of the body came in too long a time.
        """
        if self._ended:  # what is awaited now is the end of the connection
            return await self._receive()
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(max(BODY_SECONDS - self._waited, 0)):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(
                408,
                f"less than {MIN_BODY_BYTES} bytes of the body came in {BODY_SECONDS:g} s; "
                "send it faster",
                headers={"Connection": "close"},
            ) from error
        self._waited += clock() - began
        self._got += len(message.get("body", b""))
        if self._got >= MIN_BODY_BYTES:
            self._waited, self._got = 0.0, 0
        self._ended = not message.get("more_body", False)
        return message
