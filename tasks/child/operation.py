"""One request to a fresh child that ends when it has answered."""

import time
from typing import TypeVar

from seedvr2_core.child.protocol import Event, Request
from tasks.child.guard import Child
from tasks.run import current

STALL_SECONDS = 60.0
"""Longest silence: probing, joining and looking for cuts send a heartbeat every few seconds."""
LIMIT_SECONDS = 2 * 3600.0
"""A two-hour 4k source takes about half an hour to decode; what hangs, stalls first."""

E = TypeVar("E", bound=Event)


def run_operation(request: Request[E], *, doing: str) -> E:
    """Let a fresh child carry out one request.

    Args:
        request: what to do.
        doing: the same in words, for messages: "probing the source".

    Returns:
        The event that answers the request.

    Raises:
        SeedVR2Error: what the child reported, that it died, or that a limit was passed.
    """
    child = Child(log=current().log)
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        child.send(request)
        while True:
            event = child.next_event(stall_seconds=STALL_SECONDS, deadline=deadline, doing=doing)
            if request.is_answered_by(event):
                return event
    finally:
        child.close()
