"""How much a job will write: what is predicted against what is written, and how it adds up."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from seedvr2_core.engines.protocol import Commit
from seedvr2_core.job import JobDir
from seedvr2_core.job.latents import write_commit
from seedvr2_core.job.sidecar import finished_sizes, leaves_latents
from seedvr2_core.job.space import bytes_needed, bytes_per_frame, latent_bytes
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from tests.kits.factories import make_info, make_options
from tests.kits.restorer import ENGINE

DIVIDED = dataclasses.replace(ENGINE, window=5, overlap=1)


def plan_of(**changes: object) -> PlanOutline:
    return outline_of(build_plan(make_info(), "a", make_options(segment_seconds=2, **changes)))


def test_finished_segments_tell_better_than_the_guess() -> None:
    plan = plan_of()
    assert bytes_per_frame(plan, [(50, 5000), (50, 15000)]) == 200
    assert bytes_per_frame(plan_of(crf=24)) == bytes_per_frame(plan) / 2


@pytest.mark.parametrize("crf", [0, 18, 51])
def test_the_guess_follows_the_area_of_the_picture(crf: int) -> None:
    small, large = (plan_of(crf=crf, resolution=name) for name in ("720p", "4k"))
    ratio = bytes_per_frame(large) / bytes_per_frame(small)
    assert ratio == pytest.approx(large.width * large.height / (small.width * small.height))


@pytest.mark.parametrize("seed", range(4))
def test_needs_add_up_and_end_at_the_joined_file(seed: int) -> None:
    """Each segment that is finished takes its own share away, in whatever order they finish."""
    plan = plan_of(engine=DIVIDED)
    rng = np.random.default_rng(seed)
    rate, order = int(rng.integers(1, 5000)), rng.permutation(len(plan.segments))
    done = [(plan.segments[0].num_frames, rate * plan.segments[0].num_frames)]
    needs = [
        bytes_needed(plan, [plan.segments[i] for i in order[k:]], done)
        for k in range(len(order) + 1)
    ]
    shares = [a - b for a, b in itertools.pairwise(needs)]
    for index, share in zip(order, shares, strict=True):
        segment = plan.segments[index]
        assert share == rate * segment.num_frames + latent_bytes(plan, segment)
    assert needs[-1] == rate * plan.num_frames


def test_sizes_on_disk_count_segments_that_are_there(tmp_path: Path) -> None:
    plan, job_dir = plan_of(), JobDir(tmp_path)
    job_dir.segments_path.mkdir()
    assert finished_sizes(job_dir, plan) == []
    for index, size in ((0, 100), (2, 300)):
        job_dir.video_path(index).write_bytes(b"x" * size)
    job_dir.video_part_path(1).write_bytes(b"half")
    frames = [segment.num_frames for segment in plan.segments]
    assert finished_sizes(job_dir, plan) == [(frames[0], 100), (frames[2], 300)]


@pytest.mark.parametrize("number", [0, 1, 4], ids=["first", "middle", "last"])
def test_latents_of_divided_shots_are_counted(tmp_path: Path, number: int) -> None:
    """As what is really written, but for the file's header."""
    plan = plan_of(engine=DIVIDED)
    divided = build_plan(make_info(), "a", make_options(segment_seconds=2, engine=DIVIDED))
    segment = divided.segments[number]
    assert len(plan.segments) == 5
    height, width = 752 // 8, 1280 // 8
    owned = {0: (segment.num_frames - 1) // 4 + 1}.get(number, -(-segment.num_frames // 4))
    commit = Commit(
        latents=torch.zeros((owned, height, width, 16), dtype=torch.float16),
        tail=torch.zeros((1, height, width, 16)) if number < 4 else None,
    )
    JobDir(tmp_path).segments_path.mkdir()
    write_commit(JobDir(tmp_path), segment, commit)
    written = JobDir(tmp_path).latents_path(segment.index).stat().st_size
    assert abs(latent_bytes(plan, plan.segments[number]) - written) < 1000


def test_only_parts_of_shots_leave_latents() -> None:
    divided, whole = plan_of(engine=DIVIDED), plan_of()
    assert all(leaves_latents(divided, segment) for segment in divided.segments)
    assert not any(leaves_latents(whole, segment) for segment in whole.segments)
    assert not any(latent_bytes(whole, segment) for segment in whole.segments)
    short = make_info(pts=tuple(range(20)))
    one = outline_of(build_plan(short, "a", make_options(engine=DIVIDED)))
    assert not any(leaves_latents(one, segment) for segment in one.segments)
