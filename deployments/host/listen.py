"""How our own HTTP servers run: one socket, said where, gone with their parent if they have one."""

import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.process import die_with_parent

DRAIN_SECONDS = 10
KEEP_ALIVE_SECONDS = 65
"""Longer than clients keep an idle connection. uvicorn's default, 5 s, is httpx's own as well: a
client that asks at that moment finds the connection closed under its request."""


def run_server(app: ASGIApp, name: str, *, host: str, port: int, parent: int | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the first line on stdout is the server's name and address.

    Args:
        app: what is served.
        name: what it is called on that line.
        host: address to listen on.
        port: 0 takes a free one.
        parent: process whose end ends this one too, kill -9 included.

    Raises:
        InvalidRequestError: the address cannot be listened on.
    """
    if parent is not None:
        die_with_parent(parent)
    try:
        listener = listen(host, port)
    except OSError as error:
        raise InvalidRequestError(
            f"{name} cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another --host or --port"
        ) from error
    shown = f"[{host}]" if listener.family == socket.AF_INET6 else host
    sys.stdout.write(f"{name}: http://{shown}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(server_config(app)).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, 0 on a free port; its connections send without delay.

    asyncio sets TCP_NODELAY on sockets that were made with IPPROTO_TCP alone, which those of
    socket.create_server are not: each answer in two pieces would wait for the client's delayed
    acknowledgement, 40 ms.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit it
    return listener


def server_config(app: ASGIApp) -> uvicorn.Config:
    """Settings of our servers. h11: it takes methods that are in no RFC (DESCRIBE)."""
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
