"""Whatever happens to the bytes of a finished segment, it is redone or is as it was."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.job.sidecar import Making, commit_segment, read_segment
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from tests.kits.factories import make_info, make_options

VICTIM = 1
ODD_VALUES: tuple[Any, ...] = (
    None,
    -1,
    2**70,
    1.5,
    True,
    "",
    "x",
    "\ud83d",
    [],
    {},
    [[]],
    "0" * 999,
)


@pytest.fixture
def plan() -> PlanOutline:
    info, options = make_info(pts=tuple(range(75))), make_options(segment_seconds=1)
    return outline_of(build_plan(info, "a", options))


@pytest.fixture
def job_dir(tmp_path: Path, plan: PlanOutline) -> JobDir:
    """A job with every segment committed."""
    job_dir = JobDir(tmp_path)
    job_dir.segments_path.mkdir()
    for segment in plan.segments:
        job_dir.video_part_path(segment.index).write_bytes(bytes(range(256)) * 3)
        made = Making(device="cpu", precision="float32", seconds=1.0)
        commit_segment(job_dir, plan, segment, made)
    assert pending_segments(job_dir, plan) == []
    return job_dir


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes cut, doubled in part, or with some of them changed."""
    at = int(rng.integers(len(content)))
    kind = int(rng.integers(4))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[at // 2 :]
    if kind == 2:
        return content[:at] + bytes(rng.integers(0, 256, 5, dtype=np.uint8)) + content[at + 5 :]
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


def test_any_damage_to_packets_is_found(job_dir: JobDir, plan: PlanOutline) -> None:
    path, rng = job_dir.video_path(VICTIM), np.random.default_rng(1)
    whole = path.read_bytes()
    for _ in range(200):
        spoilt = damaged(whole, rng)
        path.write_bytes(spoilt)
        assert pending_segments(job_dir, plan) == ([] if spoilt == whole else [VICTIM])
    path.write_bytes(whole)
    assert pending_segments(job_dir, plan) == []


def test_any_damage_to_a_sidecar_costs_its_segment_at_most(
    job_dir: JobDir, plan: PlanOutline
) -> None:
    path, rng = job_dir.sidecar_path(VICTIM), np.random.default_rng(2)
    whole = path.read_bytes()
    for _ in range(300):
        path.write_bytes(damaged(whole, rng))
        assert pending_segments(job_dir, plan) in ([], [VICTIM])


def test_odd_values_in_a_sidecar_cost_its_segment_at_most(
    job_dir: JobDir, plan: PlanOutline
) -> None:
    """What is compared must be equal; what is only told may be anything of its kind."""
    path = job_dir.sidecar_path(VICTIM)
    record = json.loads(path.read_text())
    for name in record:
        for value in ODD_VALUES:
            path.write_text(json.dumps(record | {name: value}))
            pending = pending_segments(job_dir, plan)
            compared = name in ("job_key", "index", "start", "stop", "num_bytes", "sha256")
            assert pending in ([], [VICTIM])
            assert pending == [VICTIM] or not compared or value == record[name], (name, value)
    for odd in ODD_VALUES:
        path.write_text(json.dumps(odd))
        assert pending_segments(job_dir, plan) == [VICTIM]


def test_swapped_segments_are_both_found(job_dir: JobDir, plan: PlanOutline) -> None:
    """Each sidecar beside the other's packets."""
    first, second = job_dir.sidecar_path(0).read_bytes(), job_dir.sidecar_path(2).read_bytes()
    job_dir.sidecar_path(0).write_bytes(second)
    job_dir.sidecar_path(2).write_bytes(first)
    assert pending_segments(job_dir, plan) == [0, 2]


def test_a_segment_is_read_as_it_was_committed(job_dir: JobDir, plan: PlanOutline) -> None:
    for segment in plan.segments:
        sidecar = read_segment(job_dir, plan, segment)
        assert sidecar is not None
        assert (sidecar.index, sidecar.start, sidecar.stop) == (
            *(segment.index, segment.start, segment.stop),
        )
        assert sidecar.num_bytes == job_dir.video_path(segment.index).stat().st_size
