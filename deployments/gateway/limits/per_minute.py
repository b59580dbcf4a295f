"""How many requests a minute a token may make, and the headers that say so.

Each token has a bucket that holds a minute's requests and fills evenly, so a minute's requests may
come at once. The counts are this process's own and end with it.

The headers are those of the IETF's draft "RateLimit header fields for HTTP": `RateLimit-Policy`
says what may be done in a minute, `RateLimit` what is left of it and in how many seconds the bucket
is full again.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.settings import Settings

WINDOW_SECONDS = 60
_SCOPE_KEY = "seedvr2.rate"


@dataclass(slots=True)
class _Bucket:
    """What one token may still do."""

    left: float
    at: float
    """When that was so."""


class RateLimit:
    """Counts the requests of all tokens. One object serves all requests."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._buckets: dict[str, _Bucket] = {}

    def count(self, request: Request, name: str) -> None:
        """Count a request of a caller; what is left goes into its answer's headers.

        Args:
            request: the request.
            name: the digest of the caller's token. Only known callers are counted, so the table
                does not grow beyond them.

        Raises:
            HTTPException: 429, the caller has made all that it may for now.
        """
        rate = self._settings.limits_of(name).rate
        if rate is None:
            return
        now = self._clock()
        bucket = self._buckets.setdefault(name, _Bucket(rate, now))
        refill = rate / WINDOW_SECONDS
        bucket.left = min(rate, bucket.left + (now - bucket.at) * refill)
        bucket.at = now
        taken = bucket.left >= 1
        bucket.left -= taken
        full = math.ceil((rate - bucket.left) / refill)
        request.scope[_SCOPE_KEY] = {
            "RateLimit-Policy": f'"requests";q={rate};w={WINDOW_SECONDS}',
            "RateLimit": f'"requests";r={int(bucket.left)};t={full}',
        }
        if not taken:
            wait = max(1, math.ceil((1 - bucket.left) / refill))
            raise HTTPException(
                429,
                f"this token may make {rate} requests a minute; send the request again in {wait} s",
                headers={"Retry-After": str(wait)},
            )


class RateHeaders:
    """Puts what `RateLimit` has noted about a request into its answer, of whatever kind it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(scope.get(_SCOPE_KEY, {}))
            await send(message)

        await self._app(scope, receive, send_with_headers)
