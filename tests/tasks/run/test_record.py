"""The record of a run: which threads reach it, what it publishes, who else is told."""

import contextvars
import itertools
import logging
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.logging import disable_run_logger
from prefect.runtime import flow_run

from seedvr2_core.errors import ChildFailedError
from tasks.child import Child
from tasks.net.stoppable import run_stoppable
from tasks.run import PROGRESS_KEY, current, keep_record, read_progress, record
from tasks.run.artifacts import SavedProgress, newest_artifact
from tasks.run.record import DONE, JobRecord
from tasks.schemas import FetchedSource, PlannedJob
from tasks.settings import Settings, use_settings
from tasks.step import step
from tests.kits.factories import Audience

JOB = PlannedJob(
    job_key="0123456789ab" + "c" * 52,
    job_dir=Path("/work/jobs/0123"),
    source=FetchedSource(path=Path("/a.mp4"), sha256="ab" * 32, num_bytes=500_000, name="a.mp4"),
    num_segments=2,
    num_frames=40,
    width=1280,
    height=720,
    resolution="720p",
    engine="lanczos",
    engine_label="Lanczos",
    device="cpu",
    output_name="a_720p_0123456789ab.mp4",
    eta_seconds=10.0,
    job_limit_seconds=None,
    stall_limit_seconds=60.0,
    duration_seconds=1.6,
)


@step(name="plain")
def plain() -> tuple[JobRecord, int]:
    return current(), threading.get_ident()


@step(name="with a timeout", timeout_seconds=30)
def with_timeout() -> tuple[JobRecord, int]:
    return current(), threading.get_ident()


@step(name="with a coroutine")
def with_coroutine() -> JobRecord:
    async def ask() -> JobRecord:
        return current()

    return run_stoppable(ask())


def saved(run_id: str) -> SavedProgress:
    with get_client(sync_client=True) as client:
        return read_progress(newest_artifact(client, UUID(run_id), PROGRESS_KEY))


def test_tasks_of_every_kind_reach_the_record_of_their_flow(in_api: None) -> None:
    @flow(name="record", persist_result=False)
    def work() -> None:
        with keep_record() as record:
            assert current() is record
            assert plain() == (record, threading.get_ident())
            assert with_timeout() == (record, threading.get_ident())
            assert with_coroutine() is record
        assert current() is not record

    work()


def test_a_flow_in_another_thread_has_a_record_of_its_own(in_api: None) -> None:
    records: list[JobRecord] = []
    together = threading.Barrier(2, timeout=60)

    @flow(name="record", persist_result=False)
    def work() -> None:
        with keep_record() as record:
            together.wait()
            found, _ = plain()
            assert found is record
            records.append(found)
            together.wait()

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(set(map(id, records))) == 2


def test_the_last_word_of_a_run_is_published(in_api: None, audience: Audience) -> None:
    @flow(name="record", persist_result=False)
    def work() -> str:
        with keep_record() as record:
            record.planned(JOB)
            record.enter("load", stall_seconds=9.0)
            record.progress(phase="encode", frames=20, num_frames=40, stall_seconds=60.0)
        return str(flow_run.id)

    found = saved(work())
    assert (found.phase, found.percent, found.stall_seconds) == (DONE, 100.0, 7200.0)
    assert found.description == "done: 40 of 40 frames -> a_720p_0123456789ab.mp4"
    assert found.prospect is not None
    assert (found.prospect.job_key, found.prospect.input_size_mb) == (JOB.job_key, 0.5)
    assert audience.plans == [JOB]
    assert [(told.phase, told.percent) for told in audience.progress] == [
        ("planned", 0.0),
        ("load", 0.0),
        ("encode", 49.5),
        (DONE, 100.0),
    ]


def test_a_run_that_fails_publishes_where_it_was(in_api: None) -> None:
    ids: list[str] = []

    @flow(name="record", persist_result=False)
    def work() -> None:
        ids.append(str(flow_run.id))
        with keep_record() as record:
            record.planned(JOB)
            record.progress(phase="encode", frames=20, num_frames=40, stall_seconds=60.0)
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        work()
    found = saved(ids[0])
    assert (found.phase, found.percent) == ("encode", 49.5)


@pytest.mark.long
def test_a_process_shows_that_it_is_there_though_its_work_stands_still(
    in_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "ALIVE_SECONDS", 0.2)
    seen: list[SavedProgress] = []

    @flow(name="stands still")
    def stands_still() -> None:
        with keep_record(), get_client(sync_client=True) as client:

            def look() -> SavedProgress:
                time.sleep(0.2)
                return read_progress(newest_artifact(client, UUID(flow_run.id), PROGRESS_KEY))

            deadline = time.monotonic() + 60
            while len({one.renewed_at for one in seen}) < 3 and time.monotonic() < deadline:
                seen.append(look())
            current().planned(JOB)
            while (last := look()).renewed_at == seen[-1].renewed_at:
                assert time.monotonic() < deadline
            seen.append(last)

    stands_still()
    told = [one for one in seen if one.renewed_at]
    assert len({one.renewed_at for one in told}) >= 4
    assert {one.phase for one in told[:-1]} == {"prepare"}
    assert {one.alive_seconds for one in told} == {0.2}
    assert len({one.began_at for one in told}) == 1, "one artifact an attempt"


