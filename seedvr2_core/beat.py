"""The progress callback that long work calls, and the one for callers who do not listen.

Beats are how the watchdog knows that a child process is alive, so they come from the thread that
does the work, never from a timer.
"""

from collections.abc import Callable

Beat = Callable[[str, int, int], None]
"""Called as beat(phase, done, total); `total` is 0 where it is not known."""


def no_beat(phase: str, done: int, total: int) -> None:
    """Ignore the progress: the default of functions that take a `Beat`."""
