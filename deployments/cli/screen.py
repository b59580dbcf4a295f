"""What the command shows while a job runs: a live bar on a terminal, plain lines elsewhere.

`open_display` shows a job that runs in this process, `watch` one that a gateway runs. Imports no
Prefect, because the checks before a job need to answer at once.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tasks.schemas import PlannedJob

if TYPE_CHECKING:
    from tasks.run.record import JobProgress

LINE_SECONDS = 5.0
"""Plain lines about a job of this process come at most this often."""
WATCH_LINE_SECONDS = 10.0
"""The same for a job of a gateway."""
POLL_SECONDS = 1.0
ENDED = ("completed", "failed", "cancelled")


def describe(job: PlannedJob) -> str:
    """The plan in one line."""
    segments = "1 segment" if job.num_segments == 1 else f"{job.num_segments} segments"
    return (
        f"{job.source.name}: {job.num_frames} frames -> {job.width}x{job.height}, {job.engine} on "
        f"{job.device}, {segments}, about {job.eta_seconds:.0f} s"
    )


def where_it_is(job: dict[str, Any]) -> str:
    """The state of a gateway's job in one line: "processing, encode, 41 %, 12 s on local"."""
    parts = [job["status"]]
    if job["state"].lower() not in (job["status"], "running", "scheduled", "pending"):
        parts.append(job["state"])
    if job["status"] == "processing" and job["phase"]:
        parts.append(job["phase"])
    parts += [f"{job['progress']:.0f} %", f"{job['elapsed_seconds']:.0f} s"]
    return ", ".join(parts) + (f" on {job['gpu_type']}" if job["gpu_type"] else "")


class PlainScreen:
    """Lines of text on stderr, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to put back."""

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class LiveScreen(PlainScreen):
    """A bar that moves; lines stand above it."""

    def __init__(self, console: Console, *columns: ProgressColumn, total: float | None) -> None:
        super().__init__(console)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *columns,
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


class PlainDisplay(PlainScreen):
    """A job of this process: a line with the plan, then one every few seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = 0.0

    def planned(self, job: PlannedJob) -> None:
        """Show the plan and its notes."""
        show_plan(self, job)

    def progressed(self, progress: "JobProgress") -> None:
        """Show how many frames are finished, not too often."""
        now = time.monotonic()
        if progress.phase != "encode" or now - self._last < LINE_SECONDS:
            return
        self._last = now
        self.say(f"{progress.frames} of {progress.num_frames} frames ({progress.percent:.0f} %)")


class LiveDisplay(LiveScreen):
    """A job of this process: a bar with frames, elapsed and remaining time."""

    def __init__(self, console: Console) -> None:
        columns = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        super().__init__(console, *columns, total=None)

    def planned(self, job: PlannedJob) -> None:
        """Show the plan and set the bar's length."""
        show_plan(self, job)
        self._bar.update(self._task, description="loading the engine", total=job.num_frames)

    def progressed(self, progress: "JobProgress") -> None:
        """Move the bar."""
        at_work = progress.phase in ("restore", "encode", "decode")
        doing = "restoring" if at_work else progress.phase
        self._bar.update(self._task, description=doing, completed=progress.frames)


def show_plan(screen: PlainScreen, job: PlannedJob) -> None:
    """The plan and its notes, a line each."""
    screen.say(describe(job))
    for note in job.notes:
        screen.say(f"note: {note}")


class PlainWatch(PlainScreen):
    """A gateway's job: a line when its state or phase changes, else every few seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._shown: tuple[object, ...] = ()
        self._last = 0.0
        self._progress = 0.0

    def show(self, job: dict[str, Any]) -> None:
        """Show where the job is, if that is news."""
        news = (job["status"], job["state"], job["phase"])
        now = time.monotonic()
        moved = job["progress"] != self._progress and now - self._last >= WATCH_LINE_SECONDS
        if news == self._shown and not moved:
            return
        self._shown, self._last, self._progress = news, now, job["progress"]
        self.say(where_it_is(job))


class LiveWatch(LiveScreen):
    """A gateway's job: one line with a bar that moves."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, TaskProgressColumn(), total=100.0)

    def show(self, job: dict[str, Any]) -> None:
        """Move the bar."""
        self._bar.update(self._task, description=where_it_is(job), completed=job["progress"])


def open_display(console: Console) -> PlainDisplay | LiveDisplay:
    """The display of a job in this process that fits where stderr goes."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def watch(ask: Callable[[], dict[str, Any]], console: Console) -> dict[str, Any]:
    """Show a gateway's job until it has ended; returns its last status.

    Args:
        ask: gives the job's status.
        console: where it is shown.
    """
    with LiveWatch(console) if console.is_terminal else PlainWatch(console) as shown:
        while True:
            job = ask()
            shown.show(job)
            if job["status"] in ENDED:
                return job
            time.sleep(POLL_SECONDS)
