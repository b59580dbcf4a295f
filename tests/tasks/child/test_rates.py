"""What is known of a machine's speed: measured at first use, corrected by jobs, kept."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from seedvr2_core.job.plans import write_plan
from seedvr2_core.planning import build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from seedvr2_core.planning.plan import Rates
from seedvr2_core.planning.timing import REPORT_SECONDS, REPORT_SHARE
from seedvr2_core.video.probe import probe_video
from tasks.child import pace as pace_module
from tasks.child.pace import Pace
from tasks.child.rates import MachineRates, known_rates, learn, machine_name, measure
from tasks.settings import Settings, use_settings
from tests.kits.factories import make_info, make_options


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(work_dir=tmp_path)


def known(settings: Settings) -> Rates:
    return known_rates("lanczos", "medium", "cpu", settings)


def a_plan(rates: Rates) -> PlanOutline:
    return outline_of(build_plan(make_info(), "a", make_options(), rates=rates))


def test_a_new_machine_is_not_known(settings: Settings) -> None:
    rates = known(settings)
    assert (rates.engine, rates.encoder, rates.measured) == (1.0, 1.0, False)
    assert rates.machine == machine_name() != ""


@pytest.mark.parametrize("seed", range(10))
def test_plans_come_to_what_jobs_take(
    seed: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job of an unknown machine counts in full, the next ones by half."""
    rng = random.Random(seed)
    guessed = a_plan(known(settings)).frame_seconds
    assert guessed is not None
    true_seconds = rng.uniform(0.15, 7) * 300 * guessed.seconds
    now = 0.0
    monkeypatch.setattr(pace_module, "awake_seconds", lambda: now)
    for _ in range(4):
        plan = a_plan(known(settings))
        job = Pace(plan, pending_frames=300)
        now += true_seconds
        learn(plan, job, settings)
    plan = a_plan(known(settings))
    assert plan.frame_seconds is not None
    assert plan.frame_seconds.rates.measured
    assert plan.frame_seconds.seconds * 300 == pytest.approx(true_seconds, rel=0.02)


def test_small_pieces_of_work_and_other_machines_teach_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(pace_module, "awake_seconds", lambda: now)
    plan = a_plan(known(settings))
    short, other = Pace(plan, pending_frames=3), Pace(plan, pending_frames=300)
    now = 100.0
    learn(plan, short, settings)
    learn(a_plan(replace(known(settings), machine="another")), other, settings)
    assert not settings.rates_dir.exists()


def test_a_damaged_file_counts_as_none_and_is_replaced(settings: Settings) -> None:
    plan = a_plan(replace(known(settings), measured=True))
    job = Pace(plan, pending_frames=300)
    job._began -= 50.0
    learn(plan, job, settings)
    (path,) = settings.rates_dir.iterdir()
    kept = MachineRates(**json.loads(path.read_text()))
    assert kept.machine == machine_name()
    path.write_text("{")
    assert not known(settings).measured
    learn(plan, job, settings)
    assert known(settings).measured


@pytest.mark.slow
def test_a_small_engine_is_measured_on_the_jobs_own_frames(
    settings: Settings, demo_clip: Path, tmp_path: Path
) -> None:
    plan = build_plan(probe_video(demo_clip), "a", make_options(), rates=known(settings))
    (tmp_path / "a").mkdir()
    outline = write_plan(tmp_path / "a" / "plan.json", plan)
    found = measure(outline, tmp_path / "a" / "plan.json", demo_clip, settings)
    assert found is not None
    assert found.measured
    assert 0.05 < found.engine < 50
    assert 0.05 < found.encoder < 50
    kept = known(settings)
    assert (kept.engine, kept.encoder) == pytest.approx((found.engine, found.encoder), rel=1e-3)
    assert not list(settings.work_dir.glob("*.part"))


def test_what_cannot_be_measured_is_no_error(settings: Settings) -> None:
    nowhere = Path("/no/such/file.mp4")
    assert measure(a_plan(known(settings)), nowhere, nowhere, settings) is None
    assert not settings.rates_dir.exists()


def test_the_time_left_holds_the_report(settings: Settings) -> None:
    plan = a_plan(known(settings))
    use_settings(settings.model_copy(update={"report": False}))
    without = Pace(plan, pending_frames=300).seconds_left
    use_settings(settings.model_copy(update={"report": True}))
    assert Pace(plan, pending_frames=300).seconds_left - without == pytest.approx(
        max(REPORT_SECONDS, REPORT_SHARE * without), abs=0.01
    )
