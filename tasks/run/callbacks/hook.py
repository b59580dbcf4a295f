"""Tell the caller how a run ended: a signed POST to the address that the request named.

`call_back` is a hook of the flow: Prefect calls it when the run has ended. It sends once. What its
receiver does not take goes into the outbox, from which the sweep of `recover` sends it for two
hours, so that no worker waits (`tasks/run/callbacks`). Where nothing sweeps, it tries again for a
minute by itself. It never changes the run's outcome.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import PrefectException
from prefect.logging.loggers import flow_run_logger

from seedvr2_core.errors import SourceRefusedError
from tasks.net.untrusted import check_reachable
from tasks.run.appointments import find_recover, is_brought_back
from tasks.run.artifacts import RESULT_KEY, newest_artifact, read_result
from tasks.run.callbacks import outbox
from tasks.run.callbacks.events import CallbackEvent, event_of, wanted_events
from tasks.run.callbacks.sending import NO_SECRET, Delivery, delivery_of, send_once
from tasks.run.routing import MOVED
from tasks.settings import Settings, get_settings
from tasks.step import step

if TYPE_CHECKING:
    from logging import Logger, LoggerAdapter

    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

CALLBACK_KEY = "upscale-callback"
"""Key of the artifact that says whether the caller was told."""
LIMIT_SECONDS = 60.0
"""Longest time for all attempts of a process by itself: the worker is not free before they end."""
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between these attempts, before jitter."""


@step(name="check callback", retries=2, retry_delay_seconds=[1, 5])
def check_callback(url: str) -> None:
    """Check a callback's address before any work is spent on the job; nothing is sent.

    Raises: SourceRefusedError (final): it leads to a private address. SourceUnavailableError
        (retried): its host name cannot be resolved.
    """
    asyncio.run(check_reachable(url, get_settings()))


def call_back(flow: "Flow[..., Any] | None", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Tell the caller that a run has ended, if the request named an address.

    The flow has it as its hook for all four ends. `recover` calls it for runs that it ends from
    outside, where Prefect calls no hook; it passes None for `flow`.

    Side effects: a POST; the artifact `upscale-callback`; a warning in the run's log if it failed.
    """
    if "ended" not in wanted_events(flow_run) or state.name == MOVED:
        return
    url = str(flow_run.parameters["callback_url"])
    log = flow_run_logger(flow_run, flow)
    with _prefect_may_be_away(log, "who has cancelled it is not known"):
        cancelled = state.is_cancelling() or state.is_cancelled()
        if cancelled and is_brought_back(flow_run.id):
            return
    result: Mapping[str, Any] = {}
    with _prefect_may_be_away(log, "the callback goes out without the result"):
        result = _result_of(flow_run, state)
    event, settings = event_of(flow_run, state, result), get_settings()
    with _prefect_may_be_away(log, "the callback is sent for a minute and no longer"):
        if _left_to_the_outbox(flow_run, url, event, settings, log):
            return
    delivery = deliver(url, event, settings)
    if not delivery.delivered:
        log.warning("the callback to %s failed: %s", delivery.to, delivery.error)
    with _prefect_may_be_away(log, "what became of the callback is not recorded"):
        note(flow_run.id, delivery)


def _left_to_the_outbox(
    flow_run: "FlowRun",
    url: str,
    event: CallbackEvent,
    settings: Settings,
    log: "Logger | LoggerAdapter[Logger]",
) -> bool:
    """Send an event once, or put it behind those that wait; False where nothing would sweep them.

    Side effects: a POST; what became of it, as an artifact.
    """
    with get_client(sync_client=True) as client:
        if find_recover(client) is None:
            return False
        trouble: str | None = ""
        if settings.callback_secret is not None and not outbox.waiting_of(client, flow_run.id):
            try:
                trouble = asyncio.run(send_once(url, event, settings))
            except SourceRefusedError as error:
                log.warning("the callback is refused: %s", error)
                _note(client, flow_run.id, delivery_of(url, event, str(error), 1))
                return True
        if trouble is None:
            _note(client, flow_run.id, delivery_of(url, event, None, 1))
        else:
            attempts = 1 if trouble else 0
            outbox.put(client, flow_run.id, event, attempts=attempts, trouble=trouble)
            why = trouble or "it waits for an earlier one"
            log.warning("the callback is sent later by recover: %s", why)
    return True


@contextlib.contextmanager
def _prefect_may_be_away(log: "Logger | LoggerAdapter[Logger]", so: str) -> Iterator[None]:
    """Log a failure to reach Prefect and go on: the caller is told all the same.

    Args:
        log: the run's.
        so: what follows from the failure, in words.
    """
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError) as error:
        log.warning("%s: %s", so, error)


def deliver(url: str, event: CallbackEvent, settings: Settings) -> Delivery:
    """Send an event; try again, for a minute at most, as long as that can help."""
    if settings.callback_secret is None:
        return delivery_of(url, event, NO_SECRET, 0)
    sending = _Sending(url, event, settings)
    return delivery_of(url, event, asyncio.run(sending.run()), sending.attempts)


class _Sending:
    """The attempts of this process to send one callback."""

    def __init__(self, url: str, event: CallbackEvent, settings: Settings) -> None:
        self.attempts = 0
        self._url, self._event, self._settings = url, event, settings
        self._trouble = "no attempt has ended"

    async def run(self) -> str | None:
        """Send until the receiver takes it; returns None then, else why it did not."""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                for delay in (*DELAYS, None):
                    self.attempts += 1
                    trouble = await send_once(self._url, self._event, self._settings)
                    if trouble is None:
                        return None
                    self._trouble = trouble
                    if delay is not None:
                        await asyncio.sleep(delay * random.uniform(0.5, 1.5))
        except SourceRefusedError as error:
            return str(error)
        except TimeoutError:
            return f"given up after {LIMIT_SECONDS:g} s: {self._trouble}"
        return f"given up after {self.attempts} attempts: {self._trouble}"


def _result_of(flow_run: "FlowRun", state: "State[Any]") -> Mapping[str, Any]:
    """The newest result that the run has published; {} if it did not complete."""
    if not state.is_completed():
        return {}
    with get_client(sync_client=True) as client:
        return read_result(newest_artifact(client, flow_run.id, RESULT_KEY))


def note(run_id: UUID, delivery: Delivery) -> None:
    """Record what became of a callback."""
    with get_client(sync_client=True) as client:
        _note(client, run_id, delivery)


def _note(client: SyncPrefectClient, run_id: UUID, delivery: Delivery) -> None:
    word = "delivered" if delivery.delivered else "not delivered"
    client.create_artifact(
        ArtifactCreate(
            key=CALLBACK_KEY,
            type="table",
            data=json.dumps([asdict(delivery)]),
            description=f"{delivery.event} {word} to {delivery.to}",
            flow_run_id=run_id,
        )
    )
