"""Tells the caller how a run ended: one signed POST to the address that the request named.

`call_back` is a hook of the flow: Prefect runs it when the run ends. It goes through the same safe
client as downloads, tries again for a minute, and never changes what became of the run. Its body
is signed with SEEDVR2_CALLBACK_SECRET; docs/callbacks.md shows how a receiver checks that.
"""

import asyncio
import contextlib
import hashlib
import hmac
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
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import PrefectException
from prefect.logging.loggers import flow_run_logger
from pydantic import SecretStr

from seedvr2_core.errors import SourceRefusedError, SourceUnavailableError
from tasks.net.answers import may_heal
from tasks.net.untrusted import check_reachable, check_url, post, shown_url
from tasks.run.appointments import is_brought_back
from tasks.run.artifacts import RESULT_KEY
from tasks.run.routing import LABEL_ROUTED_FROM
from tasks.schemas import Record
from tasks.settings import Settings, get_settings
from tasks.step import step

if TYPE_CHECKING:
    from logging import Logger, LoggerAdapter

    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

CALLBACK_KEY = "upscale-callback"
"""Artifact that says whether the caller was told."""
SIGNATURE_HEADER = "SeedVR2-Signature"
EVENT_HEADER = "SeedVR2-Event-Id"
LIMIT_SECONDS = 60.0
"""A worker is not kept longer than this."""
DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts, before jitter."""

_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_EVENTS = UUID("6f0f8a0e-5b8e-4a39-9a0c-2f6f1a3f7c55")
_PREFIX = "Flow run encountered an exception: "
_MAX_ERROR = 4000

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
    """The same for the same run and status: what was seen already can be dropped."""
    occurred_at: str
    job_id: str
    routed_from: str | None
    """The `route` run that created the job, if one did: the id its caller holds."""
    attempt: int
    status: Status
    state: str
    """Prefect's name for it: Completed, Failed, TimedOut, ..."""
    filename: str | None
    cdn_url: str | None
    sha256: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a callback."""

    event: str
    event_id: str
    to: str
    """Without query string."""
    delivered: bool
    attempts: int
    error: str | None = None


@step(name="check callback", retries=2, retry_delay_seconds=[1, 5])
def check_callback(url: str) -> None:
    """Look at a callback's address before anything is spent on the job; nothing is sent.

    Raises: SourceRefusedError (final): it leads to a private address. SourceUnavailableError
        (retried): the name is not known.
    """
    asyncio.run(check_reachable(url, get_settings()))


def call_back(flow: "Flow[..., Any] | None", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Tell the caller, if the request named an address; the hook of the flow's four ends.

    Also for whoever ends a run from outside, where no hook runs; `flow` is not needed then.

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
    """The run has ended as it has; a record that cannot be read or kept changes nothing of it."""
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError) as error:
        log.warning("%s: %s", so, error)


def event_of(flow_run: "FlowRun", state: "State[Any]", result: Mapping[str, Any]) -> CallbackEvent:
    """What a run's end is told as.

    Args:
        flow_run: the run.
        state: the one it ended in (or Cancelling, which hooks see instead of Cancelled).
        result: row of the result artifact; empty where there is none.
    """
    status = _STATUSES[state.type.value]
    routed_from = flow_run.labels.get(LABEL_ROUTED_FROM)
    return CallbackEvent(
        event=f"upscale.{status}",
        event_id=str(uuid5(_EVENTS, f"{flow_run.id}:{status}")),
        occurred_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job_id=str(flow_run.id),
        routed_from=str(routed_from) if routed_from else None,
        attempt=flow_run.run_count,
        status=status,
        state=state.name or status,
        filename=result.get("filename"),
        cdn_url=result.get("cdn_url"),
        sha256=result.get("sha256"),
        error=None if status == "completed" else _error(state),
    )


def deliver(url: str, event: CallbackEvent, settings: Settings) -> Delivery:
    """Send an event, again and again while that may help, for a minute at most."""
    shown, body = shown_url(url), event.model_dump_json().encode()
    if settings.callback_secret is None:
        told, attempts = "no secret to sign with is set here (SEEDVR2_CALLBACK_SECRET)", 0
    else:
        headers = {"Content-Type": "application/json", EVENT_HEADER: event.event_id}
        sending = _Sending(url, body, headers, settings.callback_secret, settings)
        told, attempts = asyncio.run(sending.run()), sending.attempts
    return Delivery(event.event, event.event_id, shown, told is None, attempts, told)


def signature(body: bytes, secret: SecretStr, *, timestamp: int) -> str:
    """The signature header's value: HMAC-SHA256 over "timestamp.body"."""
    signed = f"{timestamp}.".encode() + body
    digest = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


class _Sending:
    """The attempts at one callback."""

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
        """None when the receiver has taken it, else why not."""
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
        """One POST; False: another may help.

        Raises:
            SourceRefusedError: no other would.
        """
        self.attempts += 1
        address = check_url(self._url, self._settings)
        signed = signature(self._body, self._secret, timestamp=int(time.time()))
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
    """Why there is no output, in the words of the state."""
    message = (state.message or "").removeprefix(_PREFIX)
    return message[:_MAX_ERROR] or state.name or ""


def _result_of(flow_run: "FlowRun", state: "State[Any]") -> Mapping[str, Any]:
    """The newest result that the run has published."""
    if not state.is_completed():
        return {}
    of_run = {"flow_run_id": {"any_": [flow_run.id]}, "key": {"any_": [RESULT_KEY]}}
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter.model_validate(of_run),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    rows = json.loads(str(found[0].data)) if found else []
    return rows[0] if rows else {}


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
