"""Grain in the pipeline: a frame has the same in any division, part and resume; masters none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seedvr2_core.engines import reuse
from seedvr2_core.files import write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import Masters, WantedMasters, ready_masters
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import outline_of
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.output.grain import Grain
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.factories import make_options
from tests.kits.pipeline import KeepTorch, make_segments, packets, use_small_pictures


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_small_pictures(monkeypatch)
    with KeepTorch():
        yield


def planned(clip: Path, *, seconds: float = 0.5, start: str = "", **changes: Any) -> Plan:
    """A job of the clip, as PNGs, so that its pictures can be compared."""
    asked: dict[str, Any] = {"codec": "png", "grain": 0.6, "grain_seed": 5, **changes}
    options = make_options(segment_seconds=seconds, cpu_count=1, **asked)
    video = wanted_frames(probe_video(clip), WantedFrames(start=start))
    return build_plan(video, "0" * 64, options)


def pictures(plan: Plan, folder: Path, clip: Path) -> list[np.ndarray]:
    """The frames of all segments of a job."""
    make_segments(plan, folder, clip, [segment.index for segment in plan.segments])
    found: list[np.ndarray] = []
    for segment in plan.segments:
        path = JobDir(folder).video_path(segment.index)
        info = probe_video(path)
        found += [frame.rgb for frame in read_frames(path, info, 0, info.num_frames)]
    return found


@pytest.mark.long
def test_a_frame_has_its_grain_in_any_division_and_part(demo_clip: Path, tmp_path: Path) -> None:
    plain = pictures(planned(demo_clip, grain=0.0), tmp_path / "plain", demo_clip)
    whole = pictures(planned(demo_clip, seconds=9), tmp_path / "whole", demo_clip)
    assert len(plain) == len(whole) == 75
    height, width, _ = plain[0].shape
    grain = Grain(0.6, 5, height=height, width=width)
    for number, (with_it, without) in enumerate(zip(whole, plain, strict=True)):
        assert np.array_equal(with_it, grain.on(without, number))
    divided = planned(demo_clip, seconds=0.4)
    assert len(divided.segments) > 4
    assert np.array_equal(pictures(divided, tmp_path / "divided", demo_clip), whole)
    part = planned(demo_clip, start="frame:31")
    assert np.array_equal(pictures(part, tmp_path / "part", demo_clip), whole[31:])


@pytest.mark.long
@pytest.mark.parametrize("codec", ["png", "tiff"], ids=["8 bits", "16 bits"])
def test_other_grain_comes_from_the_same_master(
    codec: str, demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(demo_clip, codec=codec)
    asked = planned(demo_clip, codec=codec, grain=0.2, grain_seed=9)
    none = planned(demo_clip, codec=codec, grain=0.0)
    assert len({made.job_key, asked.job_key, none.job_key}) == 3
    keys = {outline_of(plan).pixels_key for plan in (made, asked, none)}
    assert len(keys) == 1
    folder = tmp_path / "masters"

    def make(plan: Plan, name: str, *, keep: bool = False) -> list[bytes]:
        job_dir = tmp_path / name
        job_dir.mkdir()
        ready = ready_masters(Masters(folder), outline_of(plan))
        if keep or ready:
            wanted = WantedMasters(folder=folder, keep=keep, ready=ready)
            write_record(JobDir(job_dir).masters_path, wanted)
        make_segments(plan, job_dir, demo_clip, [segment.index for segment in plan.segments])
        return packets(plan, job_dir)

    at_once = [make(plan, f"at once {k}") for k, plan in enumerate((asked, none))]
    make(made, "made", keep=True)

    def load(name: str) -> object:
        raise AssertionError(f"the engine {name} was asked for")

    monkeypatch.setattr(reuse, "load_engine", load)
    assert [make(plan, f"again {k}") for k, plan in enumerate((asked, none))] == at_once


def test_no_grain_is_the_job_of_the_version_before(demo_clip: Path) -> None:
    """Nothing of it stands in the key, and another seed of what is not there changes nothing."""
    video, before = probe_video(demo_clip), make_options()
    same = build_plan(video, "a", make_options(grain=0.0, grain_seed=77))
    assert same.job_key == build_plan(video, "a", before).job_key
    seeds = {build_plan(video, "a", make_options(grain=0.1, grain_seed=k)).job_key for k in (0, 1)}
    assert len(seeds) == 2
