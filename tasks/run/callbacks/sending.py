"""Send one callback: a signed POST through the same safe client as downloads."""

import time
from dataclasses import dataclass

import httpx

from seedvr2_core.errors import SourceRefusedError, SourceUnavailableError
from tasks.net.answers import may_heal
from tasks.net.signing import signature
from tasks.net.untrusted import check_url, post, shown_url
from tasks.run.callbacks.events import CallbackEvent
from tasks.settings import Settings

SIGNATURE_HEADER = "SeedVR2-Signature"
EVENT_HEADER = "SeedVR2-Event-Id"
NO_SECRET = "no secret to sign with is set here (SEEDVR2_CALLBACK_SECRET)"
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)


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


def delivery_of(url: str, event: CallbackEvent, trouble: str | None, attempts: int) -> Delivery:
    """What became of an event; `trouble` is None if it was delivered."""
    shown = shown_url(url)
    return Delivery(event.event, event.event_id, shown, trouble is None, attempts, trouble)


async def send_once(url: str, event: CallbackEvent, settings: Settings) -> str | None:
    """Send one POST.

    Args:
        url: where to.
        event: the body.
        settings: the secret, and which addresses may be reached.

    Returns:
        None if the receiver took it; else what went wrong, where another attempt may help.

    Raises:
        SourceRefusedError: no further attempt can help.
    """
    if settings.callback_secret is None:
        raise SourceRefusedError(NO_SECRET)
    address, body = check_url(url, settings), event.model_dump_json().encode()
    signed = signature(
        body, settings.callback_secret, host=address.host, timestamp=int(time.time())
    )
    headers = {
        "Content-Type": "application/json",
        EVENT_HEADER: event.event_id,
        SIGNATURE_HEADER: signed,
    }
    try:
        status = await post(address, body, settings, headers=headers, timeout=_TIMEOUT)
    except SourceUnavailableError as error:
        return str(error)
    if httpx.codes.is_success(status):
        return None
    trouble = f"{address.shown} answered {status}"
    if not may_heal(status):
        raise SourceRefusedError(f"{trouble}; expected 2xx, redirects are not followed")
    return trouble
