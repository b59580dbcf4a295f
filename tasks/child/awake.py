"""A clock that counts only the time in which this process was running.

Limits compare how long a child was silent. If the machine sleeps, or somebody stops the process
(SIGSTOP, a frozen container), nothing can be heard in that time, and it says nothing about the
child. The monotonic clock stands still while Linux sleeps, but it runs on while a process is
stopped, and in a virtual machine it may jump. So a thread looks at it twice a second, and a step
that is too long for a running process counts as `MOST_SECONDS`.
"""

import threading
import time
from collections.abc import Callable

TICK_SECONDS = 0.5
"""Time between two looks at the clock."""
MOST_SECONDS = 3.0
"""The most that one step counts: a process that is only kept from the cores loses nothing."""


class AwakeClock:
    """Seconds in which this process was running; they never run backward."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Count from now on; `now` gives monotonic seconds."""
        self._now = now
        self._last, self._awake = now(), 0.0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def seconds(self) -> float:
        """Seconds since the clock was made, without the time in which the process stood still."""
        with self._lock:
            now = self._now()
            self._awake += min(max(0.0, now - self._last), MOST_SECONDS)
            self._last = now
            return self._awake

    def start(self) -> None:
        """Start the thread that looks at the clock; does nothing if it runs already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._tick, daemon=True, name="awake clock")
            self._thread.start()

    def _tick(self) -> None:
        while True:
            self.seconds()
            time.sleep(TICK_SECONDS)


_clock = AwakeClock()


def awake_seconds() -> float:
    """Seconds in which this process was running; only differences mean something."""
    _clock.start()
    return _clock.seconds()
