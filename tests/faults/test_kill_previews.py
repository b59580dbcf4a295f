"""Kill -9 in the middle of a preview: it ends with the same clip, and the whole job with the same
film, which keeps what was made.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kits.faults import NUM_SEGMENTS, Fault, FaultyJob, kill_there, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

PREVIEW = ("--preview", "20f@30")
ENGINE = ("seedvr2_core.engines.sleep:_enlarge", 5)
COMMIT = ("seedvr2_core.job.sidecar:write_record", 1)
PLACES: list[tuple[str, int]] = [
    ENGINE,
    COMMIT,
    ("seedvr2_core.preview.clips:Cutting._write", 1),
    ("seedvr2_core.preview.clips:Cutting._write", 2),
    ("seedvr2_core.video.join:check_joined", 1),
    ("seedvr2_core.preview.clips:Cutting.write_picture", 1),
    ("tasks.stitch:sync_file", 1),
    ("seedvr2_core.files.place:_publish", 1),
    ("seedvr2_core.files.place:_publish", 3),
    ("tasks.job.finish:write_bytes", 1),
    ("tasks.job.finish:publish_result", 1),
]
IN_CHILD = PLACES[:6]


def preview_in(make_job: Callable[..., FaultyJob], folder: Path) -> FaultyJob:
    return dataclasses.replace(make_job("sleep", folder), options=PREVIEW)


def check_clips(job: FaultyJob, result: dict[str, object], calm: dict[str, object]) -> None:
    """The clip is the one that nothing disturbed, it is there once, and nothing lies about."""
    assert (result["sha256"], result["frames"]) == (calm["sha256"], 20)
    wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    assert job.leftovers() == []
    name = Path(str(result["filename"]))
    found = sorted(path.name for path in (job.work_dir / "output").iterdir())
    expected = [f"{name.stem}.before.mp4", name.name, f"{name.stem}.preview.jpg"]
    assert found == sorted(expected)


def test_kills_at_every_step_of_a_preview(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str], tmp_path: Path
) -> None:
    calm = preview_in(make_job, tmp_path / "calm").finish()
    job = preview_in(make_job, tmp_path / "killed")
    for number, (at, call) in enumerate(PLACES):
        fault = Fault(at=at, call=call, mark=job.place(str(number)))
        killed = kill_there(job, fault, ("tree", "command")[number % 2])
        assert killed is not None, f"the preview ended before it came to {at}"
        wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    check_clips(job, job.finish(), calm)
    film = make_job("sleep", tmp_path / "killed")
    result = film.finish()
    assert result["sha256"] == undisturbed("sleep")
    made = result["segments_reused"]
    assert isinstance(made, int)
    assert 1 < made < NUM_SEGMENTS
    assert f"{made} segments kept from the preview" in str(result["notes"])
    assert film.leftovers() == []


@pytest.mark.parametrize("place", IN_CHILD, ids=lambda place: f"{place[0]}-{place[1]}")
def test_a_preview_goes_on_when_its_child_is_killed(
    make_job: Callable[..., FaultyJob], tmp_path: Path, place: tuple[str, int]
) -> None:
    """Without anybody's help."""
    calm = preview_in(make_job, tmp_path / "calm").finish()
    job = preview_in(make_job, tmp_path / "killed")
    killed = kill_there(job, Fault(at=place[0], call=place[1], mark=job.place("it")), "child")
    assert killed is not None
    check_clips(job, job.result(killed.command), calm)


def test_the_whole_film_after_a_preview_that_was_killed(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str], tmp_path: Path
) -> None:
    """Nobody makes the preview again: what it had committed is kept, and told."""
    job = preview_in(make_job, tmp_path / "job")
    killed = kill_there(
        job, Fault(at="seedvr2_core.preview.clips:Cutting._write", mark=job.place("cut")), "tree"
    )
    assert killed is not None
    result = make_job("sleep", tmp_path / "job").finish()
    made = len(killed.committed)
    assert (result["sha256"], result["segments_reused"]) == (undisturbed("sleep"), made)
    assert f"{made} segments kept from the preview" in str(result["notes"])
