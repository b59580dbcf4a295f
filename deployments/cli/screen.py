"""What the commands show while a job runs: a moving bar on a terminal, lines of text elsewhere.

`open_display` shows a job that runs in this process, `watch` a job that a gateway runs. Imports no
Prefect, because the checks before a job must answer at once.
"""

import time
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from deployments.cli.words import duration
from deployments.host.exits import can_draw, for_people, say
from deployments.host.quiet import logs_as_json
from seedvr2_core.errors import error_of_code, remedy_of
from seedvr2_core.words import counted
from tasks.schemas import PlannedJob
from tasks.sources.names import printable

if TYPE_CHECKING:
    from tasks.run.record import JobProgress

LINE_SECONDS = 30.0
"""Time between two lines about a job of this process, where its phase stays the same."""
WATCH_LINE_SECONDS = 30.0
"""Least time between two lines about a gateway's job, unless its state or phase changes."""
NARROW_COLUMNS = 100
"""Terminals with fewer columns get a short bar, and leave out what is worth least."""
BESIDE_COLUMNS = 52
"""What a bar, its spinner and its percentage take of a line."""
_CLOSE_PERCENT = 3.0
"""The share of the frames that are restored is about that of the work."""
ENDED = ("completed", "failed", "cancelled")
DOING = {
    "fetch": "fetching the video",
    "probe": "reading the video",
    "cuts": "looking for cuts",
    "hash": "comparing the weights with their digest",
    "plan": "planning",
    "measure": "measuring how fast this machine is",
    "planned": "beginning",
    "load": "loading the engine",
    "restore": "restoring",
    "encode": "encoding the last frames",
    "deliver": "finishing",
    "join": "joining the segments",
    "picture": "drawing the before/after picture",
    "upload": "storing",
    "verify": "checking what is stored",
    "report": "comparing the result with its source",
    "finish": "writing down the result",
}
"""Phase -> what people read; others are shown by their own names."""


def plan_line(job: PlannedJob) -> str:
    """The plan of a job in one line."""
    return (
        f"{job.source.name}: {counted(job.num_frames, 'frame')} -> {job.width}x{job.height}, "
        f"{job.engine} on {job.device}, {'' if job.early is None else 'about '}"
        f"{counted(job.num_segments, 'segment')}, about "
        f"{duration(job.eta_seconds)}" + (" (a guess)" if job.eta_is_guess else "")
    )


def doing(progress: "JobProgress") -> str:
    """What a job is doing, in words: "restoring", "waiting for cuda:0"."""
    if progress.phase == "wait":
        return progress.detail
    return DOING.get(progress.phase, progress.phase)


def how_far(progress: "JobProgress", *, short: bool = False) -> str:
    """How far a job is: "30 of 75 frames (40 %), 12 s left"; after the work, what is going on.

    Frames are counted when they are restored. Where many are still to be encoded, "45 of 45 frames
    (19 %)" would be a riddle, so it says that the percentage is that of all the work. Beside a bar
    on a narrow terminal the bar says it.

    Args:
        progress: of the job.
        short: leave out the speed, and a percentage that is not that of the frames.
    """
    told = f"{progress.frames} of {counted(progress.num_frames, 'frame')}"
    restored = 100.0 * progress.frames / max(1, progress.num_frames)
    if restored - progress.percent < _CLOSE_PERCENT:
        told += f" ({progress.percent:.0f} %)"
    elif not short:
        told += f" ({progress.percent:.0f} % of the work)"
    if progress.detail and progress.phase != "wait":
        told = f"{told}, {progress.detail}"
    if progress.seconds_left is None or progress.phase not in ("restore", "encode"):
        return told
    if progress.measures.frames_per_second and not short:
        told += f", {rate(progress.measures.frames_per_second)}"
    return f"{told}, {duration(progress.seconds_left)} left"


def rate(frames_per_second: float) -> str:
    """A speed: "12 frames/s", "0.42 frames/s"."""
    digits = 0 if frames_per_second >= 10 else 1 if frames_per_second >= 1 else 2
    return f"{frames_per_second:.{digits}f} frames/s"


def between(low: float | None, high: float | None) -> str:
    """The range of the time left: " (10 s to 15 s)"; nothing where it is not known."""
    return "" if low is None or high is None else f" ({duration(low)} to {duration(high)})"


def status_line(job: dict[str, Any]) -> str:
    """The status of a gateway's job in one line: "processing, encode, 41 %, 12 s on local".

    Args:
        job: the gateway's answer to GET /status/{job_id}.
    """
    words = [job["status"]]
    if job["state"].lower() not in (job["status"], "running", "scheduled", "pending"):
        words.append(job["state"])
    if job["status"] == "processing" and job["phase"]:
        waiting = job["phase"] == "wait"
        words.append(job.get("detail") or "waiting" if waiting else job["phase"])
    words += _position(job) + _segment(job)
    words += [f"{job['progress']:.0f} %", f"{job['elapsed_seconds']:.0f} s"]
    if job.get("frames_per_second"):
        words.append(rate(job["frames_per_second"]))
    if job["status"] == "processing" and job.get("seconds_left"):  # older gateways do not say it
        told = between(job.get("seconds_left_low"), job.get("seconds_left_high"))
        words.append(f"{duration(job['seconds_left'])} left{told}")
    if job.get("cost") is not None:
        words.append(f"cost {job['cost']:.2f}")
    return ", ".join(words) + (f" on {job['gpu_type']}" if job["gpu_type"] else "")


