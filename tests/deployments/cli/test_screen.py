"""What is shown of a job while it runs, as lines and as a bar."""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from deployments.cli import screen
from deployments.cli.compare.display import CompareBar, CompareLines, open_compare_display
from deployments.cli.screen import (
    JobBar,
    JobLines,
    WatchBar,
    job_line,
    open_display,
    plan_line,
    status_line,
    watch,
)
from tasks.run.measures import Measures
from tasks.run.record import JobProgress
from tasks.schemas import FetchedSource, PlannedJob


@pytest.fixture(autouse=True)
def _not_dumb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever terminal the tests run on."""
    monkeypatch.setenv("TERM", "xterm-256color")


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    """A console of 110 columns, and what is written to it."""
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=110, legacy_windows=False), text


def planned(**changes: object) -> PlannedJob:
    source = FetchedSource(path=Path("/a/clip.mp4"), sha256="0" * 64, num_bytes=1, name="clip.mp4")
    fields: dict[str, Any] = {
        **{"job_key": "k", "job_dir": Path("/jobs/k"), "source": source, "output_name": "o.mp4"},
        **{"num_segments": 2, "num_frames": 75, "width": 1280, "height": 720, "resolution": "720p"},
        **{"engine": "span", "engine_label": "SPAN", "device": "cpu", "duration_seconds": 3.0},
        **{"eta_seconds": 30.0, "job_limit_seconds": None, "stall_limit_seconds": 600.0},
        "notes": ("[b]a note[/b]",),
    }
    return PlannedJob(**fields | changes)


def progress(phase: str, frames: int, detail: str = "", left: float | None = None) -> JobProgress:
    return JobProgress(
        phase=phase,
        frames=frames,
        num_frames=75,
        stall_seconds=600.0,
        detail=detail,
        seconds_left=left,
    )


def status(**changes: Any) -> dict[str, Any]:
    """An answer of the gateway."""
    return {
        **{"status": "processing", "state": "Running", "phase": "encode", "progress": 41.2},
        **{"elapsed_seconds": 12.0, "gpu_type": "local"},
        **changes,
    }


def test_the_plan_is_one_line() -> None:
    assert plan_line(planned()) == (
        "clip.mp4: 75 frames -> 1280x720, span on cpu, 2 segments, about 30 s"
    )
    assert "1 segment, " in plan_line(planned(num_segments=1))
    assert plan_line(planned(eta_is_guess=True)).endswith("about 30 s (a guess)")
    assert ", about 2 segments, about 30 s" in plan_line(planned(early=(0,)))


@pytest.mark.parametrize("terminal", [False, True])
def test_a_job_that_is_begun_early_shows_its_notes_with_the_whole_plan(terminal: bool) -> None:
    stderr, text = console(terminal=terminal)
    with open_display(stderr) as display:
        display.planned(planned(early=(0,)))
        assert "its cuts are still looked for" in text.getvalue()
        assert "a note" not in text.getvalue()
        display.planned(planned())
        assert "a note" in text.getvalue()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "processing, encode, 41 %, 12 s on local"),
        ({"phase": None, "gpu_type": None}, "processing, 41 %, 12 s"),
        (
            {"seconds_left": 200.0, "detail": None},
            "processing, encode, 41 %, 12 s, 3 min 20 s left on local",
        ),
        (
            {"phase": "wait", "detail": "waiting for cuda:0"},
            "processing, waiting for cuda:0, 41 %, 12 s on local",
        ),
        (
            {
                **{"segment": 2, "segments": 7, "frames_per_second": 3.25, "seconds_left": 12.0},
                **{"seconds_left_low": 9.0, "seconds_left_high": 65.0, "cost": 0.126},
            },
            "processing, encode, segment 2 of 7, 41 %, 12 s, 3.2 frames/s, "
            "12 s left (9.0 s to 1 min 05 s), cost 0.13 on local",
        ),
        ({"status": "pending", "position": 3}, "pending, 3 in front, 41 %, 12 s on local"),
        ({"status": "pending", "position": 0}, "pending, the next, 41 %, 12 s on local"),
        ({"state": "Cancelling"}, "processing, Cancelling, encode, 41 %, 12 s on local"),
        ({"status": "pending", "state": "Scheduled"}, "pending, 41 %, 12 s on local"),
        ({"status": "pending", "state": "Late"}, "pending, Late, 41 %, 12 s on local"),
        ({"status": "failed", "state": "TimedOut"}, "failed, TimedOut, 41 %, 12 s on local"),
    ],
)
def test_a_status_is_one_line(changes: dict[str, Any], line: str) -> None:
    assert status_line(status(**changes)) == line


def test_a_job_in_a_list_has_two_lines_where_one_is_too_short() -> None:
    job = status(job_id="0" * 36, submitted_at="2026-11-29T12:00:00+00:00", source_name="a.mp4")
    line = job_line(job)
    begins, _, state = line.partition("a.mp4: ")
    assert state == status_line(job)
    assert job_line(job, 120) == line
    assert job_line(job, 80) == f"{begins}a.mp4:\n  {state}"


def test_lines_are_few_and_hold_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(
        [100.0, 101.0, 102.0, 103.0, 131.9, 132.0, 133.0, 149.0, 150.0, 151.0, 181.0, 182.0]
    )
    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: next(times)))
    stderr, text = console(terminal=False)
    display = open_display(stderr)
    assert isinstance(display, JobLines)
    with display:
        display.planned(planned())
        for told in (
            progress("planned", 0),
            progress("wait", 0, "waiting for cuda:0"),
            progress("load", 0, "1 % of the weights"),
            progress("restore", 10, left=200.0),
            progress("restore", 20, left=180.0),
            progress("restore", 30, left=160.0),
            progress("restore", 40, left=140.0),
            progress("encode", 75, "40 of 75 frames checked", left=3.0),
            progress("join", 75),
            progress("upload", 75, "1 of 9 MB"),
            progress("upload", 75, "2 of 9 MB"),
            progress("done", 75),
        ):
            display.progressed(told)
    assert text.getvalue().splitlines() == [
        plan_line(planned()),
        "note: [b]a note[/b]",
        "waiting for cuda:0",
        "loading the engine",
        "restoring: 10 of 75 frames (13 %), 3 min 20 s left",
        "restoring: 40 of 75 frames (53 %), 2 min 20 s left",
        "encoding the last frames: 75 of 75 frames (99 %), 40 of 75 frames checked, 3.0 s left",
        "joining the segments",
        "storing",  # how far a phase is says nothing at its first moment
        "storing: 2 of 9 MB",
    ]


@pytest.mark.parametrize(
    ("variable", "value"), [("TERM", "dumb"), ("SEEDVR2_LOG_FORMAT", "json")], ids=["dumb", "json"]
)
def test_a_terminal_that_takes_no_bar_gets_lines(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Nothing at all would be shown of the work on a dumb one."""
    stderr, _ = console(terminal=True)
    assert isinstance(open_compare_display(stderr), CompareBar)
    monkeypatch.setenv(variable, value)
    stderr, _ = console(terminal=True)
    assert isinstance(open_display(stderr), JobLines)
    assert isinstance(open_compare_display(stderr), CompareLines)


