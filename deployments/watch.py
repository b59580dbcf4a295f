"""A job of the gateway on the screen until it has ended: a live bar, plain lines elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

POLL_SECONDS = 1.0
LINE_SECONDS = 10.0
ENDED = ("completed", "failed", "cancelled")


def words(job: dict[str, Any]) -> str:
    """Where a job is, in one line: "processing, restore, 41 %, 12 s on local"."""
    parts = [job["status"]]
    if job["state"].lower() not in (job["status"], "running", "scheduled", "pending"):
        parts.append(job["state"])
    if job["status"] == "processing" and job["phase"]:
        parts.append(job["phase"])
    parts += [f"{job['progress']:.0f} %", f"{job['elapsed_seconds']:.0f} s"]
    return ", ".join(parts) + (f" on {job['gpu_type']}" if job["gpu_type"] else "")


class PlainWatch:
    """A line when the status or phase changes, and every few seconds while there is progress."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: tuple[object, ...] = ()
        self._last = 0.0
        self._progress = 0.0

    def __enter__(self) -> "PlainWatch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to put back."""

    def show(self, job: dict[str, Any]) -> None:
        """Show where the job is, if it is news."""
        news = (job["status"], job["state"], job["phase"])
        now = time.monotonic()
        moved = job["progress"] != self._progress and now - self._last >= LINE_SECONDS
        if news == self._shown and not moved:
            return
        self._shown, self._last, self._progress = news, now, job["progress"]
        self._console.print(words(job), highlight=False, markup=False, soft_wrap=True)


class LiveWatch(PlainWatch):
    """One line with a bar that moves."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=100.0)

    def __enter__(self) -> "LiveWatch":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, job: dict[str, Any]) -> None:
        """Move the bar."""
        self._bar.update(self._task, description=words(job), completed=job["progress"])


def watch(ask: Callable[[], dict[str, Any]], console: Console) -> dict[str, Any]:
    """Show a job until it has ended; its last status.

    Args:
        ask: gives the job's status.
        console: where it is shown.
    """
    screen = LiveWatch(console) if console.is_terminal else PlainWatch(console)
    with screen:
        while True:
            job = ask()
            screen.show(job)
            if job["status"] in ENDED:
                return job
            time.sleep(POLL_SECONDS)
