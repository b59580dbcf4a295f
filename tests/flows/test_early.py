"""The beginning of a long film is restored while its cuts are looked for: the same job in the end.

A film counts as long here from 120 frames on, and the cuts are told at frame 40, 80 and 160.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from flows.upscale import upscale
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning.plan import Plan
from tasks import probe
from tasks.early import search
from tasks.run.record import shown_to
from tasks.schemas import UpscaleResult
from tasks.settings import Settings
from tests.kits.factories import Audience
from tests.kits.faults import SMALL_PICTURES, Fault, carrying, use_small_pictures
from tests.kits.videos.shots import film_of_shots

SHOTS = [15, 20, 8, 31, 4, 26, 22, 34, 25, 15]
"""200 frames."""
SMALL = 64 * 36

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("in_api")]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    film_of_shots(path, SHOTS)
    return path


@pytest.fixture
def work_in(
    settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], None]:
    """Let this process and its children work in a directory, with small pictures."""
    use_small_pictures(monkeypatch, SMALL)

    def work(work_dir: Path) -> None:
        settings_with(
            work_dir=work_dir,
            allow_local_files=True,
            test_engines=True,
            keep_segments=True,
            segment_seconds=0.5,
        )

    return work


def be_early(monkeypatch: pytest.MonkeyPatch, *faults: Fault) -> None:
    """Take the film for a long one; children have these faults."""
    monkeypatch.setattr(probe, "MOST_FRAMES_HERE", 100)
    monkeypatch.setattr(search, "FIRST_MARK", 40)
    monkeypatch.setattr(search, "LEAST_MARKS", 3)
    small = Fault(at=SMALL_PICTURES.at, call=SMALL, do="small")
    for name, value in carrying(small, *faults).items():
        monkeypatch.setenv(name, value)


LAST_PICK: dict[str, Any] = {"at": "seedvr2_core.video.cuts:pick_cuts", "call": 3}
"""The end of a search that has told of the cuts at two marks."""


def waits_for_segment(work_dir: Path, index: int = 0) -> Fault:
    """The search does not end before this segment is committed."""
    pattern = str(work_dir / f"jobs/*/segments/{index:05}.json")
    return Fault(**LAST_PICK, do="wait", mark=pattern)


def run(film: Path, *, fresh: bool = False) -> UpscaleResult:
    result: Any = upscale(
        video_path=str(film),
        model="tiny",
        resolution="720p",
        preset="ultrafast",
        batch_size=12,
        fresh=fresh,
    )
    assert isinstance(result, UpscaleResult)
    return result


def task_names(result: UpscaleResult) -> list[str]:
    flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(result.job_id)]))
    with get_client(sync_client=True) as client:
        return [task.name for task in client.read_task_runs(flow_run_filter=flow_run)]


def test_the_job_is_begun_early_and_ends_as_one_whose_cuts_were_known(
    film: Path,
    work_in: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    work_in(tmp_path / "known")
    known = run(film)
    plan = read_record(tmp_path / "known" / "jobs" / known.job_key / "plan.json", Plan)
    assert len(plan.shots) >= len(SHOTS)
    assert not [name for name in task_names(known) if "about" in name]

    work_in(tmp_path / "early")
    be_early(monkeypatch, waits_for_segment(tmp_path / "early"))
    audience = Audience()
    with shown_to(audience):
        early = run(film)
    first_plan, *_, whole_plan = audience.plans
    assert first_plan.early is not None, "people see what is known of it at once"
    assert (whole_plan.early, whole_plan.job_key) == (None, known.job_key)
    assert len(audience.plans) == 2
    assert (early.job_key, early.sha256) == (known.job_key, known.sha256)
    assert (early.segments_reused, early.frames_reused) == (0, 0)
    (folder,) = (tmp_path / "early" / "jobs").iterdir()  # early directories are gone
    assert folder.name == early.job_key
    (cuts,) = (tmp_path / "early" / "probes").glob("*[0-9a-f].cuts.json")
    first = JobDir(folder).video_path(0)
    assert first.stat().st_mtime_ns < cuts.stat().st_mtime_ns, "made before all cuts were known"
    names = task_names(early)
    about = [name for name in names if "about" in name]
    assert [name for name in about if name.startswith("segment 1 of about ")]
    segments = [name for name in names if name.startswith("segment ")]
    assert len(segments) == len(about) + len(plan.segments)

    again = run(film, fresh=True)  # its cuts are known now, and nothing is kept
    assert (again.sha256, again.segments_reused) == (known.sha256, 0)


def test_nothing_is_made_before_somebody_has_seen_the_whole_plan(
    film: Path,
    work_in: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """As `--output` wants it, where a file is there that another job may have made."""
    work_in(tmp_path / "whole")
    be_early(monkeypatch)
    audience = Audience()
    audience.needs_whole_plan = True
    with shown_to(audience):
        result = run(film)
    assert [plan.early for plan in audience.plans] == [None]
    assert "about" not in " ".join(task_names(result))


def test_a_search_that_fails_is_made_again_and_loses_no_segment(
    film: Path,
    work_in: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The child of the search ends when it has come to the end of the film."""
    work_in(tmp_path / "early")
    mark = str(tmp_path / "left")
    leave = Fault(**LAST_PICK, do="exit", mark=mark)
    be_early(monkeypatch, leave, waits_for_segment(tmp_path / "early"))
    result = run(film)
    assert Path(mark).is_file()
    assert "segment 1 of about" in " ".join(task_names(result))
    assert (result.segments_reused, result.frames) == (0, sum(SHOTS))
    (folder,) = (tmp_path / "early" / "jobs").iterdir()
    assert folder.name == result.job_key
