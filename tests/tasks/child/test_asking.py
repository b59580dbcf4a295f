"""What is expected of a child that codes from masters, and when its job holds the device."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.child.protocol import CodingAgain, Event, Heartbeat, Ready, Waiting
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import WantedMasters
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.timing import job_seconds
from tasks.child.asking import Asking, Steps
from tasks.child.pace import Pace, frame_seconds_of
from tasks.run.spending import Purse
from tasks.schemas import PlannedJob
from tasks.settings import Settings
from tests.kits.factories import planned_job

BEAT = Heartbeat(phase="load", done=1, total=2)


@pytest.fixture
def settings(settings_with: Callable[..., Settings]) -> Settings:
    return settings_with()


@pytest.fixture
def job(settings: Settings) -> PlannedJob:
    return planned_job(settings.work_dir).model_copy(update={"device": "cuda:0"})


def outline(job: PlannedJob) -> PlanOutline:
    return read_record(JobDir(job.job_dir).outline_path, PlanOutline)


def with_masters(job: PlannedJob, *ready: int) -> Asking:
    wanted = WantedMasters(folder=Path("/masters"), keep=False, ready=ready)
    write_record(JobDir(job.job_dir).masters_path, wanted)
    return Asking(job, outline(job))


def test_what_has_a_master_takes_the_encoders_time_alone(job: PlannedJob) -> None:
    plan, every = outline(job), (0, 1, 2)
    frame = frame_seconds_of(plan)
    assert [segment.num_frames for segment in plan.segments] == [125, 125, 50]
    without = Asking(job, plan)
    assert without.needs_engine(every)
    assert without.seconds(every) == without.device_seconds(every) == job_seconds(frame, 300)
    assert without.engine_share(every) == 1

    some = with_masters(job, 0, 2)
    assert some.needs_engine(every)
    assert not some.needs_engine((0, 2))
    assert some.seconds(every) == job_seconds(frame, 300, coded=175)
    assert some.seconds(every) < without.seconds(every)
    assert some.engine_share(every) == pytest.approx(125 / 300)

    whole = with_masters(job, *every)
    assert whole.seconds(every) == pytest.approx(without.seconds(every) - 300 * frame.engine)
    assert (whole.device_seconds(every), whole.engine_share(every)) == (0.0, 0.0)
    assert not whole.needs_engine(())


def test_what_waits_for_more_cuts_counts_for_the_limit_and_for_the_time_left(
    job: PlannedJob,
) -> None:
    plan = outline(job)
    early = Asking(job.model_copy(update={"early": (0,)}), plan)
    whole = Asking(job, plan)
    assert early.limited((0,)) == whole.limited((0, 1, 2))
    assert early.seconds((0,)) < whole.seconds((0, 1, 2))
    assert early.later_seconds == frame_seconds_of(plan).seconds * (125 + 50)
    assert whole.later_seconds == 0
    paces = [
        Pace(plan, pending_frames=125, num_frames=125, later_seconds=later)
        for later in (0.0, early.later_seconds)
    ]
    alone, then = (pace.seconds_left for pace in paces)
    assert then >= alone + early.later_seconds - 0.1


def spent_after(
    job: PlannedJob, settings: Settings, *events: Event, needs_engine: bool
) -> tuple[Steps, list[float]]:
    """The steps, and the seconds of the device that were spent one second after each event."""
    now = 0.0
    purse = Purse(job, settings, clock=lambda: now)
    steps, pace = Steps(purse), Pace(outline(job), pending_frames=300)
    steps.begin(needs_engine=needs_engine)
    spent: list[float] = []
    for event in events:
        steps.note(event, pace)
        now += 1.0
        spent.append(purse.seconds)
    return steps, spent


def test_a_job_from_masters_alone_holds_no_device(job: PlannedJob, settings: Settings) -> None:
    steps, spent = spent_after(
        job, settings, BEAT, CodingAgain(active=True), BEAT, BEAT, needs_engine=False
    )
    assert spent == [0, 0, 0, 0]
    assert (steps.coded, steps.loading, steps.was_warm) == (True, False, None)
    assert steps.detail == "coded from the master"


def test_the_device_counts_from_the_load_on_but_for_the_wait(
    job: PlannedJob, settings: Settings
) -> None:
    events: tuple[Event, ...] = (
        CodingAgain(active=True),
        BEAT,
        CodingAgain(active=False),
        Waiting(whom="cuda:0"),
        BEAT,
        Ready(engine="lanczos", device="cuda:0", warm=True),
        Waiting(whom="the helpers"),
    )
    steps, spent = spent_after(job, settings, *events, needs_engine=True)
    assert spent == [0, 0, 0, 0, 1, 2, 3]
    assert (steps.coding, steps.loading, steps.was_warm) == (False, False, True)
    assert steps.detail == ""


def test_without_masters_it_counts_from_the_start(job: PlannedJob, settings: Settings) -> None:
    ready = Ready(engine="lanczos", device="cuda:0")
    steps, spent = spent_after(
        job, settings, BEAT, Waiting(whom="cuda:0"), BEAT, ready, needs_engine=True
    )
    assert spent == [1, 1, 2, 3]
    assert (steps.coded, steps.was_warm) == (False, False)
