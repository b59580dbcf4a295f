"""One request to a fresh child that ends when it has answered."""

from typing import TypeVar

from seedvr2_core.child.protocol import Event, Heartbeat, Request
from tasks.child.guard import Child
from tasks.run import current

STALL_SECONDS = 60.0
"""Longest silence: probing, joining and looking for cuts send a heartbeat every few seconds, and
planning with each step. There is no other limit: a source is read once, so whoever beats comes to
its end."""

E = TypeVar("E", bound=Event)


def run_operation(request: Request[E], *, doing: str) -> E:
    """Let a fresh child carry out one request; its heartbeats go into the run's record.

    Args:
        request: what to do.
        doing: the same in words, for messages: "probing the source".

    Returns:
        The event that answers the request.

    Raises:
        SeedVR2Error: what the child reported, that it died, or that it hangs.
    """
    child = Child(log=current().log)
    try:
        child.send(request)
        while True:
            event = child.next_event(stall_seconds=STALL_SECONDS, doing=doing)
            if isinstance(event, Heartbeat):
                current().beat(event.phase, event.done, event.total, stall_seconds=STALL_SECONDS)
            if request.is_answered_by(event):
                return event
    finally:
        child.close()
