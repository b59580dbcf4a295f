"""The pipeline around an engine: a shot whose values overflow is finished in another precision."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seedvr2_core import plan as plan_module
from seedvr2_core import restore
from seedvr2_core.engine import Heartbeat
from seedvr2_core.errors import NumericalError
from seedvr2_core.plan import Plan
from seedvr2_core.planner import build_plan
from seedvr2_core.records import read_record, write_record
from seedvr2_core.restorer import SeedVR2Session
from seedvr2_core.segments import Sidecar, sidecar_path, video_path
from seedvr2_core.video.probe import probe_video
from tests.factories import make_options
from tests.restorer_kit import ENGINE, BuildVAE, faulty, open_tiny, scaled

FIRST_HALF, REST = "float16 vae, float32 dit", "bfloat16 vae, float32 dit"


class Silent:
    """Events that nobody hears."""

    def emit(self, event: str, **values: object) -> None:
        """Nothing."""

    def beat(self, phase: str, done: int, total: int) -> None:
        """Nothing."""


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    """A child process sets these for good; here other tests follow."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def plan(demo_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The demo clip as one shot of 19 latents in five segments, with a float16 VAE."""
    monkeypatch.setattr(plan_module, "BUDGETS_PX", {"720p": 32 * 18})
    options = make_options(segment_seconds=0.5, preset="ultrafast", cpu_count=1)
    engine = dataclasses.replace(ENGINE, name="tiny", window=3, overlap=1)
    plan = build_plan(probe_video(demo_clip), "0" * 64, dataclasses.replace(options, engine=engine))
    assert plan.memory is not None
    assert len(plan.segments) == 5
    return dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, vae_dtype="float16"))


@pytest.fixture
def job_dir(tmp_path: Path, plan: Plan) -> Path:
    write_record(tmp_path / "plan.json", plan)
    return tmp_path


def run(plan: Plan, job_dir: Path, source: Path, *indices: int) -> None:
    restore.restore_segments(
        plan,
        job_dir,
        source=source,
        device="cpu",
        weights_dir=None,
        indices=indices,
        events=Silent(),
    )


def use_vae(monkeypatch: pytest.MonkeyPatch, build_vae: BuildVAE) -> None:
    """Every session from now on has this VAE."""

    def open_session(
        plan: Plan, *, device: str, beat: Heartbeat, weights_dir: Path | None
    ) -> SeedVR2Session:
        return open_tiny(plan, build_vae=build_vae)

    engine = SimpleNamespace(open_session=open_session)
    monkeypatch.setattr(restore, "load_engine", lambda name: engine)


def precisions(plan: Plan, job_dir: Path) -> list[str]:
    return [
        read_record(sidecar_path(job_dir, segment.index), Sidecar).precision
        for segment in plan.segments
    ]


@pytest.mark.slow
def test_the_rest_of_a_shot_is_made_in_the_lower_precision(
    plan: Plan, job_dir: Path, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_vae(monkeypatch, faulty(decode=9))
    run(plan, job_dir, demo_clip, *range(5))
    made = precisions(plan, job_dir)
    failed = made.index(REST)
    assert 0 < failed < 4
    assert made == [FIRST_HALF] * failed + [REST] * (5 - failed)
    before = [video_path(job_dir, k).read_bytes() for k in range(5)]

    # Another process finds out from the sidecar in front that the shot is no float16 shot any more.
    sidecar_path(job_dir, 4).unlink()
    use_vae(monkeypatch, faulty())
    run(plan, job_dir, demo_clip, 4)
    assert precisions(plan, job_dir) == made
    assert [video_path(job_dir, k).read_bytes() for k in range(5)] == before


@pytest.mark.slow
def test_where_no_precision_helps_the_job_fails_and_keeps_what_is_done(
    plan: Plan, job_dir: Path, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_vae(monkeypatch, faulty())
    run(plan, job_dir, demo_clip, 0, 1)
    use_vae(monkeypatch, scaled("decoder.conv_in.weight", 1e39))
    with pytest.raises(NumericalError, match="shot 0"):
        run(plan, job_dir, demo_clip, 2, 3, 4)
    assert [sidecar_path(job_dir, k).exists() for k in range(5)] == [True] * 2 + [False] * 3
