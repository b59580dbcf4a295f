"""Tell the caller how a run ended: one signed POST to the address that the request named.

`call_back` is a hook of the flow: Prefect calls it when the run has ended. It sends through the
same safe client as downloads, tries again for up to a minute, and never changes the run's outcome.
The body is signed (`tasks/net/signing.py`); docs/callbacks.md shows how a receiver checks it.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID, uuid5

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import PrefectException
from prefect.logging.loggers import flow_run_logger
from pydantic import SecretStr

from seedvr2_core.errors import SourceRefusedError, SourceUnavailableError, split_code
from tasks.net.answers import may_heal
from tasks.net.signing import signature
from tasks.net.untrusted import check_reachable, check_url, post, shown_url
from tasks.run.appointments import is_brought_back
from tasks.run.artifacts import RESULT_KEY, newest_artifact, read_result
from tasks.run.attempts import attempts_of
from tasks.run.routing import LABEL_ROUTED_FROM
from tasks.schemas import Record
from tasks.settings import Settings, get_settings
from tasks.step import step

if TYPE_CHECKING:
    from logging import Logger, LoggerAdapter

    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

CALLBACK_KEY = "upscale-callback"
"""Key of the artifact that says whether the caller was told."""
SIGNATURE_HEADER = "SeedVR2-Signature"
EVENT_HEADER = "SeedVR2-Event-Id"
LIMIT_SECONDS = 60.0
"""Longest time for all attempts: the worker is not free before they end."""
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts, before jitter."""

_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_EVENTS = UUID("6f0f8a0e-5b8e-4a39-9a0c-2f6f1a3f7c55")
"""Namespace of the event ids."""
_PREFIX = "Flow run encountered an exception: "
"""What Prefect puts before an exception's words in a state's message."""
_MAX_ERROR = 4000
"""Longest error text in an event, in characters."""

Status = Literal["completed", "failed", "cancelled", "crashed"]
_STATUSES: Mapping[str, Status] = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CRASHED": "crashed",
    "CANCELLING": "cancelled",
    "CANCELLED": "cancelled",
}