def test_a_terminal_gets_a_bar_that_follows_the_job() -> None:
    stderr, text = console(terminal=True)
    display = open_display(stderr)
    assert isinstance(display, JobBar)
    with display:
        display.planned(planned())
        display.progressed(progress("restore", 30, left=65.0))
        display._bar.refresh()
        assert "restoring" in text.getvalue()
        assert "30 of 75 frames (40 %), 1 min 05 s left" in text.getvalue()
        display.progressed(progress("join", 75))
        display._bar.refresh()
        assert "join" in text.getvalue()
    assert "note: [b]a note[/b]" in text.getvalue()
    assert text.getvalue().rstrip().endswith("\x1b[2K")  # the bar is gone in the end


@pytest.fixture
def answers() -> Iterator[dict[str, Any]]:
    """Statuses of a job, as the gateway tells them."""
    return iter(
        [
            status(status="pending", state="Scheduled", phase=None, progress=0.0),
            status(phase="fetch", progress=0.0),
            status(progress=10.0),
            status(progress=20.0),  # no line: the state is the same and it is too early
            status(status="completed", state="Completed", progress=100.0),
        ]
    )


def test_watching_in_lines_tells_each_change_once(answers: Iterator[dict[str, Any]]) -> None:
    stderr, text = console(terminal=False)
    last = watch(answers, stderr)
    assert last["status"] == "completed"
    assert [line.partition(" on ")[0] for line in text.getvalue().splitlines()] == [
        "pending, 0 %, 12 s",
        "processing, fetch, 0 %, 12 s",
        "processing, encode, 10 %, 12 s",
        "completed, 100 %, 12 s",
    ]


