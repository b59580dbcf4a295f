"""Waiting for segments: what is slow goes on, what hangs is ended, and what people see of it."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.child.protocol import Progressed
from seedvr2_core.errors import (
    BudgetError,
    DeadlineError,
    InvalidRequestError,
    SeedVR2Error,
    StalledError,
)
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import read_plan, write_plan
from seedvr2_core.planning import Plan, build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from seedvr2_core.planning.plan import FrameSeconds
from tasks import inference
from tasks.child import operation, pace, pending
from tasks.child.guard import Child
from tasks.child.session import SegmentWatch
from tasks.inference import wait_for
from tasks.schemas import FetchedSource, PlannedJob
from tasks.settings import Settings, use_settings
from tests.kits.factories import Audience, make_info, make_options
from tests.kits.faults import wait_until

Script = Callable[[str], None]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(work_dir=tmp_path / "work")
    use_settings(settings)
    yield settings
    use_settings(None)


@pytest.fixture
def child_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """The child of the job runs these lines of Python."""

    def set_script(body: str) -> None:
        script = tmp_path / "child.py"
        script.write_text(
            "import sys, time\n"
            "from seedvr2_core.child.progress import Emitter\n"
            "from seedvr2_core.child.protocol import *\n"
            "emit = Emitter(sys.stdout).emit\n"
            "ready = Ready(engine='lanczos', device='cpu')\n"
            "def beat(done): emit(Heartbeat(phase='restore', done=done, total=300))\n"
            "def done(n): emit(Progressed(restored=n, work=n, encoded=n))\n"
            "request = decode_request(sys.stdin.readline())\n" + textwrap.dedent(body)
        )
        command = [sys.executable, "-u", str(script)]
        monkeypatch.setattr(operation, "Child", partial(Child, command=command))

    return set_script


def a_job(tmp_path: Path, *, stall: float = 20.0, load: float = 20.0, **changes: Any) -> PlannedJob:
    """300 frames in two segments."""
    plan: Plan = build_plan(make_info(), "a", make_options(segment_seconds=6))
    quick = FrameSeconds(engine=1e-4, encoder=0.0, beside=True, mpx=0.9)
    plan = replace(plan, frame_seconds=quick, limits=replace(plan.limits, load=load))
    assert [segment.num_frames for segment in plan.segments] == [150, 150]
    job_dir = JobDir(tmp_path / "job")
    job_dir.path.mkdir(exist_ok=True)
    write_plan(job_dir.plan_path, plan)
    fields: dict[str, Any] = {
        "job_key": "k" * 64,
        "job_dir": job_dir.path,
        "source": FetchedSource(path=Path("/a.mp4"), sha256="0" * 64, num_bytes=1, name="a.mp4"),
        "num_segments": 2,
        "num_frames": 300,
        "width": 1280,
        "height": 720,
        "resolution": "720p",
        "engine": "lanczos",
        "engine_label": "Lanczos",
        "device": "cpu",
        "output_name": "o.mp4",
        "eta_seconds": 1.0,
        "job_limit_seconds": None,
        "stall_limit_seconds": stall,
        "duration_seconds": 12.0,
    }
    return PlannedJob(**fields | changes)


def run(job: PlannedJob) -> None:
    """Wait for both segments."""
    watch = SegmentWatch(job)
    try:
        for index in range(2):
            wait_for(watch, index)
    finally:
        watch.close()


def failure(job: PlannedJob, kind: type[SeedVR2Error]) -> str:
    with pytest.raises(kind) as caught:
        run(job)
    return str(caught.value)


SEGMENTS = "[emit(SegmentDone(segment=k, seconds=1.0)) for k in request.segments]\nemit(Idle())\n"


def test_the_check_of_the_last_segment_is_shown(
    child_is: Script, tmp_path: Path, audience: Audience
) -> None:
    """All frames are restored and encoded then: nothing else would move for seconds at 4k."""
    child_is(
        "emit(ready)\ndone(300)\n"
        "for n in (1, 75, 150): emit(Heartbeat(phase='check', done=n, total=150))\n" + SEGMENTS
    )
    run(a_job(tmp_path))
    told = audience.told
    assert [detail for phase, detail in told if phase == "encode" and detail] == [
        "1 of 150 frames checked",
        "75 of 150 frames checked",
        "150 of 150 frames checked",
    ]


def test_restored_frames_are_counted_not_those_that_have_left_the_encoder(
    child_is: Script, tmp_path: Path, audience: Audience
) -> None:
    child_is(
        "emit(ready)\nfor n in (60, 120): emit(Progressed(restored=n, work=n, encoded=3))\n"
        "done(300)\n" + SEGMENTS
    )
    run(a_job(tmp_path))
    counted = [told.frames for told in audience.progress if told.phase == "restore"]
    assert [frames for frames in counted if frames] == [60, 120]


def test_a_slow_job_goes_on_as_long_as_it_gets_ahead(
    child_is: Script, tmp_path: Path, audience: Audience
) -> None:
    """It takes ten thousand times as long as predicted, far beyond its stall limit."""
    child_is(
        "emit(ready)\nfor n in range(16): beat(n); done(n * 20); time.sleep(0.25)\n"
        "done(300)\n" + SEGMENTS
    )
    run(a_job(tmp_path, stall=1.5))
    shown = [told.frames for told in audience.progress if told.phase in ("restore", "encode")]
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, 300)
    left = [told.seconds_left for told in audience.progress if told.phase in ("restore", "encode")]
    assert None not in left


def test_standing_still_is_counted_from_the_last_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of many short pieces takes far longer than its limit, which is that of a piece."""
    now = 0.0
    monkeypatch.setattr(pace, "awake_seconds", lambda: now)
    plan = outline_of(build_plan(make_info(), "a", make_options(segment_seconds=0.5)))
    watched = pace.Pace(plan, pending_frames=300)
    for done in range(1, 301):
        now += 1.0
        watched.note(Progressed(restored=done, work=float(done), encoded=done))
        assert watched.stands_still(5.0) is None, done
    now += 1000.0
    assert watched.stands_still(5.0) == 1000.0


