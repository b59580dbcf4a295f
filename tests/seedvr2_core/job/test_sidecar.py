"""A segment exists once its sidecar does, and only as long as it tells the truth."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.durable import canonical_json, read_record
from seedvr2_core.job import JobDir
from seedvr2_core.job import sidecar as segments
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from seedvr2_core.planning.plan import Plan
from tests.kits.factories import make_info, make_options
from tests.kits.restorer import MEMORY


@pytest.fixture
def plan() -> PlanOutline:
    info = make_info(pts=tuple(range(100)))
    return outline_of(build_plan(info, "digest", make_options(segment_seconds=1)))


@pytest.fixture
def job_dir(tmp_path: Path, plan: PlanOutline) -> JobDir:
    """A job with every segment committed."""
    job_dir = JobDir(tmp_path)
    job_dir.segments_path.mkdir()
    for segment in plan.segments:
        job_dir.video_part_path(segment.index).write_bytes(b"packets %d" % segment.index)
        made = segments.Making(device="cpu", precision="float32", seconds=1.0)
        segments.commit_segment(job_dir, plan, segment, made)
    return job_dir


def test_plan_round_trips_through_json(tmp_path: Path) -> None:
    plan = build_plan(make_info(), "digest", make_options())
    outline = write_plan(tmp_path / "plan.json", plan)
    assert read_record(tmp_path / "plan.json", Plan) == plan
    assert read_record(tmp_path / "plan.outline.json", PlanOutline) == outline
    assert not list(tmp_path.glob("*.part"))


def test_committed_segments_are_not_pending(job_dir: JobDir, plan: PlanOutline) -> None:
    assert segments.pending_segments(job_dir, plan) == []
    assert not list(job_dir.path.rglob("*.part"))


def _cut_video(job_dir: JobDir) -> None:
    path = job_dir.video_path(2)
    path.write_bytes(path.read_bytes()[:-1])


def _flip_video(job_dir: JobDir) -> None:
    job_dir.video_path(2).write_bytes(b"PACKETS 2")


def _lose_video(job_dir: JobDir) -> None:
    job_dir.video_path(2).unlink()


def _lose_sidecar(job_dir: JobDir) -> None:
    job_dir.sidecar_path(2).unlink()


def _cut_sidecar(job_dir: JobDir) -> None:
    path = job_dir.sidecar_path(2)
    path.write_bytes(path.read_bytes()[:20])


def _a_folder_for(name: str) -> Callable[[JobDir], None]:
    def change(job_dir: JobDir) -> None:
        path = job_dir.segments_path / name
        path.unlink()
        path.mkdir()

    return change


def _lie(field: str, value: object) -> Callable[[JobDir], None]:
    def change(job_dir: JobDir) -> None:
        path = job_dir.sidecar_path(2)
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    return change


@pytest.mark.parametrize(
    "harm",
    [
        _cut_video,
        _flip_video,
        _lose_video,
        _lose_sidecar,
        _cut_sidecar,
        _lie("stop", 7),
        _lie("job_key", "another"),
        _lie("index", 1),
        _lie("sha256", "00"),
        _lie("plan_sha256", ""),
        _a_folder_for("00002.json"),
        _a_folder_for("00002.mp4"),
    ],
    ids=[
        *("cut", "flipped", "lost", "no-sidecar", "half-sidecar", "range", "key", "index"),
        *("digest", "plan", "sidecar-folder", "video-folder"),
    ],
)
def test_a_harmed_segment_is_redone_and_only_that_one(
    job_dir: JobDir, plan: PlanOutline, harm: Callable[[JobDir], None]
) -> None:
    harm(job_dir)
    assert segments.pending_segments(job_dir, plan) == [2]


def test_another_plan_of_the_same_job_begins_again(job_dir: JobDir, plan: PlanOutline) -> None:
    """Planned afresh with other threads: last bits may differ, so nothing is mixed."""
    other = dataclasses.replace(plan, torch_threads=plan.torch_threads + 1)
    assert other.job_key == plan.job_key
    assert segments.pending_segments(job_dir, other) == [s.index for s in plan.segments]
    elsewhere = dataclasses.replace(plan, device="cuda:0", eta_seconds=9.0)
    assert segments.pending_segments(job_dir, elsewhere) == []


def test_segments_of_a_plan_of_the_version_before_are_kept(plan: PlanOutline) -> None:
    """Its memory plan knows nothing of rings and bands."""
    planned = dataclasses.replace(plan, memory=MEMORY)
    memory = dataclasses.asdict(MEMORY) | {"peaks": ()}
    for later in ("stream_caches", "streamed_layers"):
        del memory[later]
    for part, way in itertools.product(("encoder", "decoder"), ("rings", "bands")):
        del memory[f"{part}_{way}"]
    del memory["encoder_block_bytes"], memory["decoder_block_bytes"], memory["moving_seconds"]
    text = canonical_json({"memory": memory, "threads": plan.torch_threads})
    assert segments.plan_digest(planned) == hashlib.sha256(text.encode()).hexdigest()
    straight = dataclasses.replace(MEMORY, encoder_block_bytes=0, moving_seconds=3.0)
    same = dataclasses.replace(plan, memory=straight)
    assert segments.plan_digest(same) == segments.plan_digest(planned)
    for changes in ({"decoder_rings": True}, {"encoder_bands": True}):
        other = dataclasses.replace(plan, memory=dataclasses.replace(MEMORY, **changes))
        assert segments.plan_digest(other) != segments.plan_digest(planned)


def test_what_was_made_differently_is_told(job_dir: JobDir, plan: PlanOutline) -> None:
    assert segments.deviations(job_dir, plan) == []
    _lie("device", "NVIDIA H100")(job_dir)
    _lie("rung", "windows of 3+3 latents")(job_dir)
    kinds, rung = segments.deviations(job_dir, plan)
    assert kinds == "segments were made on several kinds of device: cpu (3), NVIDIA H100 (1)"
    assert rung == "segment 2 was fitted into less memory: windows of 3+3 latents"


def test_leftovers_are_removed(job_dir: JobDir, plan: PlanOutline) -> None:
    job_dir.video_part_path(3).write_bytes(b"half")
    job_dir.output_part_path.write_bytes(b"half")
    job_dir.video_part_path(2).write_bytes(b"of another process")
    segments.remove_leftovers(job_dir, [3], of_job=True)
    assert [path.name for path in job_dir.path.rglob("*.part")] == ["00002.mp4.part"]
    segments.remove_leftovers(job_dir, [2], of_job=False)
    assert not list(job_dir.path.rglob("*.part"))
    assert segments.pending_segments(job_dir, plan) == []


def test_broken_records_are_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{}")
    with pytest.raises(SegmentError, match=r"plan\.json is not a valid Plan record"):
        read_record(path, Plan)
