"""What the command shows while a job runs: a live bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tasks.run import record
from tasks.schemas import PlannedJob

LINE_SECONDS = 5.0


def describe(job: PlannedJob) -> str:
    """The plan in one line."""
    return (
        f"{job.source.name}: {job.num_frames} frames -> {job.width}x{job.height}, {job.engine} on "
        f"{job.device}, {job.num_segments} segments, about {job.eta_seconds:.0f} s"
    )


class PlainDisplay:
    """A line at every change of phase and every few seconds, to stderr."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase = ""
        self._last = 0.0

    def __enter__(self) -> "PlainDisplay":
        record.listeners.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        record.listeners.remove(self)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def planned(self, job: PlannedJob) -> None:
        """Show the plan and its notes."""
        self.say(describe(job))
        for note in job.notes:
            self.say(f"note: {note}")

    def progressed(self, progress: "record.Progress") -> None:
        """Show progress, not too often."""
        now = time.monotonic()
        if progress.phase != "encode" or now - self._last < LINE_SECONDS:
            return
        self._last = now
        self.say(f"{progress.frames} of {progress.num_frames} frames ({progress.percent:.0f} %)")


class LiveDisplay(PlainDisplay):
    """A bar with frames, elapsed and remaining time."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> "LiveDisplay":
        super().__enter__()
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        super().__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._bar.console.print(text, highlight=False, markup=False)

    def planned(self, job: PlannedJob) -> None:
        """Show the plan and set the bar's length."""
        super().planned(job)
        self._bar.update(self._task, description="loading the engine", total=job.num_frames)

    def progressed(self, progress: "record.Progress") -> None:
        """Move the bar."""
        words = "restoring" if progress.phase in ("restore", "encode", "decode") else progress.phase
        self._bar.update(self._task, description=words, completed=progress.frames)


def open_display(console: Console) -> PlainDisplay:
    """The display that fits where stderr goes."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