def test_a_child_that_beats_and_never_gets_ahead_is_ended(child_is: Script, tmp_path: Path) -> None:
    child_is("emit(ready)\ndone(7)\nwhile True: beat(3); done(7); time.sleep(0.05)\n")
    told = failure(a_job(tmp_path, stall=0.5), StalledError)
    assert "no frame, window or slice was finished for" in told
    assert "segment 0, although the child gave signs of life" in told


def test_a_step_down_is_no_standstill_where_frames_are_slow(
    child_is: Script, tmp_path: Path
) -> None:
    """Work falls back and is done once more, at the speed that was seen before."""
    child_is(
        "emit(ready)\n"
        "for n in range(1, 9): done(n); beat(n); time.sleep(0.25)\n"
        "for n in range(9): done(n); beat(n); time.sleep(0.25)\n"
        "done(300)\n" + SEGMENTS
    )
    run(a_job(tmp_path, stall=0.6))


def test_only_the_operator_limits_a_job(child_is: Script, tmp_path: Path) -> None:
    child_is("emit(ready)\nn = 0\nwhile True: n += 1; done(n); time.sleep(0.05)\n")
    job = a_job(tmp_path, job_limit_seconds=1000.0, early_seconds=998.0)  # for early segments
    assert "the limit of 1000 s that SEEDVR2_JOB_SECONDS sets" in failure(job, DeadlineError)


def test_loading_may_take_long_while_bytes_are_read(
    child_is: Script, tmp_path: Path, audience: Audience
) -> None:
    child_is(
        "emit(Heartbeat(phase='load', done=0, total=0))\n"
        "emit(Heartbeat(phase='opening', done=0, total=0))\n"
        "for n in range(12): emit(Heartbeat(phase='load', done=n, total=12)); time.sleep(0.25)\n"
        "emit(ready)\n" + SEGMENTS
    )
    run(a_job(tmp_path, load=1.5))
    details = [told.detail for told in audience.progress if told.phase == "load"]
    assert details[:4] == ["starting", "PyTorch", "", "0 % of the weights"]
    assert "50 % of the weights" in details


def test_a_load_that_hangs_is_ended_and_waiting_for_a_gpu_is_not(
    child_is: Script, tmp_path: Path, audience: Audience
) -> None:
    child_is("for n in range(10): emit(Waiting(whom='cuda:0')); time.sleep(0.25)\ntime.sleep(60)\n")
    told = failure(a_job(tmp_path, load=1.0), StalledError)
    assert "no sign of life for 1 s while loading the engine" in told
    waits = [told for told in audience.progress if told.phase == "wait"]
    assert [told.detail for told in waits] == ["waiting for cuda:0"] * 10


