"""What the commands show while a job runs: a moving bar on a terminal, lines of text elsewhere.

`open_display` shows a job that runs in this process, `watch` a job that a gateway runs. Imports no
Prefect, because the checks before a job must answer at once.
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
"""Least time between two lines about a job of this process."""
WATCH_LINE_SECONDS = 10.0
"""Least time between two lines about a gateway's job, unless its state or phase changes."""
POLL_SECONDS = 1.0
ENDED = ("completed", "failed", "cancelled")


def plan_line(job: PlannedJob) -> str:
    """The plan of a job in one line."""
    segments = "1 segment" if job.num_segments == 1 else f"{job.num_segments} segments"
    return (
        f"{job.source.name}: {job.num_frames} frames -> {job.width}x{job.height}, {job.engine} on "
        f"{job.device}, {segments}, about {job.eta_seconds:.0f} s"
    )


def status_line(job: dict[str, Any]) -> str:
    """The status of a gateway's job in one line: "processing, encode, 41 %, 12 s on local".

    Args:
        job: the gateway's answer to GET /status/{job_id}.
    """
    words = [job["status"]]
    if job["state"].lower() not in (job["status"], "running", "scheduled", "pending"):
        words.append(job["state"])
    if job["status"] == "processing" and job["phase"]:
        words.append(job["phase"])
    words += [f"{job['progress']:.0f} %", f"{job['elapsed_seconds']:.0f} s"]
    return ", ".join(words) + (f" on {job['gpu_type']}" if job["gpu_type"] else "")


class Lines:
    """Prints lines of text, for logs and pipes. Base of all displays."""

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
        """Text that was printed stays: there is nothing to undo."""

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Bar(Lines):
    """Shows a moving bar on a terminal, with the printed lines above it."""

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


class JobLines(Lines):
    """A job of this process in lines: its plan, then the finished frames every few seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = 0.0

    def planned(self, job: PlannedJob) -> None:
        """Print the plan and its notes."""
        _print_plan(self, job)

    def progressed(self, progress: "JobProgress") -> None:
        """Print how many frames are finished, unless a line came less than LINE_SECONDS ago."""
        now = time.monotonic()
        if progress.phase != "encode" or now - self._last < LINE_SECONDS:
            return
        self._last = now
        self.say(f"{progress.frames} of {progress.num_frames} frames ({progress.percent:.0f} %)")


class JobBar(Bar):
    """A job of this process as a bar: finished frames, elapsed and remaining time."""

    def __init__(self, console: Console) -> None:
        columns = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        super().__init__(console, *columns, total=None)

    def planned(self, job: PlannedJob) -> None:
        """Print the plan and set the bar's length."""
        _print_plan(self, job)
        self._bar.update(self._task, description="loading the engine", total=job.num_frames)

    def progressed(self, progress: "JobProgress") -> None:
        """Move the bar."""
        restoring = progress.phase.partition(" ")[0] in ("restore", "encode")
        doing = "restoring" if restoring else progress.phase
        self._bar.update(self._task, description=doing, completed=progress.frames)


def _print_plan(lines: Lines, job: PlannedJob) -> None:
    """Print the plan and its notes, one line each."""
    lines.say(plan_line(job))
    for note in job.notes:
        lines.say(f"note: {note}")


class WatchLines(Lines):
    """A gateway's job in lines: one for each change of state or phase, else every few seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._shown: tuple[object, ...] = ()
        self._last = 0.0
        self._progress = 0.0

    def show(self, job: dict[str, Any]) -> None:
        """Print the status, if it has changed since the last line."""
        state = (job["status"], job["state"], job["phase"])
        now = time.monotonic()
        moved = job["progress"] != self._progress and now - self._last >= WATCH_LINE_SECONDS
        if state == self._shown and not moved:
            return
        self._shown, self._last, self._progress = state, now, job["progress"]
        self.say(status_line(job))


class WatchBar(Bar):
    """A gateway's job as a bar, with its status in front."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, TaskProgressColumn(), total=100.0)

    def show(self, job: dict[str, Any]) -> None:
        """Move the bar."""
        self._bar.update(self._task, description=status_line(job), completed=job["progress"])


def open_display(console: Console) -> JobLines | JobBar:
    """Choose the display for a job of this process: a bar on a terminal, else lines."""
    return JobBar(console) if console.is_terminal else JobLines(console)


def watch(ask: Callable[[], dict[str, Any]], console: Console) -> dict[str, Any]:
    """Show a gateway's job until it has ended; returns its last status.

    Args:
        ask: asks the gateway for the job's status.
        console: what the job is shown on.
    """
    with WatchBar(console) if console.is_terminal else WatchLines(console) as display:
        while True:
            job = ask()
            display.show(job)
            if job["status"] in ENDED:
                return job
            time.sleep(POLL_SECONDS)
