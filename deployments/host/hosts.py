"""Which host names our servers answer to.

A web page can give its own name a new address, that of this machine, and then read answers as if
they were its own (DNS rebinding). Its requests still carry its name in the header Host, so a server
that answers only to its own names is out of its reach. There are no CORS headers anywhere: pages of
other origins can read nothing.
"""

import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.settings import Settings

_ANY = "*"
_MAX_SHOWN = 100
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:@/?#,\s]+)(:\d*)?")
_POLICY_VIOLATION = 1008
"""Code with which a WebSocket is closed (RFC 6455)."""


def allowed_hosts(settings: Settings, *, guarded: bool) -> frozenset[str]:
    """The names that requests may ask for: those of the settings and of this machine.

    Args:
        settings: the names, and the public addresses whose hosts belong to them.
        guarded: every caller must show something that no web page knows, or may read everything
            anyway. Then any name will do unless the settings name some.
    """
    if guarded and not settings.allowed_hosts:
        return frozenset({_ANY})
    known = {socket.gethostname().lower(), *settings.allowed_hosts}
    for url in (settings.public_url, settings.gateway_url):
        if url and (host := urlsplit(url).hostname):
            known.add(host)
    return frozenset(known)


def host_in(header: str) -> str:
    """The host in a Host header, lower case, without port, brackets and final dot; "" if none."""
    match = _HOST.fullmatch(header.strip().lower())
    return match["name"].strip("[]").removesuffix(".") if match else ""


def guard_prefect(app: ASGIApp, names: Iterable[str]) -> "HostCheck":
    """Let Prefect's server answer to these names alone; it refuses in plain text."""
    return HostCheck(app, frozenset(names), lambda told: PlainTextResponse(told, 421))


@dataclass(frozen=True)
class HostCheck:
    """ASGI middleware that refuses requests which ask for a host that is not ours."""

    app: ASGIApp
    allowed: frozenset[str]
    """Names in lower case; `*` stands for all. This machine's addresses need not be among them."""
    refuse: Callable[[str], Response]
    """Makes the answer from a sentence."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 421 for a foreign host, or close its WebSocket; hand all others on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        # Only clients that speak HTTP/1.0 may leave it out, and no browser does.
        if not given or (len(given) == 1 and self._is_ours(host_in(given[0]), scope.get("server"))):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            answer = self.refuse(
                f"this server is not known as {given[-1][:_MAX_SHOWN]!r}; if it should be, name "
                "the host in SEEDVR2_ALLOWED_HOSTS"
            )
            await answer(scope, receive, send)

    def _is_ours(self, host: str, server: tuple[str, int | None] | None) -> bool:
        """Whether the host is an allowed name, a loopback address, or the address that was called.

        An IP address needs no DNS, so a page that was loaded from it comes from this machine.
        """
        if host == "localhost" or host in self.allowed or _ANY in self.allowed:
            return True
        try:
            asked = ip_address(host)
            return asked.is_loopback or (server is not None and asked == ip_address(server[0]))
        except ValueError:
            return False
