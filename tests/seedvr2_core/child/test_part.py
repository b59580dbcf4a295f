"""A part of a film that begins anywhere in a shot: what is restored before it is never written."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.planning import Plan, build_plan
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg
from tests.kits.pipeline import KeepTorch, make_segments, packets, sidecars, use_small_pictures
from tests.kits.restorer import ENGINE

FIRST, STOP = 24, 61
"""On the grid: the film is one shot, whose frame 24 is the last one of a latent."""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("part") / "film.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x18:r=25:d=2.6", "-c:v", "ffv1", path)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_pictures(monkeypatch)


def part_plan(film: Path, first: int, *, began: int) -> Plan:
    """Plan a part of the film for the tiny network, in several segments of its only shot."""
    video = wanted_frames(
        probe_video(film), WantedFrames(start=f"frame:{first}", end=f"frame:{STOP}")
    )
    engine = dataclasses.replace(ENGINE, window=4, overlap=1)
    options = make_options(
        engine=engine, segment_seconds=0.3, cpu_count=1, codec="ffv1", container="mkv"
    )
    return build_plan(video, "0" * 64, options, began=began)


def made_of(plan: Plan, film: Path, folder: Path) -> np.ndarray:
    """The frames that are in the segments' files."""
    with KeepTorch():
        make_segments(plan, folder, film, range(len(plan.segments)))
    frames: list[np.ndarray] = []
    for segment in plan.segments:
        path = folder / "segments" / f"{segment.index:05}.mp4"
        info = probe_video(path)
        assert info.num_frames == segment.num_frames
        frames += [frame.rgb for frame in read_frames(path, info, 0, info.num_frames)]
    return np.stack(frames)


@pytest.mark.long
@pytest.mark.parametrize("off", [1, 2, 3])
def test_it_has_the_frames_of_one_that_begins_a_little_earlier_on_the_grid(
    film: Path, tmp_path: Path, off: int
) -> None:
    early = part_plan(film, FIRST, began=-FIRST)
    assert (early.shots[0].start, early.shots[0].goes_on) == (0, True)
    late = part_plan(film, FIRST + off, began=-FIRST - off)
    assert (late.shots[0].start, late.shots[0].goes_on) == (-off, True)
    assert len(late.segments) > 1
    assert (late.segments[0].start, late.segments[-1].stop) == (0, STOP - FIRST - off)
    wanted = made_of(early, film, tmp_path / "early")
    made = made_of(late, film, tmp_path / "late")
    assert made.shape[0] == STOP - FIRST - off
    assert (made == wanted[off:]).all()


def test_the_cost_is_said_and_counted(film: Path) -> None:
    on_grid, off_grid = (part_plan(film, FIRST, began=-FIRST - n) for n in (0, 3))
    (note,) = set(off_grid.notes) - set(on_grid.notes)
    assert note.startswith("the 3 frames before this part are restored as well and left out")
    more = off_grid.eta_seconds - on_grid.eta_seconds
    assert off_grid.frame_seconds is not None
    assert more == pytest.approx(3 * off_grid.frame_seconds.engine, abs=0.11)
    assert on_grid.job_key != off_grid.job_key


def test_where_the_shot_begins_in_the_film_is_part_of_the_key(film: Path) -> None:
    """At a cut the noise of the first latent is another one than inside of a shot."""
    inside, at_a_cut = (part_plan(film, FIRST, began=began) for began in (-4, 0))
    assert inside.shots[0].start == at_a_cut.shots[0].start == 0
    assert inside.job_key != at_a_cut.job_key


@pytest.mark.long
def test_it_goes_on_behind_its_first_segment_with_the_same_bytes(
    film: Path, tmp_path: Path
) -> None:
    """As after a crash: the second segment is rebuilt from what the first one has committed."""
    plan = part_plan(film, FIRST + 3, began=-FIRST - 3)
    for folder in ("at once", "one by one"):
        (tmp_path / folder).mkdir()
    with KeepTorch():
        make_segments(plan, tmp_path / "at once", film, range(len(plan.segments)))
        for index in range(len(plan.segments)):
            make_segments(plan, tmp_path / "one by one", film, [index])
    assert packets(plan, tmp_path / "at once") == packets(plan, tmp_path / "one by one")
    assert all(sidecar is not None for sidecar in sidecars(plan, tmp_path / "one by one"))
