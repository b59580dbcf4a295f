"""What joins the stages of a pipeline: bounded queues that failures travel through as well.

A stage that fails tells both neighbours. The one behind gets everything that was put before, then
the error, so that work which was finished is not lost. The one in front has nobody to work for any
more: its next `put` raises `Stopped`.
"""

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The stage behind has ended; unwinds this one quietly."""


class Channel(Generic[T]):
    """A bounded queue between two threads."""

    def __init__(self, size: int) -> None:
        """Holds `size` items at most."""
        self.waited_seconds = 0.0
        """Of the getter, for items."""
        self.blocked_seconds = 0.0
        """Of the putter, for room."""
        self._size = size
        self._items: deque[T] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Wait for room.

        Raises:
            Stopped: nobody gets items any more.
        """
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._size)
            if self._closed:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()
        self.blocked_seconds += time.monotonic() - began

    def get(self) -> T:
        """Wait for an item.

        Raises:
            BaseException: what the putter failed with, after its last item.
        """
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._error is not None)
            self.waited_seconds += time.monotonic() - began
            if not self._items:
                assert self._error is not None
                raise self._error
            self._changed.notify_all()
            return self._items.popleft()

    def fail(self, error: BaseException) -> None:
        """The putter has ended with an error; the getter hears of it after the last item."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """The getter has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class InFlight:
    """Counts segments that are begun and not on disk yet: what a kill now would cost."""

    def __init__(self, limit: int) -> None:
        """At most `limit` at once."""
        self._limit = limit
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()

    def begin(self) -> None:
        """Wait until one more may be begun.

        Raises:
            Stopped: no segment will be committed any more.
        """
        self._wait_for_at_most(self._limit - 1)
        with self._changed:
            self._count += 1

    def wait_for_disk(self) -> None:
        """Wait until all that were begun are on disk.

        Raises:
            Stopped: no segment will be committed any more.
        """
        self._wait_for_at_most(0)

    def committed(self) -> None:
        """One of them is on disk."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """No segment will be committed any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait_for_at_most(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._count <= count)
            if self._closed:
                raise Stopped
