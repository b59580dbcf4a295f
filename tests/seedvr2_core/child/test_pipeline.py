"""The stages around an engine: what a failure or a slow disk does to the segments in flight."""

import itertools
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.child import commit, pipeline
from seedvr2_core.child.protocol import Progressed, Restored, SegmentDone
from seedvr2_core.engines.per_frame import PerFrameSession
from seedvr2_core.errors import SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.job import JobDir
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.probe import probe_video
from tests.kits.factories import make_options
from tests.kits.pipeline import (
    KeepTorch,
    make_segments,
    packets,
    sidecars,
    tiny_plan,
    use_small_pictures,
)


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    with KeepTorch():
        yield


@pytest.fixture
def plan(demo_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Six segments of a small picture, made by the baseline engine."""
    use_small_pictures(monkeypatch)
    options = make_options(segment_seconds=0.5, preset="ultrafast", cpu_count=1)
    return build_plan(probe_video(demo_clip), "0" * 64, options)


def made(plan: Plan, job_dir: Path) -> list[int]:
    return [sidecar.index for sidecar in sidecars(plan, job_dir) if sidecar]


def test_segments_before_a_failing_engine_are_kept(
    plan: Plan, demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far behind the encoder is."""
    whole = PerFrameSession.restore
    broken = plan.segments[3].start + 5

    def restore(self: PerFrameSession, *args: Any, **options: Any) -> Iterator[Frame]:
        for frame in whole(self, *args, **options):
            if frame.index == broken:
                raise SegmentError("the engine broke")
            yield frame

    monkeypatch.setattr(PerFrameSession, "restore", restore)
    with pytest.raises(SegmentError, match="the engine broke"):
        make_segments(plan, tmp_path / "job", demo_clip, range(6))
    assert made(plan, tmp_path / "job") == [0, 1, 2]
    assert not list((tmp_path / "job").rglob("*.part"))


def test_segments_before_a_broken_source_are_kept(
    plan: Plan, demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = pipeline.read_frames, plan.segments[2].start

    def read(*args: Any, **options: Any) -> Iterator[Frame]:
        for frame in whole(*args, **options):
            if frame.index == broken:
                raise SegmentError("the source broke")
            yield frame

    monkeypatch.setattr(pipeline, "read_frames", read)
    with pytest.raises(SegmentError, match="the source broke"):
        make_segments(plan, tmp_path / "job", demo_clip, range(6))
    assert made(plan, tmp_path / "job") == [0, 1]


def test_the_engine_begins_no_third_segment_before_the_first_is_on_disk(
    plan: Plan, demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a kill costs two segments at most, however slow the disk is."""
    begun: list[int] = []
    ahead: list[int] = []
    whole_restore, whole_commit = PerFrameSession.restore, commit.commit_segment
    asked_for_more = threading.Event()

    class Watched(pipeline.InFlight):
        def begin(self) -> None:
            if len(begun) == pipeline.MAX_IN_FLIGHT:
                asked_for_more.set()
            super().begin()

    def restore(self: PerFrameSession, *args: Any, **options: Any) -> Iterator[Frame]:
        begun.append(options["piece"].start)
        return whole_restore(self, *args, **options)

    def put(job_dir: JobDir, plan: Any, segment: Any, how: Any, **given: Any) -> object:
        assert asked_for_more.wait(60)  # until the engine wants to go on
        ahead.append(len(begun) - segment.index)
        return whole_commit(job_dir, plan, segment, how, **given)

    monkeypatch.setattr(pipeline, "InFlight", Watched)
    monkeypatch.setattr(PerFrameSession, "restore", restore)
    monkeypatch.setattr(commit, "commit_segment", put)
    make_segments(plan, tmp_path / "job", demo_clip, range(6))
    assert made(plan, tmp_path / "job") == [*range(6)]
    assert max(ahead) <= pipeline.MAX_IN_FLIGHT


def test_the_engine_tells_how_far_it_is(plan: Plan, demo_clip: Path, tmp_path: Path) -> None:
    heard = make_segments(plan, tmp_path / "job", demo_clip, range(6))
    events = [heard.events.get_nowait() for _ in range(heard.events.qsize())]
    restored = [event for event in events if isinstance(event, Restored)]
    assert [event.segment for event in restored] == [*range(6)]
    for event in restored:
        assert 0 <= event.waited <= event.seconds


def test_progress_counts_every_restored_frame(plan: Plan, demo_clip: Path, tmp_path: Path) -> None:
    """Also where a segment in between is there already."""
    for indices in ([0, 2, 3], [1, 4, 5]):
        heard = make_segments(plan, tmp_path / "job", demo_clip, indices)
        events = [heard.events.get_nowait() for _ in range(heard.events.qsize())]
        told = [event for event in events if isinstance(event, Progressed)]
        frames = sum(plan.segments[k].num_frames for k in indices)
        assert (told[-1].restored, told[-1].encoded) == (frames, frames)
        for before, after in itertools.pairwise(told):
            assert (before.restored, before.work) <= (after.restored, after.work)
            assert before.encoded <= after.encoded <= after.restored


@pytest.mark.parametrize("seed", range(4))
def test_segments_are_committed_in_order_whatever_is_pending(
    seed: int, plan: Plan, demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages that are slow at random change nothing about the order or the events."""
    rng = random.Random(seed)
    whole_commit, whole_count = commit.commit_segment, commit.count_frames
    committed: list[int] = []

    def put(job_dir: JobDir, plan: Any, segment: Any, how: Any, **given: Any) -> object:
        time.sleep(rng.choice((0.0, 0.05)))
        committed.append(segment.index)
        return whole_commit(job_dir, plan, segment, how, **given)

    def count(path: Path, *, alone: bool, on_frame: Any) -> int:
        time.sleep(rng.choice((0.0, 0.05)))
        return whole_count(path, alone=alone, on_frame=on_frame)

    monkeypatch.setattr(commit, "commit_segment", put)
    monkeypatch.setattr(commit, "count_frames", count)
    pending = sorted(rng.sample(range(6), rng.randrange(1, 7)))
    heard = make_segments(plan, tmp_path / "job", demo_clip, pending)
    events = [heard.events.get_nowait() for _ in range(heard.events.qsize())]
    assert committed == pending
    assert [event.segment for event in events if isinstance(event, SegmentDone)] == pending
    assert made(plan, tmp_path / "job") == pending


@pytest.mark.parametrize(
    ("seconds", "alone"), [(0.5, [False] * 5 + [True]), (1.48, [False, True, True])]
)
def test_a_segment_that_little_follows_is_counted_on_all_cores(
    demo_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    alone: list[bool],
) -> None:
    """The others are counted beside an encoder. It says how far that is: nothing else moves.

    The clip has 75 frames: 1.48 seconds are 37 of them, and the last segment has one.
    """
    use_small_pictures(monkeypatch)
    options = make_options(segment_seconds=seconds, preset="ultrafast", cpu_count=1)
    plan = build_plan(probe_video(demo_clip), "0" * 64, options)
    told: list[bool] = []
    whole = commit.count_frames

    def count(path: Path, *, alone: bool, on_frame: Any) -> int:
        told.append(alone)
        return whole(path, alone=alone, on_frame=on_frame)

    monkeypatch.setattr(commit, "count_frames", count)
    heard = make_segments(plan, tmp_path / "job", demo_clip, range(len(plan.segments)))
    assert told == alone
    counted = [plan.segments[k].num_frames for k, all_cores in enumerate(alone) if all_cores]
    assert heard.beats["check"] == [(d, of) for of in counted for d in range(1, of + 1)]


@pytest.mark.long
def test_a_warm_up_waits_for_what_this_very_pass_commits(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments 0 and 2 are lost with their latents: 2 needs those of 0 while they are written."""
    use_small_pictures(monkeypatch)
    plan, job_dir = tiny_plan(demo_clip), tmp_path / "job"
    make_segments(plan, job_dir, demo_clip, range(5))
    before = packets(plan, job_dir)
    for index in (0, 2):
        for path in (JobDir.sidecar_path, JobDir.video_path, JobDir.latents_path):
            path(JobDir(job_dir), index).unlink()
    whole, slow = commit.count_frames, threading.Event()

    def count(path: Path, *, alone: bool, on_frame: Any) -> int:
        slow.wait(0.5)  # the engine would be at the next segment long before
        return whole(path, alone=alone, on_frame=on_frame)

    monkeypatch.setattr(commit, "count_frames", count)
    make_segments(plan, job_dir, demo_clip, [0, 2])
    assert packets(plan, job_dir) == before
    shutil.rmtree(job_dir)
