"""What `seedvr2 compare` shows while it works: a bar on a terminal, lines elsewhere."""

import time

from rich.console import Console
from rich.progress import TaskProgressColumn, TimeElapsedColumn

from deployments.cli.screen import LINE_SECONDS, Bar, Lines
from deployments.host.exits import can_draw

DOING = {"probe": "reading both videos", "compare": "comparing", "join": "adding the sound"}
"""Phase -> what people read; other phases are not shown."""


class CompareLines(Lines):
    """A line for each phase, and one now and then."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._shown, self._last = "", 0.0

    def progressed(self, phase: str, done: int, total: int) -> None:
        """Print a line where there is news."""
        now = time.monotonic()
        if phase not in DOING or (phase == self._shown and now - self._last < LINE_SECONDS):
            return
        self._shown, self._last = phase, now
        frames = f": {done} of {total} frames" if phase == "compare" else ""
        self.say(DOING[phase] + frames)


class CompareBar(Bar):
    """How much of both videos was compared, and for how long."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, TaskProgressColumn(), TimeElapsedColumn(), total=None)

    def progressed(self, phase: str, done: int, total: int) -> None:
        """Move the bar."""
        if phase in DOING:
            self._bar.update(
                self._task, description=DOING[phase], completed=done, total=total or None
            )


def open_compare_display(console: Console) -> CompareLines | CompareBar:
    """A bar on a terminal, else lines."""
    return CompareBar(console) if can_draw(console) else CompareLines(console)