@pytest.mark.long
@pytest.mark.parametrize(("setting", "least", "most"), [(0.1, 0.0, 100), (0.1, 5.0, 2), (10, 0, 2)])
def test_progress_is_updated_as_often_as_the_operator_wants(
    in_api: None, monkeypatch: pytest.MonkeyPatch, setting: float, least: float, most: int
) -> None:
    """Every update is a call to the server."""
    use_settings(Settings(progress_seconds=setting))
    calls: list[float] = []
    real = record.save_progress

    def counted(*words: Any) -> UUID:
        calls.append(time.monotonic())
        return real(*words)

    monkeypatch.setattr(record, "save_progress", counted)

    @flow(name="record", persist_result=False)
    def work() -> str:
        with keep_record(at_least_seconds=least) as kept:
            kept.planned(JOB)
            for frames in range(20):
                kept.progress(phase="encode", frames=frames, stall_seconds=60.0)
                time.sleep(0.1)
        return str(flow_run.id)

    assert saved(work()).phase == DONE
    assert (4 if most > 2 else 2) <= len(calls) <= most


def test_the_operators_limit_is_shown_where_it_counts(audience: Audience) -> None:
    record = JobRecord(None, logging.getLogger())
    record.planned(JOB)
    record.progress(phase="load", stall_seconds=1.0, within=3600.0)
    record.enter("deliver", stall_seconds=1.0)
    planned, loading, delivery = audience.progress
    assert loading.deadline is not None
    assert (loading.deadline - loading.beat_at).total_seconds() == 3600
    assert (planned.deadline, delivery.deadline) == (None, None)


@pytest.mark.parametrize("seed", range(5))
def test_frames_and_percentage_never_run_backward(seed: int, audience: Audience) -> None:
    """A child may be lost with frames that were counted, and phases without a count lie between."""
    rng = random.Random(seed)
    record = JobRecord(None, logging.getLogger())
    record.planned(JOB)
    for _ in range(100):
        frames = rng.randrange(41)
        what = rng.randrange(4)
        if what == 0:
            record.wait("cuda:0")
        elif what == 1:
            record.beat("join", frames, 40, stall_seconds=60.0)
        else:
            work = min(40.0, frames + rng.random())
            record.progress(phase="restore", frames=frames, work=work, stall_seconds=60.0)
    record.finish()
    for before, after in itertools.pairwise(audience.progress):
        assert before.frames <= after.frames
        assert before.percent <= after.percent
    assert max(told.percent for told in audience.progress[:-1]) <= 99
    assert (audience.progress[-1].phase, audience.progress[-1].percent) == (DONE, 100.0)


def test_a_wait_says_for_whom_and_what_is_left_is_published(in_api: None) -> None:
    ids: list[str] = []

    @flow(name="record", persist_result=False)
    def work() -> None:
        ids.append(str(flow_run.id))
        with keep_record() as record:
            record.planned(JOB)
            record.progress(
                phase="restore", frames=20, work=20.5, seconds_left=12.34, stall_seconds=60.0
            )
            record.wait("cuda:0")
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        work()
    found = saved(ids[0])
    assert (found.phase, found.detail) == ("wait", "waiting for cuda:0")
    assert (found.frames, found.num_frames, found.percent) == (20, 40, 50.74)
    assert (found.description or "").startswith("wait: waiting for cuda:0")


def test_outside_a_run_listeners_are_told_and_nothing_is_published(audience: Audience) -> None:
    current().progress(phase="upload", frames=None, num_frames=40, stall_seconds=60.0)
    assert [told.phase for told in audience.progress] == ["upload"]
    with disable_run_logger():
        current().log("a line")


def test_lines_of_a_child_reach_the_record(caplog: pytest.LogCaptureFixture) -> None:
    """A reader thread passes them on."""
    caplog.set_level(logging.INFO)
    command = (sys.executable, "-c", "import sys; print('a line of the child', file=sys.stderr)")
    child = Child(log=current().log, command=command)
    with pytest.raises(ChildFailedError):
        child.next_event(stall_seconds=60.0, doing="printing")
    child.close()
    assert "a line of the child" in caplog.text


def test_the_seconds_of_each_phase_are_kept_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    kept = JobRecord(None, logging.getLogger())
    for phase, seconds in (
        ("fetch", 2),
        ("restore", 5),
        ("restore", 6),
        ("wait", 1),
        ("restore", 3),
    ):
        kept.enter(phase, stall_seconds=1.0)
        now[0] += seconds
    assert list(kept.stage_seconds.items()) == [
        ("prepare", 0),
        ("fetch", 2),
        ("restore", 14),
        ("wait", 1),
    ]
