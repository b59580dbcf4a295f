"""Who may use the gateway: callers with a bearer token.

The gateway is configured with the SHA-256 digests of the tokens, never with the tokens themselves.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings

Authenticate = Callable[..., Awaitable[str]]
"""A FastAPI dependency that checks a request's token and returns a name for its caller."""

_bearer = HTTPBearer(auto_error=False, description="A token whose digest the gateway knows.")


def authentication(settings: Settings) -> Authenticate:
    """Build the dependency that every address except /healthz has.

    It returns the digest of the caller's token, or "local" where no tokens are configured. It
    raises HTTPException: 401 for a missing or unknown token, 403 for a web page where there are no
    tokens.
    """

    async def authenticate(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> str:
        if not settings.gateway_tokens:
            # Anybody on this machine may ask, but not every web page that its browser shows.
            if "origin" in request.headers:
                raise HTTPException(
                    403, "requests by web pages are refused while SEEDVR2_GATEWAY_TOKENS is not set"
                )
            return "local"
        given = digest(credentials.credentials if credentials else "")
        # We compare with every token, each in constant time, so that the time reveals nothing.
        known = [hmac.compare_digest(given, token) for token in settings.gateway_tokens]
        if not any(known):
            raise HTTPException(
                401,
                "this gateway needs one of its tokens; send the header Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return given

    return authenticate


def digest(text: str) -> str:
    """SHA-256 in hex; a plain hash is enough, as tokens from --new-token are long and random."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_exposure(host: str, settings: Settings) -> None:
    """Refuse to listen beyond this machine without tokens: anybody who connects may submit jobs.

    Raises:
        InvalidRequestError: no tokens are set and `host` is no loopback address.
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
