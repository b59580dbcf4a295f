"""Several processes that make one job: the bytes of one process, whoever makes what."""

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from seedvr2_core.child.protocol import Ready, SegmentDone, Taken, Waiting
from seedvr2_core.child.shares import Work
from seedvr2_core.files.durable import write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.job.sharing import Sharing, read_sharing
from seedvr2_core.planning.plan import Plan
from tests.kits.pipeline import (
    Heard,
    KeepTorch,
    make_segments,
    packets,
    tiny_plan,
    use_sessions,
    use_small_pictures,
)
from tests.kits.restorer import open_tiny

RUN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_small_pictures(monkeypatch)
    use_sessions(monkeypatch, open_tiny)
    with KeepTorch():
        yield


@pytest.fixture
def plan(demo_clip: Path) -> Plan:
    """The demo clip as one shot in windows of 3 latents: nine segments."""
    plan = tiny_plan(demo_clip, seconds=0.3)
    assert len(plan.segments) == 9
    return plan


def share_out(
    job_dir: Path, clip: Path, plan: Plan, *, run_id: str = RUN, workers: int = 2
) -> None:
    """Say that others may help, as the run at work does."""
    job_dir.mkdir(exist_ok=True)
    if not (job_dir / "plan.json").exists():
        write_plan(job_dir / "plan.json", plan)
    sharing = Sharing(
        run_id=run_id,
        workers=workers,
        device="cpu",
        source=clip,
        source_name=clip.name,
        source_bytes=1,
    )
    write_record(JobDir(job_dir).sharing_path, sharing)


def events(heard: Heard) -> list[object]:
    """Everything that was said so far."""
    said: list[object] = []
    while True:
        try:
            said.append(heard.events.get_nowait())
        except queue.Empty:
            return said


def taken(said: Sequence[object]) -> list[int]:
    return [index for event in said if isinstance(event, Taken) for index in event.segments]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("cuts", [(), (20, 47)], ids=["one long shot", "cuts"])
def test_several_processes_make_the_bytes_of_one(
    tmp_path: Path, demo_clip: Path, cuts: tuple[int, ...], workers: int
) -> None:
    """In one long shot helpers begin inside of it, while what lies before is not made yet."""
    plan = tiny_plan(demo_clip, seconds=0.3, cuts=cuts)
    assert len(plan.shots) == 1 + len(cuts)
    every = tuple(segment.index for segment in plan.segments)
    one, several = tmp_path / "one", tmp_path / "several"
    make_segments(plan, one, demo_clip, every)
    share_out(several, demo_clip, plan, workers=workers)
    said: dict[int, list[object]] = {}

    def work(number: int) -> None:
        told = Work(indices=every, workers=workers, helps=RUN if number else "")
        said[number] = events(make_segments(plan, several, demo_clip, (), told))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    shares = {number: taken(said[number]) for number in range(workers)}
    made = sorted(index for share in shares.values() for index in share)
    assert made == list(every), "each segment is made once"
    # Of four that begin at once, one may find that the others have taken all.
    assert sum(1 for share in shares.values() if share) > 1, shares
    assert packets(plan, several) == packets(plan, one)
    assert not JobDir(several).part_files()


@pytest.mark.long
@pytest.mark.slow
def test_what_a_helper_leaves_undone_is_made_by_the_run_itself(
    plan: Plan, tmp_path: Path, demo_clip: Path
) -> None:
    share_out(tmp_path, demo_clip, plan)
    heard = Heard()
    with Claims(JobDir(tmp_path)) as helper:
        assert all(helper.take(index) for index in range(5, 9))
        JobDir(tmp_path).segments_path.mkdir()
        JobDir(tmp_path).video_part_path(6).write_bytes(b"half a segment")

        def die_when_waited_for() -> None:
            while not isinstance(heard_now := heard.events.get(timeout=120), Waiting):
                told.append(heard_now)
            told.append(heard_now)
            helper.release(range(5, 9))

        told: list[object] = []
        thread = threading.Thread(target=die_when_waited_for)
        thread.start()
        work = Work(indices=tuple(range(9)), workers=2)
        make_segments(plan, tmp_path, demo_clip, (), work, heard=heard)
        thread.join(timeout=60)
    assert isinstance(told[-1], Waiting)
    assert told[-1].whom == "the helpers that make segments 5 to 8"
    said = [*told, *events(heard)]
    assert sorted(taken(said)) == list(range(9))
    assert sum(isinstance(event, SegmentDone) for event in said) == 9
    assert sum(isinstance(event, Ready) for event in said) == 1, "the engine is loaded once"
    assert not JobDir(tmp_path).part_files()


def test_a_helper_loads_nothing_where_nothing_is_left_or_wanted(
    plan: Plan, tmp_path: Path, demo_clip: Path
) -> None:
    work = Work(indices=tuple(range(9)), workers=2, helps=RUN)
    share_out(tmp_path, demo_clip, plan, run_id="another run")
    assert events(make_segments(plan, tmp_path, demo_clip, (), work)) == []
    JobDir(tmp_path).sharing_path.unlink()
    assert events(make_segments(plan, tmp_path, demo_clip, (), work)) == []
    share_out(tmp_path, demo_clip, plan)
    with Claims(JobDir(tmp_path)) as others:
        assert all(others.take(index) for index in range(9))
        assert events(make_segments(plan, tmp_path, demo_clip, (), work)) == []
    assert not list(JobDir(tmp_path).segments_path.iterdir())


def test_what_helpers_are_told_is_read_back(plan: Plan, tmp_path: Path, demo_clip: Path) -> None:
    share_out(tmp_path, demo_clip, plan)
    sharing = read_sharing(JobDir(tmp_path), RUN)
    assert sharing is not None
    assert sharing.source == demo_clip
    JobDir(tmp_path).sharing_path.write_text("{}")
    assert read_sharing(JobDir(tmp_path), RUN) is None
