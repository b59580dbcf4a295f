"""Planning a request: when the machine is measured first, and what is said of time and limits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.beat import Beat
from seedvr2_core.engines.table import EngineWeights
from seedvr2_core.files import write_record
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.plan import Rates
from tasks import estimate
from tasks.estimate import is_guess, plan_job
from tasks.run.record import JobRecord
from tasks.schemas import Device, FetchedSource, ProbedSource, UpscaleRequest
from tasks.settings import Settings
from tests.kits.factories import make_info

Plans = Callable[..., PlanOutline]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that were measured; the machine is twice as slow as the tables."""
    engines: list[str] = []

    def measure(plan: PlanOutline, path: Path, source: Path, settings: Settings) -> Rates:
        engines.append(plan.engine.name)
        return Rates(engine=2.0, encoder=2.0, measured=True)

    monkeypatch.setattr(estimate, "measure", measure)
    return engines


@pytest.fixture
def plans(tmp_path: Path) -> Plans:
    """Plan so many frames by an engine."""

    def plan(
        engine: str, num_frames: int, *, measure_from: float = 60.0, **settings: float
    ) -> PlanOutline:
        info = tmp_path / "info.json"
        video = make_info(pts=tuple(range(num_frames)))
        write_record(info, video)
        probed = ProbedSource(
            source=FetchedSource(path=tmp_path / "a", sha256="0" * 64, num_bytes=1, name="a"),
            info_path=info,
            video=video.outline,
            devices=(Device(name="cpu", kind="cpu"),),
            cpu_count=2,
        )
        request = UpscaleRequest.model_construct(
            video_path="/a",
            model=engine,
            resolution="720p",
            batch_size=100,
            crf=18,
            preset="medium",
        )
        here = Settings(work_dir=tmp_path / "work", test_engines=True, **settings)  # type: ignore[arg-type]
        out = tmp_path / "plan.json"
        return plan_job(request, probed, here, out=out, measure_from=measure_from)

    return plan


def test_a_long_job_of_a_small_engine_is_measured_first(plans: Plans, measured: list[str]) -> None:
    plan = plans("lanczos", 9000)
    assert measured == ["lanczos"]
    assert not is_guess(plan)
    assert plan.frame_seconds is not None
    assert plan.frame_seconds.rates.engine == 2.0


def test_a_short_job_is_not_kept_waiting_and_its_time_is_called_a_guess(
    plans: Plans, measured: list[str]
) -> None:
    assert is_guess(plans("lanczos", 75))
    assert measured == []
    assert not is_guess(plans("lanczos", 75, measure_from=0.0))
    assert measured == ["lanczos"]


def test_an_engine_of_fixed_speed_needs_no_measuring(plans: Plans, measured: list[str]) -> None:
    assert not is_guess(plans("sleep", 9000, measure_from=0.0))
    assert measured == []


def test_the_operators_limit_and_price_are_told(plans: Plans) -> None:
    def told(**settings: float) -> tuple[str, ...]:
        return estimate._operators_notes(plans("lanczos", 75, **settings), Settings(**settings))  # type: ignore[arg-type]

    assert told() == ()
    (note,) = told(job_seconds=7200.0)
    assert note == "restoring may take 7200 s at the most (SEEDVR2_JOB_SECONDS)"
    (note,) = told(hour_price=3600.0)
    price = plans("lanczos", 75).eta_seconds
    assert note == f"expected price {price:.2f}, at 3600 an hour (SEEDVR2_HOUR_PRICE)"


def test_hashing_the_weights_is_a_sign_of_life(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first use 16 GB are read, maybe from a network share, and `recover` looks at beats."""
    beats: list[tuple[str, int, int]] = []

    def weights(name: str, folder: Path, file: str, *, beat: Beat) -> EngineWeights:
        beat("hash", 1, 2)
        return EngineWeights()

    monkeypatch.setattr(estimate, "known_weights", weights)
    monkeypatch.setattr(
        JobRecord, "beat", lambda self, *told, stall_seconds: beats.append((*told,))
    )
    plans("lanczos", 75)
    assert ("hash", 1, 2) in beats
