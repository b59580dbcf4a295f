"""Bounded queues between the stages of a pipeline, which also pass failures on.

If a stage fails, the next stage receives all finished items and then the error, so no finished work
is lost. The previous stage has nobody to work for any more: it gets `Stopped` at its next `put`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The next stage has ended; this exception ends the current one without an error of its own."""


class Channel(Generic[T]):
    """A bounded queue from one thread to another."""

    def __init__(self, limit: int, *, size_of: Callable[[T], int] = lambda item: 1) -> None:
        """Make a queue.

        Args:
            limit: the items in it have at most this size together, but one of any size fits.
            size_of: an item's size, which must stay the same.
        """
        self.waited_seconds = 0.0
        """How long the getter has waited for items."""
        self.blocked_seconds = 0.0
        """How long the putter has waited for room."""
        self._limit, self._size_of = limit, size_of
        self._held = 0
        """Size of the items in the queue."""
        self._items: deque[T] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Put an item into the queue; waits while the queue is full.

        Raises:
            Stopped: the getter has ended.
        """
        began, size = time.monotonic(), self._size_of(item)
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._items or self._held + size <= self._limit
            )
            if self._closed:
                raise Stopped
            self._items.append(item)
            self._held += size
            self._changed.notify_all()
        self.blocked_seconds += time.monotonic() - began

    def get(self) -> T:
        """Take the oldest item; waits while the queue is empty.

        Raises:
            BaseException: the error that ended the putter, once all its items are taken.
        """
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._error is not None)
            self.waited_seconds += time.monotonic() - began
            if not self._items:
                assert self._error is not None
                raise self._error
            item = self._items.popleft()
            self._held -= self._size_of(item)
            self._changed.notify_all()
            return item

    def fail(self, error: BaseException) -> None:
        """Tell the getter that the putter has ended; it learns of the error after the last item."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Tell the putter that the getter has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class InFlight:
    """Counts the segments that are begun and not on disk yet: a kill would lose these."""

    def __init__(self, limit: int) -> None:
        """Allow at most `limit` of them at once."""
        self._limit = limit
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()

    def begin(self) -> None:
        """Begin a segment; waits until there is one less than the limit.

        Raises:
            Stopped: no segment will be committed any more.
        """
        self._wait_for_at_most(self._limit - 1)
        with self._changed:
            self._count += 1

    def wait_for_disk(self) -> None:
        """Wait until all segments that were begun are on disk.

        Raises:
            Stopped: no segment will be committed any more.
        """
        self._wait_for_at_most(0)

    def committed(self) -> None:
        """Count one segment less: it is on disk."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Tell all who wait that no segment will be committed any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait_for_at_most(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._count <= count)
            if self._closed:
                raise Stopped
