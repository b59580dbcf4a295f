"""The pipeline around an engine: a shot whose values overflow is finished in another precision."""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from seedvr2_core.child import segments
from seedvr2_core.child.protocol import Waiting
from seedvr2_core.child.shares import Work
from seedvr2_core.child.warm.kept import Kept
from seedvr2_core.errors import DeadlineError, NumericalError
from seedvr2_core.files import write_record
from seedvr2_core.files.locks import hold_lock
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims
from seedvr2_core.job.sharing import Sharing
from seedvr2_core.planning.plan import Plan
from tests.kits.pipeline import (
    Heard,
    KeepTorch,
    make_segments,
    packets,
    sidecars,
    tiny_plan,
    use_sessions,
    use_small_pictures,
)
from tests.kits.restorer import BuildVAE, faulty, open_tiny, scaled

RUN = "11111111-2222-3333-4444-555555555555"
FIRST_HALF, REST = "float16 vae, float32 dit", "bfloat16 vae, float32 dit"


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    with KeepTorch():
        yield


def share_out(job_dir: Path, clip: Path) -> None:
    """Say that others may help, as the run at work does."""
    sharing = Sharing(
        run_id=RUN, workers=2, device="cpu", source=clip, source_name=clip.name, source_bytes=1
    )
    write_record(JobDir(job_dir).sharing_path, sharing)


@pytest.fixture
def plan(demo_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The demo clip as one shot of 20 latents in five segments, with a float16 VAE."""
    use_small_pictures(monkeypatch)
    plan = tiny_plan(demo_clip)
    assert plan.memory is not None
    assert len(plan.segments) == 5
    return dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, vae_dtype="float16"))


def use_vae(monkeypatch: pytest.MonkeyPatch, build_vae: BuildVAE) -> None:
    """Every session from now on has this VAE."""
    use_sessions(monkeypatch, lambda plan: open_tiny(plan, build_vae=build_vae))


def precisions(plan: Plan, job_dir: Path) -> list[str]:
    return [sidecar.precision for sidecar in sidecars(plan, job_dir) if sidecar]


@pytest.mark.parametrize(
    ("path", "waiting"),
    [
        ("job/child.lock", Waiting(whom="the previous child to end")),
        ("locks/gpu-7.lock", Waiting(whom="cuda:0", lock="gpu-7.lock")),
    ],
    ids=["job", "GPU"],
)
def test_a_child_waits_for_whoever_has_its_job_or_its_gpu(
    path: str, waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "device_locks", lambda device: ["gpu-7.lock"])
    heard, began, kept = Heard(), threading.Event(), Kept()

    def work() -> None:
        job_dir, locks = JobDir(tmp_path / "job"), tmp_path / "locks"
        with segments.alone(job_dir, heard):
            segments.hold_device("cuda:0", locks, heard, kept=kept)
            began.set()

    with hold_lock(tmp_path / path, timeout=0, on_wait=lambda: None):
        worker = threading.Thread(target=work)
        worker.start()
        assert heard.events.get(timeout=30) == waiting
        assert heard.events.get(timeout=30) == waiting, "it says so again"
        assert not began.is_set()
    worker.join(timeout=30)
    assert began.is_set()
    with pytest.raises(DeadlineError), _held(tmp_path / "locks/gpu-7.lock"):
        pass  # the GPU stays with what is kept
    kept.close()
    with _held(tmp_path / "locks/gpu-7.lock"), _held(tmp_path / "job/child.lock"):
        pass


def _held(path: Path) -> AbstractContextManager[None]:
    return hold_lock(path, timeout=0, on_wait=lambda: None)


def test_work_on_the_cpu_waits_for_no_other() -> None:
    assert segments.device_locks("cpu") == []


@pytest.mark.gpu
def test_a_gpu_has_one_name_for_all_processes() -> None:
    (name,) = segments.device_locks("cuda:0")
    assert name.startswith("gpu-")
    assert segments.device_locks("cuda") == [name]


@pytest.mark.long
@pytest.mark.slow
def test_the_rest_of_a_shot_is_made_in_the_lower_precision(
    plan: Plan, tmp_path: Path, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_vae(monkeypatch, faulty(decode=9))
    make_segments(plan, tmp_path, demo_clip, range(5))
    made = precisions(plan, tmp_path)
    failed = made.index(REST)
    assert 0 < failed < 4
    assert made == [FIRST_HALF] * failed + [REST] * (5 - failed)
    before = packets(plan, tmp_path)

    # Another process finds out from the sidecar in front that the shot is no float16 shot any more.
    JobDir(tmp_path).sidecar_path(4).unlink()
    use_vae(monkeypatch, faulty())
    make_segments(plan, tmp_path, demo_clip, [4])
    assert precisions(plan, tmp_path) == made
    assert packets(plan, tmp_path) == before


@pytest.mark.long
@pytest.mark.slow
def test_a_share_inside_a_shot_learns_its_precision_from_what_is_finished(
    plan: Plan, tmp_path: Path, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment in front of it is being made by another process, which has stepped down."""
    use_vae(monkeypatch, faulty(decode=5))
    make_segments(plan, tmp_path, demo_clip, range(5))
    made = precisions(plan, tmp_path)
    assert made.index(REST) < 3
    job_dir = JobDir(tmp_path)
    for index in (3, 4):
        job_dir.sidecar_path(index).unlink()
    share_out(tmp_path, demo_clip)
    use_vae(monkeypatch, faulty())
    with Claims(job_dir) as others:
        assert others.take(3)
        work = Work(indices=(3, 4), workers=2, helps=RUN)
        make_segments(plan, tmp_path, demo_clip, (), work)
    assert not job_dir.sidecar_path(3).exists()
    assert precisions(plan, tmp_path) == [*made[:3], REST]


@pytest.mark.soak
def test_where_no_precision_helps_the_job_fails_and_keeps_what_is_done(
    plan: Plan, tmp_path: Path, demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_vae(monkeypatch, faulty())
    make_segments(plan, tmp_path, demo_clip, [0, 1])
    use_vae(monkeypatch, scaled("decoder.conv_in.weight", 1e39))
    with pytest.raises(NumericalError, match="shot 0"):
        make_segments(plan, tmp_path, demo_clip, [2, 3, 4])
    assert [JobDir(tmp_path).sidecar_path(k).exists() for k in range(5)] == [True] * 2 + [False] * 3
