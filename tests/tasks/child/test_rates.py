"""What is known of a machine's speed: measured at first use, corrected by jobs, kept."""

import json
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning import build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from seedvr2_core.planning.plan import EngineSettings, FrameSeconds, Rates
from seedvr2_core.planning.timing import (
    FINISH_SECONDS,
    REPORT_SECONDS,
    REPORT_SHARE,
    delivery_seconds,
)
from seedvr2_core.video.probe import probe_video
from tasks.child import pace as pace_module
from tasks.child.pace import Pace
from tasks.child.rates import (
    MachineRates,
    changes,
    known_rates,
    learn,
    learn_delivery,
    machine_name,
    measure,
)
from tasks.settings import Settings, use_settings
from tests.kits.factories import make_info, make_options


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(work_dir=tmp_path)


SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "2k": (2560, 1440), "4k": (3840, 2160)}


def known(settings: Settings, engine: str = "lanczos", resolution: str = "720p") -> Rates:
    return known_rates(engine, "medium", "cpu", settings, size=SIZES[resolution])


def a_plan(rates: Rates, engine: str = "lanczos", resolution: str = "720p") -> PlanOutline:
    settings = EngineSettings.without_latents(engine)
    options = make_options(engine=settings, resolution=resolution)
    return outline_of(build_plan(make_info(), "a", options, rates=rates))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    clock = Clock()
    monkeypatch.setattr(pace_module, "awake_seconds", lambda: clock.now)
    return clock


@dataclass
class Clock:
    """The time of made-up jobs."""

    now: float = 0.0


@dataclass(frozen=True)
class Machine:
    """A made-up machine: its seconds over those of the tables."""

    settings: Settings
    clock: Clock
    engines: dict[str, float]
    encoder: float

    def expected(self, engine: str, resolution: str = "720p") -> float:
        """What the next job's plan says over what it takes here."""
        frame = self._planned(engine, resolution).frame_seconds
        assert frame is not None
        return frame.seconds / self._seconds(engine, resolution)

    def job(
        self, engine: str, resolution: str = "720p", *, busy: float = 1.0, frames: int = 300
    ) -> None:
        """A job that took `busy` times as long as it takes on an idle machine."""
        plan = self._planned(engine, resolution)
        pace = Pace(plan, pending_frames=frames)
        self.clock.now += busy * frames * self._seconds(engine, resolution)
        learn(plan, pace, self.settings)

    def _planned(self, engine: str, resolution: str) -> PlanOutline:
        return a_plan(known(self.settings, engine, resolution), engine, resolution)

    def _seconds(self, engine: str, resolution: str) -> float:
        frame = a_plan(Rates(), engine, resolution).frame_seconds
        assert frame is not None
        return self.engines[engine] * frame.engine + self.encoder * (frame.encoder + frame.check)


def test_a_new_machine_is_not_known(settings: Settings) -> None:
    rates = known(settings)
    assert (rates.engine, rates.encoder, rates.measured) == (1.0, 1.0, False)
    assert rates.machine == machine_name() != ""


@pytest.mark.parametrize("seed", range(20))
def test_plans_come_to_what_jobs_take(seed: int, settings: Settings, clock: Clock) -> None:
    """The first job of an unknown machine counts in full, the next ones by half."""
    rng = random.Random(seed)
    machine = Machine(
        settings,
        clock,
        engines={"lanczos": rng.uniform(0.3, 4), "span": rng.uniform(0.3, 4)},
        encoder=rng.uniform(0.3, 4),
    )
    machine.job("lanczos")
    assert machine.expected("lanczos") == pytest.approx(1.0, rel=0.05)
    for _ in range(6):
        machine.job(rng.choice(("lanczos", "span")), rng.choice(("720p", "1080p")))
    for engine in ("lanczos", "span"):
        machine.job(engine)
        machine.job(engine)
        assert machine.expected(engine) == pytest.approx(1.0, rel=0.05), engine
    assert known(settings).measured


def test_the_part_that_takes_most_of_the_time_takes_the_difference(
    settings: Settings, clock: Clock
) -> None:
    """A slow engine is not held against the encoder, which other engines use as well."""
    machine = Machine(settings, clock, engines={"span": 4.0, "lanczos": 1.0}, encoder=1.0)
    machine.job("span")
    assert machine.expected("span") == pytest.approx(1.0, rel=0.02)
    assert machine.expected("lanczos") == pytest.approx(1.0, rel=0.17)


def test_what_was_only_assumed_takes_the_difference(settings: Settings, clock: Clock) -> None:
    """Lanczos is known here, so that the encoder is: a slow span is the engine's own."""
    machine = Machine(settings, clock, engines={"span": 0.5, "lanczos": 1.0}, encoder=1.0)
    machine.job("lanczos")
    machine.job("span")
    assert machine.expected("span") == pytest.approx(1.0, rel=0.05)
    assert machine.expected("lanczos") == pytest.approx(1.0, rel=0.02)


