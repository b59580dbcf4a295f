"""Latents on disk: however a shot is divided, the same ones are found, or the fault is named."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seedvr2_core.engines.protocol import Commit
from seedvr2_core.errors import SegmentError
from seedvr2_core.job import JobDir
from seedvr2_core.job.latents import read_commits, write_commit
from seedvr2_core.planning import Piece, Plan, Segment
from seedvr2_core.planning.windows import first_frame
from tests.kits.restorer import make_plan

SIZE = (2, 3, 4)
"""Height, width and channels of these latents."""
SHOT_LATENTS = 14


def divided(edges: list[int]) -> Plan:
    """A plan of two shots, of which the second is cut into segments at these latents."""
    plan = make_plan(9, first_frame(SHOT_LATENTS))
    start = plan.shots[1].start
    cuts = [start + first_frame(edge) for edge in (0, *edges, SHOT_LATENTS)]
    pieces = [Piece(shot=0, start=0, stop=start)]
    pieces += [Piece(shot=1, start=a, stop=b) for a, b in itertools.pairwise(cuts)]
    segments = tuple(
        Segment(index=i, start=piece.start, stop=piece.stop, pieces=(piece,))
        for i, piece in enumerate(pieces)
    )
    return replace(plan, segments=segments)


def committed(folder: Path, plan: Plan, edges: list[int]) -> tuple[JobDir, torch.Tensor]:
    """Commit every part of the second shot; also returns all its latents."""
    job_dir = JobDir(folder)
    job_dir.segments_path.mkdir(parents=True)
    generator = torch.Generator().manual_seed(len(edges))
    latents = torch.randn((SHOT_LATENTS, *SIZE), generator=generator).half()
    for segment, (a, b) in zip(
        plan.segments[1:], itertools.pairwise((0, *edges, SHOT_LATENTS)), strict=True
    ):
        tail = torch.full((1, *SIZE), float(segment.index)) if b < SHOT_LATENTS else None
        # A strided view, as an engine may hand it on.
        view = latents[a:b].transpose(1, 2).contiguous().transpose(1, 2)
        write_commit(job_dir, segment, Commit(latents=view, tail=tail))
    return job_dir, latents


@pytest.mark.parametrize("seed", range(8))
def test_any_division_gives_the_same_latents_back(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 6))
    edges = sorted(map(int, rng.choice(np.arange(1, SHOT_LATENTS), number, replace=False)))
    plan = divided(edges)
    job_dir, latents = committed(tmp_path, plan, edges)
    assert not job_dir.part_files()
    for segment, edge in zip(plan.segments[2:], edges, strict=True):
        for wanted in range(edge):
            got, tail = read_commits(job_dir, plan, segment.pieces[0], wanted)
            assert got.dtype == torch.float16
            assert torch.equal(got, latents[wanted:edge])
            assert torch.equal(tail, torch.full((1, *SIZE), float(segment.index - 1)))


@pytest.fixture
def job(tmp_path: Path) -> tuple[JobDir, Plan]:
    """A shot in three parts, all committed: latents 0-3, 4-8 and 9-13."""
    plan = divided([4, 9])
    return committed(tmp_path, plan, [4, 9])[0], plan


def test_a_segment_that_is_written_again_replaces_the_old_one(job: tuple[JobDir, Plan]) -> None:
    job_dir, plan = job
    again = torch.full((4, *SIZE), 3.0).half()
    write_commit(job_dir, plan.segments[1], Commit(latents=again, tail=torch.zeros(1, *SIZE)))
    got, tail = read_commits(job_dir, plan, plan.segments[2].pieces[0], 0)
    assert torch.equal(got, again)
    assert not tail.any()


@pytest.mark.parametrize("keep", [0, 7, 40, -1], ids=["empty", "in the length", "header", "body"])
def test_a_cut_file_is_named(job: tuple[JobDir, Plan], keep: int) -> None:
    job_dir, plan = job
    path = job_dir.latents_path(2)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SegmentError, match=r"segment 2: .*; run again"):
        read_commits(job_dir, plan, plan.segments[3].pieces[0], 0)


def test_a_missing_file_or_tail_is_named(job: tuple[JobDir, Plan]) -> None:
    job_dir, plan = job
    shape = (5, *SIZE)
    write_commit(job_dir, plan.segments[2], Commit(latents=torch.zeros(shape).half()))
    with pytest.raises(SegmentError, match=r"tail of segment 2: .*; run again"):
        read_commits(job_dir, plan, plan.segments[3].pieces[0], 0)
    job_dir.latents_path(1).unlink()
    with pytest.raises(SegmentError, match=r"latents of segment 1: .*; run again"):
        read_commits(job_dir, plan, plan.segments[3].pieces[0], 0)


def test_too_few_latents_are_named(job: tuple[JobDir, Plan]) -> None:
    """A whole file with other latents than its frames need, wherever reading begins."""
    job_dir, plan = job
    for number in (1, 6):
        other = torch.zeros((number, *SIZE)).half()
        write_commit(job_dir, plan.segments[1], Commit(latents=other, tail=torch.zeros(1, *SIZE)))
        for wanted in (0, 3, 8):
            with pytest.raises(
                SegmentError, match=rf"hold {number + 5} latents, expected 9; .*fre"
            ):
                read_commits(job_dir, plan, plan.segments[3].pieces[0], wanted)


def test_a_part_without_latents_is_refused(job: tuple[JobDir, Plan]) -> None:
    job_dir, plan = job
    before = job_dir.latents_path(1).read_bytes()
    with pytest.raises(SegmentError, match="segment 1 is part of a shot but left no latents"):
        write_commit(job_dir, plan.segments[1], Commit())
    assert job_dir.latents_path(1).read_bytes() == before
