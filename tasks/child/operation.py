"""One request to a fresh child."""

import time

from tasks.child.guard import Child, Event
from tasks.run import record

STALL_SECONDS = 60.0
LIMIT_SECONDS = 2 * 3600.0
"""A two-hour 4k source takes about half an hour to decode; what hangs, stalls first."""


def run_operation(request: dict[str, object], *, until: str, doing: str) -> Event:
    """Let a fresh child carry out one request and wait for its closing event.

    Raises:
        SeedVR2Error: what the child reported, that it died, or that a limit was passed.
    """
    child = Child(log=record.current().log)
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        child.send(request)
        while True:
            event = child.next_event(stall=STALL_SECONDS, deadline=deadline, doing=doing)
            if event["event"] == until:
                return event
    finally:
        child.close()
