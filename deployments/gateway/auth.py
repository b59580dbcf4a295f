"""Who may use the gateway: callers with a bearer token, each for the jobs that it has sent.

The gateway is configured with the SHA-256 digests of the tokens, never with the tokens themselves.
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import (
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBasicCredentials,
    HTTPBearer,
)

from deployments.gateway.limits.per_minute import RateLimit
from deployments.host.loopback import is_loopback
from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings

if TYPE_CHECKING:  # the gateway leaves its folder before Prefect is imported
    from prefect.client.schemas.objects import FlowRun

_TAG = "caller:"
_TAG_DIGITS = 12
_OLD_KEY = "gateway:"
"""What the idempotency keys of our jobs begin with, also those made before jobs had owners."""


class _Basic(HTTPBasic):
    """A password that may be missing; one that cannot be read is refused in our own words."""

    async def __call__(self, request: Request) -> HTTPBasicCredentials | None:  # type: ignore[override]
        """The password of a request; None if there is none."""
        try:
            return await super().__call__(request)
        except HTTPException:
            return None


_bearer = HTTPBearer(auto_error=False, description="A token whose digest the gateway knows.")
_basic = _Basic(auto_error=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    name: str
    """The digest of the caller's token, or "local" where no tokens are configured."""
    sees_all: bool
    """Whether the jobs of others may be seen and cancelled as well."""

    @property
    def tag(self) -> str:
        """The tag of this caller's jobs in Prefect: "caller:" and 12 digits of the digest."""
        return f"{_TAG}{self.name[:_TAG_DIGITS]}"

    def may_see(self, run: "FlowRun") -> bool:
        """Whether this job may be seen and cancelled.

        Jobs that older versions of the gateway made have no owner: whoever knows their id may.
        """
        owned = any(tag.startswith(_TAG) for tag in run.tags)
        old = not owned and (run.idempotency_key or "").startswith(_OLD_KEY)
        return self.sees_all or self.tag in run.tags or old


Authenticate = Callable[..., Awaitable[Caller]]
"""A FastAPI dependency that checks a request's token and returns its caller."""


def authentication(settings: Settings, rate: RateLimit) -> Authenticate:
    """Build the dependency that every address for callers has.

    It raises HTTPException: 401 for a missing or unknown token, 403 for a web page of another
    origin where there are no tokens, 429 for a token that has made all requests that it may.
    """

    async def authenticate(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        token = credentials.credentials if credentials else ""
        caller = _caller(settings, request, token, "Bearer")
        rate.count(request, caller.name)
        return caller

    return authenticate


def metrics_authentication(settings: Settings) -> Authenticate:
    """Build the dependency of the metrics, which tell about everybody's jobs.

    It raises HTTPException: 401 for an unknown token, 403 for one that may not read them.
    """

    async def authenticate(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        token = credentials.credentials if credentials else ""
        known = len(request.headers.getlist("authorization")) == 1
        if known and _is_among(digest(token), settings.gateway_metrics_tokens):
            return Caller(digest(token), sees_all=True)
        caller = _caller(settings, request, token, "Bearer")
        if not caller.sees_all:
            raise HTTPException(
                403,
                "the metrics are about the jobs of everybody: they need an operator's token, or "
                "one of SEEDVR2_GATEWAY_METRICS_TOKENS",
            )
        return caller

    return authenticate


def page_authentication(settings: Settings) -> Authenticate:
    """Build the dependency of the pages that people open in a browser.

    A browser cannot send a bearer token for a page, but it asks for a password: the token is taken
    as the password too. That holds for these pages alone, because a browser adds a password to
    whatever another page lets it send.
    """

    async def authenticate(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        password: Annotated[HTTPBasicCredentials | None, Depends(_basic)],
    ) -> Caller:
        token = password.password if password else ""
        token = credentials.credentials if credentials else token
        return _caller(settings, request, token, 'Basic realm="a token as the password"')

    return authenticate


def _caller(settings: Settings, request: Request, token: str, challenge: str) -> Caller:
    """Find out who asks, or refuse."""
    if not is_closed(settings):
        _refuse_foreign_page(request)
        return Caller("local", sees_all=True)
    if len(request.headers.getlist("authorization")) > 1:
        token = ""  # a proxy may have judged by another one than we would
    given = digest(token)
    operator = _is_among(given, settings.gateway_operator_tokens)
    if not (_is_among(given, settings.gateway_tokens) or operator):
        raise HTTPException(
            401,
            "this gateway needs one of its tokens; send the header Authorization: Bearer TOKEN",
            headers={"WWW-Authenticate": challenge},
        )
    return Caller(given, sees_all=operator)


def is_closed(settings: Settings) -> bool:
    """Whether the gateway asks for tokens."""
    return bool(settings.gateway_tokens or settings.gateway_operator_tokens)


def _is_among(given: str, digests: tuple[str, ...]) -> bool:
    """Compare with every digest, each in constant time, so that the time reveals nothing."""
    return any([hmac.compare_digest(given, known) for known in digests])


def _refuse_foreign_page(request: Request) -> None:
    """Without tokens anybody on this machine may ask, but not every page that its browser shows.

    Our own page, /docs, may. Following a link from elsewhere is a visit, not a request by a page.

    Raises:
        HTTPException: 403, the browser says that the request comes from a page of another origin.
    """
    headers = request.headers
    origin = headers.get("origin")
    other = origin is not None and origin.partition("://")[2] != headers.get("host")
    visit = request.method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    site = headers.get("sec-fetch-site", "none")
    if other or (site not in ("none", "same-origin") and not visit):
        raise HTTPException(
            403, "requests by other web pages are refused while SEEDVR2_GATEWAY_TOKENS is not set"
        )


def make_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def digest(text: str) -> str:
    """SHA-256 in hex; a plain hash is enough, as tokens from --new-token are long and random."""
    return hashlib.sha256(text.encode()).hexdigest()


def check_exposure(host: str, settings: Settings) -> None:
    """Refuse to listen beyond this machine without tokens.

    Raises:
        InvalidRequestError: no tokens are set and `host` is no loopback address.
    """
    if not is_closed(settings) and not is_loopback(host):
        raise InvalidRequestError(
            f"without tokens the gateway listens on loopback only, got --host {host}; make a token "
            "with --new-token and set SEEDVR2_GATEWAY_TOKENS to its digest"
        )