def short_status(job: dict[str, Any]) -> str:
    """The same for narrow terminals, without what the bar beside it shows: "restore, 12 s left"."""
    words = [job["status"]]
    if job["status"] == "processing" and job["phase"]:
        words = [job.get("detail") or "waiting" if job["phase"] == "wait" else job["phase"]]
    words += _position(job) + _segment(job)
    if job["status"] == "processing" and job.get("seconds_left"):
        words.append(f"{duration(job['seconds_left'])} left")
    if job.get("cost") is not None:
        words.append(f"cost {job['cost']:.2f}")
    return ", ".join(words)


def _position(job: dict[str, Any]) -> list[str]:
    """Where a waiting job is in its queue."""
    position = job.get("position")
    if position is None:
        return []
    return [f"{position} in front" if position else "the next"]


def _segment(job: dict[str, Any]) -> list[str]:
    """Which segment is at work, of several."""
    if job["status"] != "processing" or not job.get("segment") or job.get("segments", 1) < 2:
        return []
    return [f"segment {job['segment']} of {job['segments']}"]


def error_words(job: dict[str, Any]) -> str:
    """Why a job has no result, with the code of the error if it has one."""
    code = f" [{job['error_code']}]" if job.get("error_code") else ""
    return f"{job['error']}{code}"


def remedy_words(job: dict[str, Any]) -> str:
    """What helps against the error that its code names; not in the words of whoever answered."""
    kind = error_of_code(job.get("error_code"))
    return remedy_of(kind) if kind else ""


def job_line(job: dict[str, Any], columns: int | None = None) -> str:
    """A job in a list: when it was submitted, of what, and its state.

    Args:
        job: as the gateway tells it.
        columns: of a terminal, where the state gets a line of its own if they are too few.
    """
    at = datetime.fromisoformat(job["submitted_at"]).astimezone() if job["submitted_at"] else None
    when = f"{at:%Y-%m-%d %H:%M}" if at else "-"
    what = job.get("source_name") or job["filename"] or f"to {job['resolution']}"
    begins, state = f"{job['job_id']}  {when}  {what}:", status_line(job)
    fits = columns is None or len(begins) + len(state) < columns
    return f"{begins} {state}" if fits else f"{begins}\n  {state}"


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
        if logs_as_json():
            say(text)
            return
        told = for_people(text, self._console)
        self._console.print(told, highlight=False, markup=False, soft_wrap=True)


class Bar(Lines):
    """Shows a moving bar on a terminal, with the printed lines above it."""

    def __init__(self, console: Console, *columns: ProgressColumn, total: float | None) -> None:
        super().__init__(console)
        self._narrow = console.width < NARROW_COLUMNS
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=10 if self._narrow else 40),
            *columns,
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=total, far="")

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
    """A job of this process in lines: its plan, each phase, and how far it is now and then."""

    needs_whole_plan = False

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = 0.0
        self._doing = ""

    def planned(self, job: PlannedJob) -> None:
        """Print the plan and its notes."""
        _print_plan(self, job)

    def progressed(self, progress: "JobProgress") -> None:
        """Print a line for each phase, and one every LINE_SECONDS within a phase."""
        now, what = time.monotonic(), doing(progress)
        if progress.phase in ("planned", "done"):
            return  # the plan has just been printed, and the result is about to be
        begins = what != self._doing
        if not begins and now - self._last < LINE_SECONDS:
            return
        self._last, self._doing = now, what
        if progress.phase in ("restore", "encode"):
            measures = progress.measures
            told = between(measures.seconds_left_low, measures.seconds_left_high)
            what = f"{what}: {how_far(progress)}{told}"
        elif progress.detail and progress.phase != "wait" and not begins:
            what = f"{what}: {progress.detail}"
        self.say(what)


class JobBar(Bar):
    """A job of this process as a bar: restored frames, elapsed time and time left."""

    needs_whole_plan = False

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.fields[far]}", markup=False), TimeElapsedColumn())
        super().__init__(console, *columns, total=None)

    def planned(self, job: PlannedJob) -> None:
        """Print the plan and set the bar's length."""
        _print_plan(self, job)
        self._bar.update(self._task, total=100.0)

    def progressed(self, progress: "JobProgress") -> None:
        """Move the bar."""
        far = progress.detail
        if progress.num_frames:
            far = how_far(progress, short=self._narrow)
        self._bar.update(
            self._task,
            description=printable(doing(progress)),
            completed=progress.percent,
            far=printable(far),
        )


def _print_plan(lines: Lines, job: PlannedJob) -> None:
    """Print the plan and its notes, one line each."""
    lines.say(plan_line(job))
    if job.early is not None:
        lines.say("note: its cuts are still looked for; the beginning is restored meanwhile")
        return  # the notes come with the plan that has all cuts
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
        told = status_line(job)
        if len(told) > self._console.width - BESIDE_COLUMNS:
            told = short_status(job)
        shown = printable(told)
        self._bar.update(self._task, description=shown, completed=job["progress"])


def open_display(console: Console) -> JobLines | JobBar:
    """Choose the display for a job of this process: a bar on a terminal, else lines."""
    return JobBar(console) if can_draw(console) else JobLines(console)


def watch(statuses: Iterable[dict[str, Any]], console: Console) -> dict[str, Any]:
    """Show a gateway's job until it has ended; returns its last status.

    Args:
        statuses: of the job, one after another, as the gateway tells them; the last one has ended.
        console: what the job is shown on.
    """
    job: dict[str, Any] = {}
    with WatchBar(console) if can_draw(console) else WatchLines(console) as display:
        for job in statuses:
            display.show(job)
            if job["status"] in ENDED:
                break
    return job
