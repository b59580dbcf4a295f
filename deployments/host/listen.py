"""How the gateway and the edge listen and serve.

They print their address as the first line on stdout, so that a port chosen by the kernel is known,
and they end with their parent process if they are given one.
"""

import socket
import sys
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import LOGGING_CONFIG

from deployments.host.exits import say
from deployments.host.loopback import is_loopback
from deployments.host.quiet import logs_as_json
from deployments.host.slow_clients import BodyPace, PatientProtocol
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.process import die_with_parent
from tasks.json_logs import use_json_logs

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
) -> None:
    """Serve an application until SIGINT or SIGTERM.

    The first line on stdout is "name: http://host:port".

    Args:
        app: the ASGI application.
        name: the name in that line.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        parent: id of a process; this process ends when it does, even by kill -9.

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
    shown = f"[{host}]" if listener.family == socket.AF_INET6 else host
    sys.stdout.write(f"{name}: http://{shown}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    if note := exposure_note(name, host):
        say(note)
    uvicorn.Server(server_config(app)).run(sockets=[listener])


def exposure_note(name: str, host: str) -> str | None:
    """What to say when a server listens where other machines reach it; None on loopback."""
    if is_loopback(host):
        return None
    return (
        f"note: {name} listens on {host} and speaks plain HTTP; put a proxy with TLS in front of "
        "it, and name the host that callers use in SEEDVR2_ALLOWED_HOSTS"
    )


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


def log_config() -> dict[str, Any] | None:
    """uvicorn's own way to log; None, and handlers that write JSON, where that is asked for."""
    if not logs_as_json():
        return LOGGING_CONFIG
    use_json_logs()
    return None


def server_config(app: ASGIApp) -> uvicorn.Config:
    """uvicorn's configuration. It uses h11, which accepts the edge's method DESCRIBE."""
    return uvicorn.Config(
        BodyPace(app),
        log_config=log_config(),
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
