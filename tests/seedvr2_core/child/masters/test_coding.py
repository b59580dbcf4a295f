"""Segments are coded again from masters, with the bytes of a job that was asked for at once."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.child import segments
from seedvr2_core.child.protocol import CodingAgain, Event, Ready, SegmentDone, Waiting
from seedvr2_core.child.shares import Work
from seedvr2_core.engines import reuse
from seedvr2_core.files import file_sha256, hold_lock, read_record, write_record
from seedvr2_core.job import JobDir, deviations, pending_segments
from seedvr2_core.job.claims import Claims
from seedvr2_core.job.masters import Masters, MasterSidecar, WantedMasters, ready_masters
from seedvr2_core.job.sharing import Sharing
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import outline_of
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.probe import probe_video
from tests.kits.factories import make_options
from tests.kits.pipeline import (
    Heard,
    KeepTorch,
    make_segments,
    packets,
    sidecars,
    use_sessions,
    use_small_pictures,
)
from tests.kits.restorer import ENGINE, open_tiny


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_small_pictures(monkeypatch, 64, 36)  # HEVC has no smaller ones
    with KeepTorch():
        yield


def planned(clip: Path, engine: str, codec: str, **changes: Any) -> Plan:
    """A job of the clip in several segments."""
    options = make_options(
        segment_seconds=0.5, preset="ultrafast", cpu_count=1, codec=codec, **changes
    )
    if engine == "tiny":
        tiny = dataclasses.replace(ENGINE, name="tiny", window=3, overlap=1)
        options = dataclasses.replace(options, engine=tiny)
    return build_plan(probe_video(clip), "0" * 64, options)


def want(plan: Plan, job_dir: Path, folder: Path, *, keep: bool = False) -> WantedMasters:
    """Say what a run wants of masters, as the flow does."""
    ready = ready_masters(Masters(folder), outline_of(plan))
    wanted = WantedMasters(folder=folder, keep=keep, ready=ready)
    job_dir.mkdir(exist_ok=True)
    write_record(JobDir(job_dir).masters_path, wanted)
    return wanted


def make(plan: Plan, job_dir: Path, clip: Path) -> Heard:
    return make_segments(plan, job_dir, clip, [segment.index for segment in plan.segments])


def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no engine be loaded from now on."""

    def load(name: str) -> object:
        raise AssertionError(f"the engine {name} was asked for")

    monkeypatch.setattr(reuse, "load_engine", load)


def events(heard: Heard, kind: type) -> list[Any]:
    told = [heard.events.get_nowait() for _ in range(heard.events.qsize())]
    return [event for event in told if isinstance(event, kind)]


