"""Refuses requests that were meant for another name than ours (DNS rebinding).

A web page can give its own name the address of this machine. The browser then takes our server for
the page's own, and neither origin nor preflight protects us. Such a request names the page's host.
"""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.host.loopback import LOOPBACK, is_loopback
from tasks.settings import Settings

_MISDIRECTED = 421
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#,\s]+)(:\d+)?")


class AllowedHosts:
    """Passes on requests whose Host is one of ours, and answers 421 to all others."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        """Wrap an application.

        Args:
            app: the application.
            hosts: names without ports, in lower case.
        """
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; what is no request (lifespan) is passed on."""
        if scope["type"] not in ("http", "websocket") or self._is_ours(scope):
            await self._app(scope, receive, send)
            return
        told = (
            "this service is not known by the host name of the request; set SEEDVR2_ALLOWED_HOSTS"
        )
        await JSONResponse({"detail": told}, status_code=_MISDIRECTED)(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        """Whether the request has one Host and it is one of ours."""
        given = [value for name, value in scope["headers"] if name == b"host"]
        return len(given) == 1 and host_of(given[0].decode("latin-1")) in self._hosts


def host_of(given: str) -> str:
    """The name in a Host header, without port and brackets, in lower case; "" if it is none."""
    match = _HOST.fullmatch(given)
    return match["name"].strip("[]").rstrip(".").lower() if match else ""


def allowed_hosts(settings: Settings, *, listening: str, guarded: bool) -> frozenset[str] | None:
    """The names that a server accepts; None: every name.

    A server that is open to this machine alone is asked by its loopback names, by the host of its
    public address (a proxy's), and by what the settings name. One that is open to others and has a
    guard of its own, tokens, is asked by any name unless the settings name some.

    Args:
        settings: name hosts and the public address.
        listening: address that the server listens on.
        guarded: whether callers have to show something that a page cannot know.
    """
    named = {name.strip("[]") for name in settings.allowed_hosts}
    if not named and (guarded or not is_loopback(listening)):
        return None
    public = host_of(urlsplit(settings.public_url or "").netloc)
    return frozenset({*LOOPBACK, *named, public} - {""})
