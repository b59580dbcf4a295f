"""The plan of a job on disk: obeyed where it can be, and refused with a reason where it cannot."""

import dataclasses
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import read_plan, write_plan
from seedvr2_core.job.sidecar import leaves_latents
from seedvr2_core.planning import Plan, build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from tests.kits.factories import make_info, make_options
from tests.kits.restorer import ENGINE

SOURCE = "ab" * 32


@pytest.fixture
def plan() -> Plan:
    return build_plan(make_info(), SOURCE, make_options(), cuts=())


def _changed(**fields: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def _endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "harm",
    [
        _instead(lambda path: path.symlink_to(path.name)),
        _instead(lambda path: path.symlink_to("nowhere")),
        _instead(lambda path: path.symlink_to("/dev/zero")),
        _instead(os.mkfifo),
        _endless,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_text('{"somebody": "else\'s"}'),
        _a_folder,
        _changed(format=99),
        _changed(format=0),
        _changed(pixel_version=99),
        _changed(job_key="another job's"),
        _changed(source_sha256="another source's"),
    ],
    ids=[
        "loop",
        "lost-link",
        "device",
        "pipe",
        "endless",
        "empty",
        "cut",
        "foreign",
        "folder",
        "newer",
        "older",
        "pixels",
        "job",
        "source",
    ],
)
def test_a_plan_that_cannot_be_obeyed_is_refused_with_a_reason(
    plan: Plan, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    path = tmp_path / "plan.json"
    outline = write_plan(path, plan)
    assert read_plan(path, outline) == plan
    harm(path)
    with pytest.raises(SegmentError, match=r"plan\.json"):
        read_plan(path, outline)


def test_the_outline_lies_beside_its_plan_and_says_the_same(plan: Plan, tmp_path: Path) -> None:
    job_dir = JobDir(tmp_path)
    write_plan(job_dir.plan_path, plan)
    outline = read_record(job_dir.outline_path, PlanOutline)
    assert outline == outline_of(plan)
    shared = {field.name for field in dataclasses.fields(PlanOutline)} & {
        field.name for field in dataclasses.fields(Plan)
    } - {"segments"}
    assert {name: getattr(outline, name) for name in shared} == {
        name: getattr(plan, name) for name in shared
    }
    assert outline.num_frames == plan.video.num_frames


@pytest.mark.parametrize("seed", range(8))
def test_an_outline_knows_which_segments_are_parts_of_a_shot(seed: int) -> None:
    """As the pieces of the plan have it."""
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, 300), rng.randrange(0, 6)))
    engine = dataclasses.replace(ENGINE, window=5, overlap=1)
    options = make_options(segment_seconds=rng.choice((1, 2, 4)), engine=engine)
    plan = build_plan(make_info(), SOURCE, options, cuts=cuts)
    outline = outline_of(plan)
    assert outline.num_shots == len(cuts) + 1
    for segment, short in zip(plan.segments, outline.segments, strict=True):
        assert (short.index, short.start, short.stop) == (
            segment.index,
            segment.start,
            segment.stop,
        )
        shots = {plan.shots[piece.shot] for piece in segment.pieces}
        whole = {(shot.start, shot.stop) for shot in shots} == {
            (piece.start, piece.stop) for piece in segment.pieces
        }
        assert leaves_latents(outline, short) == (not whole)
        assert short.shot == (None if whole else next((s.start, s.stop) for s in shots))


def test_the_version_before_wrote_the_same_plan(plan: Plan, tmp_path: Path) -> None:
    """plan.json itself is as it was, so either version goes on with the other's jobs."""
    write_record(tmp_path / "before.json", plan)
    write_plan(tmp_path / "plan.json", plan)
    assert (tmp_path / "plan.json").read_bytes() == (tmp_path / "before.json").read_bytes()