@pytest.mark.long
@pytest.mark.parametrize("engine", ["lanczos", "tiny"])
@pytest.mark.parametrize(
    ("first", "second"),
    [(("h264", {}), ("hevc", {"crf": 30})), (("prores", {}), ("tiff", {}))],
    ids=["8 bits", "16 bits"],
)
def test_another_codec_from_a_master_has_the_bytes_of_one_asked_for_at_once(
    engine: str,
    first: tuple[str, dict[str, Any]],
    second: tuple[str, dict[str, Any]],
    demo_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if engine == "tiny":
        use_sessions(monkeypatch, open_tiny)
    made = planned(demo_clip, engine, first[0], **first[1])
    asked = planned(demo_clip, engine, second[0], **second[1])
    assert made.job_key != asked.job_key
    assert made.deep == asked.deep == (first[0] == "prores")
    assert len(made.segments) > 3

    make(made, tmp_path / "plain", demo_clip)
    want(made, tmp_path / "first", tmp_path / "masters", keep=True)
    make(made, tmp_path / "first", demo_clip)
    assert packets(made, tmp_path / "first") == packets(made, tmp_path / "plain")
    make(asked, tmp_path / "at once", demo_clip)

    no_engine(monkeypatch)
    wanted = want(asked, tmp_path / "again", tmp_path / "masters")
    assert len(wanted.ready) == len(asked.segments)
    heard = make(asked, tmp_path / "again", tmp_path / "there is no source")
    assert packets(asked, tmp_path / "again") == packets(asked, tmp_path / "at once")
    assert events(heard, CodingAgain) == [CodingAgain(active=True)]
    assert pending_segments(JobDir(tmp_path / "again"), outline_of(asked)) == []
    for again, before in zip(
        sidecars(asked, tmp_path / "again"), sidecars(asked, tmp_path / "at once"), strict=True
    ):
        assert again is not None
        assert before is not None
        assert (again.from_master, before.from_master) == (True, False)
        assert (again.device, again.precision) == (before.device, before.precision)
    assert deviations(JobDir(tmp_path / "again"), outline_of(asked)) == [
        "all segments were coded again from the master, without the engine"
    ]


@pytest.mark.long
@pytest.mark.parametrize("engine", ["lanczos", "tiny"])
def test_masters_that_are_lost_or_damaged_are_restored_anew_and_named(
    engine: str, demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a shot too, where the segments in front have left no latents."""
    if engine == "tiny":
        use_sessions(monkeypatch, open_tiny)
    made, asked = (planned(demo_clip, engine, codec) for codec in ("h264", "hevc"))
    want(made, tmp_path / "first", tmp_path / "masters", keep=True)
    make(made, tmp_path / "first", demo_clip)
    make(asked, tmp_path / "at once", demo_clip)

    masters = Masters(tmp_path / "masters")
    masters.sidecar_path(1).unlink()
    content = bytearray(masters.video_path(3).read_bytes())
    content[len(content) // 2] ^= 1
    masters.video_path(3).write_bytes(content)
    wanted = want(asked, tmp_path / "again", masters.path)
    assert 1 not in wanted.ready
    heard = make(asked, tmp_path / "again", demo_clip)
    assert packets(asked, tmp_path / "again") == packets(asked, tmp_path / "at once")
    told = [heard.events.get_nowait() for _ in range(heard.events.qsize())]
    steps = [event for event in told if isinstance(event, CodingAgain | Ready)]
    assert [type(step) for step in steps] == [CodingAgain, CodingAgain, Ready]
    num = len(asked.segments)
    assert deviations(JobDir(tmp_path / "again"), outline_of(asked)) == [
        f"{num - 2} of {num} segments were coded again from the master, without the engine",
        "segment 1 was restored anew: there is no master of it",
        "segment 3 was restored anew: its master is damaged",
    ]


@pytest.mark.long
def test_a_master_that_breaks_while_it_is_read_costs_its_segment_alone(
    demo_clip: Path, tmp_path: Path
) -> None:
    made, asked = (planned(demo_clip, "lanczos", codec) for codec in ("h264", "hevc"))
    want(made, tmp_path / "first", tmp_path / "masters", keep=True)
    make(made, tmp_path / "first", demo_clip)
    make(asked, tmp_path / "at once", demo_clip)

    # With the digest of a file that holds fewer frames than its sidecar says.
    masters = Masters(tmp_path / "masters")
    short, sidecar = masters.video_path(2), masters.sidecar_path(2)
    short.write_bytes(b"no video at all")
    told = read_record(sidecar, MasterSidecar)
    changed = dataclasses.replace(told, num_bytes=15, sha256=file_sha256(short))
    write_record(sidecar, changed)
    want(asked, tmp_path / "again", masters.path)
    make(asked, tmp_path / "again", demo_clip)
    assert packets(asked, tmp_path / "again") == packets(asked, tmp_path / "at once")
    assert [one.index for one in sidecars(asked, tmp_path / "again") if one and one.anew] == [2]


@pytest.mark.long
def test_a_job_that_was_killed_goes_on_from_its_own_masters(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been killed between the master and the sidecar of its segment."""
    plan = planned(demo_clip, "lanczos", "h264")
    make(plan, tmp_path / "plain", demo_clip)
    want(plan, tmp_path / "job", tmp_path / "masters", keep=True)
    make(plan, tmp_path / "job", demo_clip)
    JobDir(tmp_path / "job").sidecar_path(2).unlink()
    left = Masters(tmp_path / "masters").part_path(2, plan.job_key)
    left.write_bytes(b"half")

    no_engine(monkeypatch)
    want(plan, tmp_path / "job", tmp_path / "masters", keep=True)
    make_segments(plan, tmp_path / "job", demo_clip, [2], Work(indices=(2,)))
    assert packets(plan, tmp_path / "job") == packets(plan, tmp_path / "plain")
    assert not left.exists()


def test_masters_are_of_pixels_and_not_of_codecs(demo_clip: Path) -> None:
    base = planned(demo_clip, "lanczos", "h264")
    same = [
        planned(demo_clip, "lanczos", "hevc"),
        planned(demo_clip, "lanczos", "h264", crf=30),
        planned(demo_clip, "lanczos", "h264", container="mkv", audio="none"),
    ]
    assert {outline_of(plan).pixels_key for plan in same} == {outline_of(base).pixels_key}
    deep = outline_of(planned(demo_clip, "lanczos", "prores"))
    assert deep.pixels_key == outline_of(base).other_pixels_key != outline_of(base).pixels_key
    tiny = outline_of(planned(demo_clip, "tiny", "h264"))
    later = outline_of(dataclasses.replace(base, segments=base.segments[:-1]))
    wider = outline_of(dataclasses.replace(base, width=base.width + 2))
    assert len({x.pixels_key for x in (outline_of(base), tiny, later, wider, deep)}) == 5


def test_who_needs_no_engine_does_not_wait_for_the_gpu(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds it all the time; only what lacks a master waits for it."""
    made, asked = (planned(demo_clip, "lanczos", codec) for codec in ("h264", "hevc"))
    want(made, tmp_path / "first", tmp_path / "masters", keep=True)
    make(made, tmp_path / "first", demo_clip)
    monkeypatch.setattr(segments, "device_locks", lambda device: ["gpu-7.lock"])
    want(asked, tmp_path / "again", tmp_path / "masters")
    with hold_lock(tmp_path / "again" / "gpu-7.lock", timeout=0, on_wait=lambda: None):
        heard = make(asked, tmp_path / "again", demo_clip)
    assert events(heard, Waiting) == []
    assert pending_segments(JobDir(tmp_path / "again"), outline_of(asked)) == []

    Masters(tmp_path / "masters").sidecar_path(1).unlink()
    want(asked, tmp_path / "one", tmp_path / "masters")
    heard = Heard()
    with hold_lock(tmp_path / "one" / "gpu-7.lock", timeout=0, on_wait=lambda: None):
        args = (asked, tmp_path / "one", demo_clip, [s.index for s in asked.segments])
        thread = threading.Thread(target=make_segments, args=args, kwargs={"heard": heard})
        thread.start()
        told: list[Event] = []
        while not told or not isinstance(told[-1], Waiting):
            told.append(heard.events.get(timeout=60))
        done = sum(isinstance(event, SegmentDone) for event in told)
        assert done == len(asked.segments) - 1, "those with masters are made before"
        assert told[-1].lock == "gpu-7.lock"
    thread.join(timeout=60)
    assert pending_segments(JobDir(tmp_path / "one"), outline_of(asked)) == []


@pytest.mark.long
@pytest.mark.parametrize("engine", ["lanczos", "tiny"])
def test_all_workers_of_a_job_leave_masters(
    engine: str, demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper takes its shares first, then the run's own process makes what is left."""
    if engine == "tiny":
        use_sessions(monkeypatch, open_tiny)
    plan = planned(demo_clip, engine, "h264")
    want(plan, tmp_path / "alone", tmp_path / "masters of one", keep=True)
    make(plan, tmp_path / "alone", demo_clip)

    job_dir, indices = tmp_path / "shared", tuple(s.index for s in plan.segments)
    want(plan, job_dir, tmp_path / "masters of two", keep=True)
    sharing = Sharing(
        run_id="1", workers=2, device="cpu", source=demo_clip, source_name="", source_bytes=0
    )
    write_record(JobDir(job_dir).sharing_path, sharing)
    with Claims(JobDir(job_dir)) as others:  # so that something is left for the run itself
        assert others.take(indices[0])
        make_segments(
            plan, job_dir, demo_clip, indices, Work(indices=indices, workers=2, helps="1")
        )
    helped = ready_masters(Masters(tmp_path / "masters of two"), outline_of(plan))
    assert helped == indices[1:]
    make_segments(plan, job_dir, demo_clip, indices, Work(indices=indices, workers=2))
    assert packets(plan, job_dir) == packets(plan, tmp_path / "alone")
    one, two = (Masters(tmp_path / f"masters of {name}") for name in ("one", "two"))
    for index in indices:
        assert one.video_path(index).read_bytes() == two.video_path(index).read_bytes()

    asked = planned(demo_clip, engine, "hevc")
    make(asked, tmp_path / "at once", demo_clip)
    no_engine(monkeypatch)
    want(asked, tmp_path / "again", two.path)
    write_record(JobDir(tmp_path / "again").sharing_path, sharing)
    with Claims(JobDir(tmp_path / "again")) as others:
        assert others.take(indices[0])
        work = Work(indices=indices, workers=2, helps="1")
        make_segments(asked, tmp_path / "again", demo_clip, indices, work)
    make_segments(asked, tmp_path / "again", demo_clip, indices, Work(indices=indices, workers=2))
    assert packets(asked, tmp_path / "again") == packets(asked, tmp_path / "at once")
