"""Who may use the gateway: bearer tokens, of which it knows the digests only."""

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings

Caller = Callable[..., Awaitable[str]]
_bearer = HTTPBearer(auto_error=False, description="A token whose digest the gateway knows.")


def who_calls(settings: Settings) -> Caller:
    """Who asks: the dependency that every address but /healthz has."""

    async def caller(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> str:
        if not settings.gateway_tokens:
            # Open to this machine only; that must not mean: to every page its browser shows.
            if "origin" in request.headers:
                raise HTTPException(403, "without tokens the gateway answers no web pages")
            return "local"
        given = digest(credentials.credentials if credentials else "")
        # All are compared, each in constant time: how long it takes tells nothing.
        known = [hmac.compare_digest(given, token) for token in settings.gateway_tokens]
        if not any(known):
            raise HTTPException(
                401,
                "a bearer token of this gateway is needed: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return given

    return caller


def digest(text: str) -> str:
    """SHA-256: enough for tokens, which are long and random, as --new-token makes them."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_exposure(host: str, settings: Settings) -> None:
    """Without tokens whoever reaches the gateway may use it: this machine only.

    Raises:
        InvalidRequestError: another address than a loopback one.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not settings.gateway_tokens and not loopback:
        raise InvalidRequestError(
            f"without tokens the gateway listens on loopback only, got --host {host}; make a token "
            "with --new-token and set SEEDVR2_GATEWAY_TOKENS to its digest"
        )
