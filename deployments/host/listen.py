"""How the gateway and the edge listen and serve.

They print their address as the first line on stdout, so that a port chosen by the kernel is known,
and they end with their parent process if they are given one.
"""

import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from deployments.host.allowed_hosts import AllowedHosts, allowed_hosts
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.process import die_with_parent
from tasks.settings import get_settings

DRAIN_SECONDS = 10
KEEP_ALIVE_SECONDS = 65
"""Longer than clients keep an idle connection. uvicorn's default of 5 s equals httpx's: a client
that asks at that very moment would find the connection closed under its request."""


def run_server(
    app: ASGIApp,
    name: str,
    *,
    host: str,
    port: int,
    parent: int | None = None,
    guarded: bool = False,
) -> None:
    """Serve an application until SIGINT or SIGTERM.

    The first line on stdout is "name: http://host:port".

    Args:
        app: the ASGI application.
        name: the name in that line.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        parent: id of a process; this process ends when it does, even by kill -9.
        guarded: whether callers have to show a token (see `allowed_hosts`).

    Raises:
        InvalidRequestError: the address is in use or does not belong to this machine.
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
    settings = get_settings()
    hosts = allowed_hosts(settings, listening=host, guarded=guarded)
    if hosts is not None:
        app = AllowedHosts(app, hosts)
    shown = f"[{host}]" if listener.family == socket.AF_INET6 else host
    sys.stdout.write(f"{name}: http://{shown}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(server_config(app)).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Make a listening socket whose connections send without delay (TCP_NODELAY).

    asyncio sets TCP_NODELAY only on sockets that were made with IPPROTO_TCP, and those of
    socket.create_server are not. Without it, every answer that is sent in two pieces would wait
    40 ms for the client's delayed acknowledgement.

    Args:
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Raises:
        OSError: the address is in use or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit it
    return listener


def server_config(app: ASGIApp) -> uvicorn.Config:
    """uvicorn's configuration. It uses h11, which accepts the edge's method DESCRIBE."""
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