@pytest.mark.long
def test_the_next_try_and_the_next_run_are_more_patient(child_is: Script, tmp_path: Path) -> None:
    """What was ended may only have been slow: it must not meet the same limit for ever."""
    child_is("emit(ready)\nbeat(1)\ntime.sleep(3)\ndone(300)\n" + SEGMENTS)
    job = a_job(tmp_path, stall=1.0)
    assert "no sign of life for 1 s" in failure(job, StalledError)
    assert "no sign of life for 2 s" in failure(job, StalledError)
    run(job)  # 4 s suffice


def test_a_stall_limit_of_the_operator_stays(child_is: Script, tmp_path: Path) -> None:
    child_is("emit(ready)\ntime.sleep(60)\n")
    use_settings(Settings(work_dir=tmp_path / "work", stall_seconds=1.0))
    for _ in range(2):
        told = failure(a_job(tmp_path, stall=1.0), StalledError)
        assert "no sign of life for 1 s" in told


def test_a_plan_of_an_earlier_version_is_obeyed(child_is: Script, tmp_path: Path) -> None:
    job = a_job(tmp_path)
    path = JobDir(job.job_dir).plan_path
    old = path.read_text()
    for new, before in (
        ('"job":null', '"job":7200.0,"segment":[600.0,600.0]'),
        ('"frame_seconds":{', '"not_known_then":{'),
    ):
        assert new in old
        old = old.replace(new, before)
    path.write_text(old)
    outline = read_record(JobDir(job.job_dir).outline_path, PlanOutline)
    write_plan(path, read_plan(path, outline))
    child_is("emit(ready)\ndone(300)\n" + SEGMENTS)
    run(job)


def test_a_resumed_job_counts_from_what_was_kept(
    child_is: Script, tmp_path: Path, audience: Audience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "pending_segments", lambda *_, **__: [1])
    child_is("emit(ready)\ndone(75)\ntime.sleep(0.3)\ndone(150)\n" + SEGMENTS)
    run(a_job(tmp_path))
    shown = [told.frames for told in audience.progress]
    assert shown[0] == 150
    assert 225 in shown
    assert shown[-1] == 300


ONE_THEN_FOREVER = (
    "emit(ready)\nfor n in range(1, 11): done(15 * n); time.sleep(0.1)\n"
    "emit(SegmentDone(segment=0, seconds=1.0))\nn = 150\n"
    "while n < 299: n += 1; done(n); time.sleep(0.1)\n"
)
"""The first segment takes a second, the second one much longer."""


def test_the_measures_of_a_job_are_shown_while_it_works(
    child_is: Script, tmp_path: Path, audience: Audience
) -> None:
    child_is(
        "emit(ready)\nfor n in range(1, 11): done(15 * n); time.sleep(0.05)\n"
        "emit(SegmentDone(segment=0, seconds=1.0))\ndone(300)\n"
        "emit(SegmentDone(segment=1, seconds=1.0))\nemit(Idle())\n"
    )
    use_settings(Settings(work_dir=tmp_path / "work", hour_price=3600.0))
    run(a_job(tmp_path, device="cuda:0"))
    at_work = [told for told in audience.progress if told.phase in ("restore", "encode")]
    shown = [told.measures for told in at_work]
    assert [m.segment for m in shown] == sorted(m.segment or 0 for m in shown)
    assert {m.segment for m in shown} == {1, 2}
    rates = [m.frames_per_second for m in shown if m.frames_per_second]
    assert rates
    assert all(0 < rate < 1e6 for rate in rates)
    for told in audience.progress:
        if told.seconds_left is not None:
            low, high = told.measures.seconds_left_low, told.measures.seconds_left_high
            assert low is not None
            assert high is not None
            assert low <= told.seconds_left <= high
    spent = [m.gpu_seconds for m in shown if m.gpu_seconds is not None]
    assert spent == sorted(spent)
    assert [round(m.cost or 0.0, 1) for m in shown] == pytest.approx(spent, abs=0.11)
    assert {m.estimated_seconds for m in shown} == {shown[0].estimated_seconds}


