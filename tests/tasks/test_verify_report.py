"""The report task: what it asks its child for, and that no fault of it fails a job."""

import importlib
import time
from pathlib import Path
from uuid import uuid4

import pytest

from seedvr2_core.child.protocol import MakeReport, ReportMade
from seedvr2_core.errors import ChildFailedError
from seedvr2_core.planning.timing import REPORT_SHARE
from tasks.schemas import JoinedVideo, PlannedJob, StoredVideo
from tasks.verify import report
from tests.kits.factories import planned_job

MODULE = importlib.import_module("tasks.verify")


def job(folder: Path) -> PlannedJob:
    """A job with a note of its plan, in a directory where nothing of it is."""
    changes = {"job_dir": folder, "notes": ("planned",)}
    return planned_job(folder / uuid4().hex).model_copy(update=changes)


def asked(folder: Path, *, seconds_ago: float) -> Path | None:
    """Run the task for a run that began so long ago."""
    video = JoinedVideo(
        path=folder / "output.mp4", sha256="cd", num_bytes=7, num_frames=75, notes=("joined",)
    )
    stored = StoredVideo(name="a-1.mp4", url=None, path=None, sha256="cd", num_bytes=7)
    return report.fn(job(folder), video, stored, began=time.monotonic() - seconds_ago)


def test_the_child_is_told_what_the_run_knows_and_how_long_it_may_take(
    settings_with, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_with(report=True)
    requests: list[MakeReport] = []

    def answer(request: MakeReport, *, doing: str) -> ReportMade:
        requests.append(request)
        return ReportMade(warnings=("a warning",))

    monkeypatch.setattr(MODULE, "run_operation", answer)
    assert asked(tmp_path, seconds_ago=1000.0) == tmp_path / "report.html"
    assert asked(tmp_path, seconds_ago=1.0) == tmp_path / "report.html"
    long, short = requests
    assert (long.about.output_name, long.about.notes) == ("a-1.mp4", ("planned", "joined"))
    assert 0.9 * REPORT_SHARE * 1000 < long.seconds < 0.05 * 1000
    assert short.seconds == 0, "one place, and no more"


@pytest.mark.parametrize(
    "error",
    [ChildFailedError("the child died"), OSError(12, "no memory for a process")],
    ids=["child", "system"],
)
def test_a_job_goes_on_without_a_report(
    error: Exception, settings_with, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_with(report=True)

    def fail(request: MakeReport, *, doing: str) -> ReportMade:
        raise error

    monkeypatch.setattr(MODULE, "run_operation", fail)
    assert asked(tmp_path, seconds_ago=10.0) is None


def test_a_real_child_that_finds_no_job_fails_nothing(settings_with, tmp_path: Path) -> None:
    settings_with(report=True)
    assert asked(tmp_path, seconds_ago=10.0) is None


def test_reports_can_be_turned_off(
    settings_with, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_with(report=False)
    monkeypatch.setattr(MODULE, "run_operation", None)
    assert asked(tmp_path, seconds_ago=10.0) is None