def test_watching_on_a_terminal_ends_with_the_job(answers: Iterator[dict[str, Any]]) -> None:
    stderr, text = console(terminal=True)
    assert watch(answers, stderr)["status"] == "completed"
    assert "completed" in text.getvalue()


FAR = JobProgress(
    phase="restore",
    frames=1234,
    num_frames=12345,
    stall_seconds=60.0,
    work=1234.0,
    seconds_left=7260.0,
    measures=Measures(frames_per_second=0.42, seconds_left_low=6000.0, seconds_left_high=8000.0),
)


def last_line(text: str, words: str) -> str:
    """The last line with these words, as it can be read."""
    lines = Text.from_ansi(text.replace("\r", "\n")).plain.splitlines()
    return next(line for line in reversed(lines) if words in line)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("colour", [False, True], ids=["NO_COLOR", "colour"])
def test_a_bar_says_all_that_matters_at_any_width(columns: int, colour: bool) -> None:
    text = io.StringIO()
    shown = Console(
        file=text, force_terminal=True, width=columns, legacy_windows=False, no_color=not colour
    )
    with JobBar(shown) as bar:
        bar.planned(planned(notes=()))
        bar.progressed(FAR)
    line = last_line(text.getvalue(), "1234 of")
    assert "1234 of 12345 frames (10 %)" in line
    assert "2 h 01 min left 0:00:0" in line
    assert "…" not in line
    assert ("0.42 frames/s" in line) == (columns == 120)
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", text.getvalue())) == colour


@pytest.mark.parametrize("columns", [80, 120])
def test_frames_that_are_still_to_be_encoded_do_not_make_the_percentage_a_riddle(
    columns: int,
) -> None:
    text = io.StringIO()
    shown = Console(file=text, force_terminal=True, width=columns, legacy_windows=False)
    with JobBar(shown) as bar:
        bar.planned(planned(notes=()))
        bar.progressed(replace(FAR, frames=999, num_frames=999, work=190.0, phase="encode"))
    line = last_line(text.getvalue(), "999 of")
    told = "" if columns == 80 else " (19 % of the work), 0.42 frames/s"
    assert f"999 of 999 frames{told}, 2 h 01 min left 0:00:0" in line
    assert "…" not in line


@pytest.mark.parametrize("columns", [80, 120])
def test_a_watched_job_fits_into_a_line(columns: int) -> None:
    told = {"phase": "restore", "segment": 3, "segments": 12, "frames_per_second": 0.42}
    at_work = status(
        **told, seconds_left=7260.0, seconds_left_low=6000.0, seconds_left_high=8000.0, cost=1.25
    )
    text = io.StringIO()
    shown = Console(file=text, force_terminal=True, width=columns, legacy_windows=False)
    with WatchBar(shown) as bar:
        bar.show(at_work)
    line = last_line(text.getvalue(), "segment")
    for words in ("restore", "segment 3 of 12", "2 h 01 min left", "cost 1.25", "41%"):
        assert words in line
    assert "…" not in line