def test_a_job_holds_no_gpu_while_it_waits_for_one_and_none_on_a_cpu(
    child_is: Script, tmp_path: Path, audience: Audience
) -> None:
    child_is(
        "for n in range(8): emit(Waiting(whom='cuda:0')); time.sleep(0.25)\n"
        "emit(ready)\ndone(300)\n" + SEGMENTS
    )
    run(a_job(tmp_path, device="cuda:0"))
    waiting = [told.measures.gpu_seconds for told in audience.progress if told.phase == "wait"]
    assert waiting[0] == waiting[-1]
    other = tmp_path / "other"
    other.mkdir()
    audience.progress.clear()
    run(a_job(other))
    assert {told.measures.gpu_seconds for told in audience.progress} == {None}


def test_a_job_is_stopped_before_a_segment_that_its_caller_does_not_pay(
    child_is: Script, tmp_path: Path, audience: Audience, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wasted: it stops between two segments, and a larger limit goes on."""
    child_is(ONE_THEN_FOREVER)
    told = failure(a_job(tmp_path, max_seconds=2.0), BudgetError)
    assert "segment 1 is expected to take 1 s; max_seconds allows 2 s" in told
    assert "send it again with a larger limit" in told
    assert max(progress.frames for progress in audience.progress) <= 160
    # The next run knows what was spent.
    monkeypatch.setattr(pending, "pending_segments", lambda *_, **__: [1])
    child_is("emit(ready)\ndone(150)\nemit(SegmentDone(segment=1, seconds=1.0))\nemit(Idle())\n")
    with (
        pytest.raises(BudgetError, match=r"has spent . s, and what is left"),
        inference.session(a_job(tmp_path, max_seconds=2.0)),
    ):
        pass
    with inference.session(a_job(tmp_path, max_seconds=20.0)) as watch:
        wait_for(watch, 1)
        account = watch.account
    assert account.estimated_seconds is not None
    assert account.taken_seconds is not None
    assert account.taken_seconds < 20


def test_a_price_stops_a_job_in_the_middle_of_a_segment(child_is: Script, tmp_path: Path) -> None:
    """What was expected was wrong: the limit holds all the same."""
    child_is("emit(ready)\nn = 0\nwhile True: n += 1; done(n // 100); time.sleep(0.05)\n")
    use_settings(Settings(work_dir=tmp_path / "work", hour_price=3600.0))
    told = failure(a_job(tmp_path, max_price=1.5), BudgetError)
    assert "was stopped while restoring segment 0: it has spent 2 s (price 1." in told
    assert "max_price allows 1.5" in told


def test_a_job_that_is_expected_to_cost_more_does_not_begin(
    child_is: Script, tmp_path: Path
) -> None:
    child_is("raise SystemExit(1)\n")
    with (
        pytest.raises(BudgetError, match="the job is new"),
        inference.session(a_job(tmp_path, max_seconds=0.5)),
    ):
        pytest.fail("it has begun")
    with inference.session(a_job(tmp_path, max_seconds=0.5, eta_is_guess=True)):
        pass  # on a guess alone nothing is refused
    with pytest.raises(InvalidRequestError, match="SEEDVR2_HOUR_PRICE"):
        SegmentWatch(a_job(tmp_path, max_price=5.0))


def test_what_our_child_has_made_is_not_taken_for_the_work_of_others(
    child_is: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow may wait for Prefect while its child takes a share and finishes it."""
    child_is(
        "emit(Taken(segments=(0,)))\nemit(ready)\ndone(1)\nemit(Taken(segments=(1,)))\n"
        "emit(SegmentDone(segment=1, seconds=1.0))\nemit(SegmentDone(segment=0, seconds=1.0))\n"
        "emit(Idle())\n"
    )
    watch = SegmentWatch(a_job(tmp_path), workers=2)
    monkeypatch.setattr(pending, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(pending, "read_segment", lambda *_, **__: "a sidecar that fits")
    sidecar = JobDir(tmp_path / "job").sidecar_path(1)
    sidecar.parent.mkdir()
    sidecar.touch()
    try:
        child = watch._start_child()
        wait_until(lambda: child._events.qsize() >= 7, "it was ahead", seconds=20)
        wait_for(watch, 0)
        assert (watch.is_done(1), watch._pending.by_others) == (True, set())
    finally:
        watch.close()
