"""How many jobs one token may have waiting or at work, and in which queue they wait.

Prefect counts: nothing is kept here, and what other gateways of the same server make counts too.
Two gateways that are asked at the same moment may each let one through.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException

from deployments.gateway.auth import Caller
from deployments.gateway.prefect_api import PrefectApi
from tasks.settings import Settings

RETRY_AFTER_SECONDS = 30
_OPEN = ("SCHEDULED", "PENDING", "PAUSED", "RUNNING", "CANCELLING")


class OpenJobs:
    """Lets callers make as many jobs as they may. One object serves all requests."""

    def __init__(self, settings: Settings, prefect: PrefectApi) -> None:
        self._settings, self._prefect = settings, prefect
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def queue(self, caller: Caller) -> str | None:
        """The queue that a caller's jobs wait in; None: the deployment's own."""
        priority = self._settings.limits_of(caller.name).priority
        return None if priority == "default" else priority

    async def check(self, caller: Caller, key: str) -> None:
        """Refuse a request that would be one job too many.

        Args:
            caller: who asks.
            key: idempotency key of the job; one that has made a job makes no other.

        Raises:
            HTTPException: 429, the caller has as many open jobs as it may have.
        """
        most = self._settings.limits_of(caller.name).open_jobs
        if most is None:
            return
        state = {"state": {"type": {"any_": list(_OPEN)}}}
        wanted = {"tags": {"all_": [caller.tag]}, **state}
        if await self._prefect.count({"flow_runs": wanted}) < most:
            return
        if await self._prefect.count({"flow_runs": {"idempotency_key": {"any_": [key]}}}):
            return
        raise HTTPException(
            429,
            f"this token may have {most} jobs waiting or at work, and it has them; send the "
            "request again when one has ended",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )

    @asynccontextmanager
    async def turn(self, caller: Caller, key: str) -> AsyncIterator[None]:
        """Make a job in this block: `check`, with no other request of the caller in between."""
        if self._settings.limits_of(caller.name).open_jobs is None:
            yield
            return
        async with self._turns[caller.name]:
            await self.check(caller, key)
            yield
