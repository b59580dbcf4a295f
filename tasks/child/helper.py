"""The watch over a child that makes segments of a job which another run works on."""

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
            StalledError, SeedVR2Error: as `SegmentWatch.guarded`.
        """
        try:
            while True:
                with self.guarded("helping") as (child, limits):
                    event = child.next_event(**limits)
                    if isinstance(event, SegmentDone | Waiting) and enough(event):
                        return
                    self.note(event)
                    if isinstance(event, Idle):
                        break
            self.let_rest()
        finally:
            self.close()