def test_a_busy_hour_counts_by_half_and_is_forgotten(settings: Settings, clock: Clock) -> None:
    machine = Machine(settings, clock, engines={"span": 1.0, "lanczos": 1.0}, encoder=1.0)
    for engine in ("lanczos", "span", "span"):
        machine.job(engine)
    machine.job("span", busy=4.0)
    assert 1.5 < machine.expected("span") < 2.1
    for _ in range(4):
        machine.job("span")
    assert machine.expected("span") == pytest.approx(1.0, rel=0.1)


def test_each_size_has_its_own_rate_and_begins_with_that_of_the_nearest(
    settings: Settings, clock: Clock
) -> None:
    small = Machine(settings, clock, engines={"span": 2.0}, encoder=1.0)
    large = replace(small, engines={"span": 3.0})
    small.job("span")
    assert known(settings, "span", "4k").engine == known(settings, "span", "720p").engine
    large.job("span", "2k")
    assert small.expected("span", "720p") == pytest.approx(1.0, rel=0.02)
    assert large.expected("span", "2k") == pytest.approx(1.0, rel=0.02)
    assert known(settings, "span", "4k").engine == known(settings, "span", "2k").engine
    assert small.expected("span", "720p") == pytest.approx(1.0, rel=0.02)


def test_rates_of_an_earlier_version_are_used_until_a_job_was_seen(
    settings: Settings, clock: Clock
) -> None:
    (written := settings.rates_dir).mkdir(parents=True)
    machine = Machine(settings, clock, engines={"lanczos": 5.0}, encoder=1.0)
    machine.job("lanczos")
    (path,) = written.iterdir()
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"engines": {"lanczos on cpu": 7.0}}))
    assert known(settings).engine == 7.0
    assert known(settings).measured
    machine.job("lanczos")
    assert machine.expected("lanczos") == pytest.approx(1.0, rel=0.1), "it counts as assumed"


@pytest.mark.parametrize("seed", range(20))
def test_a_change_comes_to_what_was_seen_and_none_moves_against_it(seed: int) -> None:
    rng = random.Random(seed)
    engine, encoder, slower = (math.exp(rng.uniform(-3, 3)) for _ in range(3))
    slower = min(8.0, max(0.125, slower))
    frame = FrameSeconds(engine=engine, encoder=encoder, beside=False, mpx=1)
    of_engine, of_encoder = changes(frame, slower, doubts=(100.0, 100.0))
    told = (engine * of_engine + encoder * of_encoder) / (engine + encoder)
    assert told == pytest.approx(slower, rel=0.06)
    assert (of_engine - 1) * (slower - 1) >= 0
    assert (of_encoder - 1) * (slower - 1) >= 0
    if engine > encoder:
        assert abs(math.log(of_engine)) >= abs(math.log(of_encoder))


def test_of_two_that_run_beside_each_other_the_slower_one_was_seen() -> None:
    frame = FrameSeconds(engine=0.3, encoder=0.1, beside=True, mpx=1)
    sure = (100.0, 100.0)
    assert changes(frame, 2.0, doubts=sure) == pytest.approx((2.0, 1.0), rel=0.02)
    assert changes(frame, 0.5, doubts=sure) == pytest.approx((0.5, 1.0), rel=0.02)
    assert changes(frame, 0.1666667, doubts=sure) == pytest.approx((0.1666667, 0.5), rel=0.02)
    assert changes(frame, 4.0, doubts=(1.0, 1.0)) == pytest.approx((2.0, 1.0))


def test_the_time_of_delivery_is_learned_for_each_storage(settings: Settings) -> None:
    other = settings.model_copy(update={"storage": "bunny"})
    plan = a_plan(known(settings))
    assert plan.frame_seconds is not None
    usual = delivery_seconds(plan.frame_seconds, plan.num_frames)
    took = {"join": usual, "upload": 1.5 * usual, "verify": 0.5 * usual}
    learn_delivery(plan, {"restore": 40.0, **took, "report": 9.0, "finish": 9.0}, settings)
    assert known(settings).delivery == pytest.approx(3.0)
    assert known(other).delivery == 1.0
    again = a_plan(known(settings))
    assert again.eta_seconds - plan.eta_seconds == pytest.approx(2 * usual, abs=0.2)
    learn_delivery(again, {"join": 12 * usual}, settings)
    assert known(settings).delivery == pytest.approx(6.0, rel=0.01), "one busy hour counts by half"
    assert not known(settings).measured, "of engine and encoder nothing is known"


def test_small_pieces_of_work_and_other_machines_teach_nothing(
    settings: Settings, clock: Clock
) -> None:
    plan = a_plan(known(settings))
    short, other = Pace(plan, pending_frames=3), Pace(plan, pending_frames=300)
    clock.now = 100.0
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


@pytest.mark.long
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
        max(REPORT_SECONDS, REPORT_SHARE * (without - FINISH_SECONDS)), abs=0.01
    )
