"""Send the callbacks that wait in the outbox: a part of the sweep, four times a minute.

One process does it for all runs, and no receiver holds it up for long: receivers are asked at the
same time, one that does not take its first event is left alone until the next look, and all of it
ends after some seconds. Events of one run go out in their order. A sweep that is killed between a
POST and its note sends that event again, with the same id.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.logging.loggers import flow_run_logger

from seedvr2_core.errors import SourceRefusedError
from seedvr2_core.words import counted
from tasks.run.callbacks import outbox
from tasks.run.callbacks.hook import note
from tasks.run.callbacks.outbox import WaitingCallback
from tasks.run.callbacks.sending import delivery_of, send_once
from tasks.settings import Settings, get_settings

SEND_SECONDS = 12.0
"""How long one look sends; the next one goes on."""
_MOST_HOSTS = 20
"""Receivers that are asked at the same time."""
_PAGE = 200


def send_waiting() -> str:
    """Send what waits in the outbox and is due.

    Returns:
        What was done, in words; "" if nothing waited.

    Side effects: POSTs; events that were taken, or that no attempt can help, leave the outbox.
    """
    settings = get_settings()
    with get_client(sync_client=True) as client:
        waiting = outbox.all_waiting(client)
        if not waiting or settings.callback_secret is None:
            return ""
        runs = _runs_of(client, {one.run_id for one in waiting})
        sent = asyncio.run(_Round(client, runs, settings).send(waiting))
    return f"{counted(sent, 'callback')} sent, {len(waiting) - sent} wait"


def _runs_of(client: SyncPrefectClient, run_ids: set[UUID]) -> dict[UUID, FlowRun]:
    """The runs, by id; those that were deleted are left out."""
    wanted, found = sorted(run_ids), dict[UUID, FlowRun]()
    for first in range(0, len(wanted), _PAGE):
        ids = {"id": {"any_": wanted[first : first + _PAGE]}}
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(ids), limit=_PAGE)
        found |= {run.id: run for run in runs}
    return found


class _Round:
    """One look at the outbox."""

    def __init__(
        self, client: SyncPrefectClient, runs: dict[UUID, FlowRun], settings: Settings
    ) -> None:
        self._client, self._runs, self._settings = client, runs, settings
        self._sent = 0
        self._now = datetime.now(UTC)

    async def send(self, waiting: Sequence[WaitingCallback]) -> int:
        """Send what is due; returns how many were taken."""
        by_host: defaultdict[str, list[list[WaitingCallback]]] = defaultdict(list)
        for events in self._by_run(waiting):
            by_host[urlsplit(self._url(events[0])).netloc].append(events)
        turns = asyncio.Semaphore(_MOST_HOSTS)

        async def ask(events: list[list[WaitingCallback]]) -> None:
            async with turns:
                await self._ask_host(events)

        with contextlib.suppress(TimeoutError):  # the next look goes on
            async with asyncio.timeout(SEND_SECONDS):
                await asyncio.gather(*(ask(events) for events in by_host.values()))
        return self._sent

    def _by_run(self, waiting: Sequence[WaitingCallback]) -> list[list[WaitingCallback]]:
        """What waits, by run and in order, without what a later event makes needless."""
        by_run: defaultdict[UUID, list[WaitingCallback]] = defaultdict(list)
        for one in waiting:
            if one.run_id not in self._runs or not self._url(one):
                outbox.remove(self._client, one)
            else:
                by_run[one.run_id].append(one)
        for run_id, events in by_run.items():
            for one in [one for one in events[:-1] if one.is_passing]:
                outbox.remove(self._client, one)
            by_run[run_id] = [one for one in events[:-1] if not one.is_passing] + events[-1:]
        return list(by_run.values())

    def _url(self, one: WaitingCallback) -> str:
        return str(self._runs[one.run_id].parameters.get("callback_url") or "")

    async def _ask_host(self, runs: list[list[WaitingCallback]]) -> None:
        """Send the events of the runs with one receiver, until it does not take one."""
        for events in runs:
            for one in events:
                if one.next_at > self._now:
                    break  # and what comes after it waits as well
                if not await self._send(one):
                    return

    async def _send(self, one: WaitingCallback) -> bool:
        """Send an event; False if its receiver does not take it now."""
        url = self._url(one)
        try:
            trouble = await send_once(url, one.event, self._settings)
        except SourceRefusedError as error:
            self._close(one, str(error))
            return True
        if trouble is None:
            self._sent += 1
            self._close(one, None)
            return True
        limit = one.since + timedelta(seconds=self._settings.callback_seconds)
        if self._now > limit:
            told = f"given up after {one.attempts + 1} attempts: {trouble}"
            self._close(one, told)
        else:
            outbox.postpone(self._client, one, trouble)
        return False

    def _close(self, one: WaitingCallback, trouble: str | None) -> None:
        """Take an event out of the outbox, and record what became of it."""
        run = self._runs[one.run_id]
        if trouble is not None:
            flow_run_logger(run).warning("the callback %s failed: %s", one.event.event, trouble)
        note(one.run_id, delivery_of(self._url(one), one.event, trouble, one.attempts + 1))
        outbox.remove(self._client, one)