class CallbackEvent(Record):
    """The body of a callback."""

    event: str
    """upscale.completed, upscale.failed, upscale.cancelled, upscale.crashed."""
    event_id: str
    """The same run and status have the same id, so that a receiver can drop what it has seen."""
    occurred_at: str
    job_id: str
    routed_from: str | None
    """The `route` run that created the job, if one did; its id is the one that the caller holds."""
    attempt: int
    status: Status
    state: str
    """Prefect's name of the state: Completed, Failed, TimedOut, ..."""
    filename: str | None
    cdn_url: str | None
    sha256: str | None
    error: str | None
    error_code: str | None = None
    """Of the error's class, as docs/errors.md lists it; None if it has none."""
    error_remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a callback."""

    event: str
    event_id: str
    to: str
    """The address, without its query string."""
    delivered: bool
    attempts: int
    error: str | None = None


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
    url = flow_run.parameters.get("callback_url")
    if not url:
        return
    log = flow_run_logger(flow_run, flow)
    with _prefect_may_be_away(log, "who has cancelled it is not known"):
        cancelled = state.is_cancelling() or state.is_cancelled()
        if cancelled and is_brought_back(flow_run.id):
            return
    result: Mapping[str, Any] = {}
    with _prefect_may_be_away(log, "the callback goes out without the result"):
        result = _result_of(flow_run, state)
    delivery = deliver(str(url), event_of(flow_run, state, result), get_settings())
    if not delivery.delivered:
        log.warning("the callback to %s failed: %s", delivery.to, delivery.error)
    with _prefect_may_be_away(log, "what became of the callback is not recorded"):
        _note(flow_run.id, delivery)


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


def event_of(flow_run: "FlowRun", state: "State[Any]", result: Mapping[str, Any]) -> CallbackEvent:
    """What the caller is told about a run's end.

    Args:
        flow_run: the run.
        state: the state in which it ended; hooks get Cancelling instead of Cancelled.
        result: row of the result artifact; empty if there is none.
    """
    status = _STATUSES[state.type.value]
    routed_from = flow_run.labels.get(LABEL_ROUTED_FROM)
    told, kind = split_code(_error(state))
    return CallbackEvent(
        event=f"upscale.{status}",
        event_id=str(uuid5(_EVENTS, f"{flow_run.id}:{status}")),
        occurred_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job_id=str(flow_run.id),
        routed_from=str(routed_from) if routed_from else None,
        attempt=attempts_of(flow_run),
        status=status,
        state=state.name or status,
        filename=result.get("filename"),
        cdn_url=result.get("cdn_url"),
        sha256=result.get("sha256"),
        error=None if status == "completed" else told[:_MAX_ERROR],
        error_code=kind.code if kind else None,
        error_remedy=kind.remedy if kind else None,
    )


def deliver(url: str, event: CallbackEvent, settings: Settings) -> Delivery:
    """Send an event; try again, for a minute at most, as long as that can help."""
    shown, body = shown_url(url), event.model_dump_json().encode()
    if settings.callback_secret is None:
        told, attempts = "no secret to sign with is set here (SEEDVR2_CALLBACK_SECRET)", 0
    else:
        headers = {"Content-Type": "application/json", EVENT_HEADER: event.event_id}
        sending = _Sending(url, body, headers, settings.callback_secret, settings)
        told, attempts = asyncio.run(sending.run()), sending.attempts
    return Delivery(event.event, event.event_id, shown, told is None, attempts, told)


class _Sending:
    """The attempts to send one callback."""

    def __init__(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        secret: SecretStr,
        settings: Settings,
    ) -> None:
        self.attempts = 0
        self._url, self._body, self._headers = url, body, headers
        self._secret, self._settings = secret, settings
        self._trouble = "no attempt has ended"

    async def run(self) -> str | None:
        """Send until the receiver takes it; returns None then, else why it did not."""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                for delay in (*DELAYS, None):
                    if await self._try():
                        return None
                    if delay is not None:
                        await asyncio.sleep(delay * random.uniform(0.5, 1.5))
        except SourceRefusedError as error:
            return str(error)
        except TimeoutError:
            return f"given up after {LIMIT_SECONDS:g} s: {self._trouble}"
        return f"given up after {self.attempts} attempts: {self._trouble}"

    async def _try(self) -> bool:
        """Send one POST.

        Returns:
            True if the receiver took it; False if another attempt may help.

        Raises:
            SourceRefusedError: no further attempt can help.
        """
        self.attempts += 1
        address = check_url(self._url, self._settings)
        signed = signature(self._body, self._secret, host=address.host, timestamp=int(time.time()))
        headers = {**self._headers, SIGNATURE_HEADER: signed}
        try:
            status = await post(
                address, self._body, self._settings, headers=headers, timeout=_TIMEOUT
            )
        except SourceUnavailableError as error:
            self._trouble = str(error)
            return False
        if httpx.codes.is_success(status):
            return True
        self._trouble = f"{address.shown} answered {status}"
        if not may_heal(status):
            raise SourceRefusedError(f"{self._trouble}; expected 2xx, redirects are not followed")
        return False


def _error(state: "State[Any]") -> str:
    """Why there is no output: the state's message, else its name."""
    message = (state.message or "").removeprefix(_PREFIX)
    return message or state.name or ""


def _result_of(flow_run: "FlowRun", state: "State[Any]") -> Mapping[str, Any]:
    """The newest result that the run has published; {} if it did not complete."""
    if not state.is_completed():
        return {}
    with get_client(sync_client=True) as client:
        return read_result(newest_artifact(client, flow_run.id, RESULT_KEY))


def _note(run_id: UUID, delivery: Delivery) -> None:
    """Record what became of a callback."""
    word = "delivered" if delivery.delivered else "not delivered"
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactCreate(
                key=CALLBACK_KEY,
                type="table",
                data=json.dumps([asdict(delivery)]),
                description=f"{delivery.event} {word} to {delivery.to}",
                flow_run_id=run_id,
            )
        )
