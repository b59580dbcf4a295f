"""The watch over a child that makes segments of a job which another run works on."""

import contextlib
from collections.abc import Callable

from seedvr2_core.child.protocol import Event, Idle, SegmentDone, Waiting
from tasks.child.session import SegmentWatch


class Helper(SegmentWatch):
    """Makes segments of a job that another run works on."""

    def work(self, enough: Callable[[Event], bool]) -> None:
        """Make what nobody else makes, until nothing of that is left.

        Args:
            enough: asked after each segment that is made, and again and again while the child waits
                for a GPU; True ends the work.

        Raises:
            StalledError, SeedVR2Error: as `wait_for`.
        """
        self._enough = enough
        with self._closed_on_error(), contextlib.suppress(_HelpEndsError):
            self._start_child()
            while self._pace is not None and not isinstance(self._take_event("helping"), Idle):
                pass
            self.let_rest()
        self.close()

    def _next_event(self, stall_seconds: float, doing: str) -> Event:
        event = super()._next_event(stall_seconds, doing)
        if isinstance(event, SegmentDone | Waiting) and self._enough(event):
            raise _HelpEndsError
        return event


class _HelpEndsError(Exception):
    """A helper is to stop now."""
