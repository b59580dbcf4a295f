"""A device that runs out of memory: the session goes down the ladder and the job goes on.

The device is a CPU; the network itself says that it does not fit, as torch would, whenever it is
given more than its allowance. What is tested is the ladder: smaller slices change last bits alone,
shorter windows stay inside one segment, the plan is not changed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.dit.model import DiTTables, FoldedDiT
from seedvr2_core.engines.seedvr2.phases import Models
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.tiny import make_models, vae_weights
from seedvr2_core.errors import DeviceMemoryError
from seedvr2_core.job import JobDir
from seedvr2_core.planning.plan import Plan
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.encoder import EncoderState
from seedvr2_core.vae.model import FramesPerLevel, VideoVAE, build_vae
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.pipeline import (
    KeepTorch,
    make_segments,
    packets,
    sidecars,
    tiny_plan,
    use_sessions,
    use_small_pictures,
)

pytestmark = pytest.mark.long

WAITS = "everything that waits is in host memory"


class HungryVAE(VideoVAE):
    """Does not fit where a slice has more latents than it may."""

    encode_limit: ClassVar[int] = 99
    decode_limit: ClassVar[int] = 99

    def encode_latents(
        self,
        video_BCTHW: Tensor,
        state: EncoderState | None = None,
        *,
        noise_BCZhw: Tensor | None = None,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, EncoderState]:
        _allow(-(-video_BCTHW.shape[2] // 4), self.encode_limit)
        return super().encode_latents(video_BCTHW, state, max_frames=max_frames)

    def decode_latents(
        self,
        latents_BZhwC: Tensor,
        state: DecoderState | None = None,
        *,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, DecoderState]:
        _allow(latents_BZhwC.shape[1], self.decode_limit)
        return super().decode_latents(latents_BZhwC, state, max_frames=max_frames)


class HungryDiT(FoldedDiT):
    """Does not fit where a window has more latents than it may, `times` times."""

    limit: ClassVar[int] = 99
    times: ClassVar[int] = 10**6

    def forward(self, vid_THWC: Tensor, *, tables: DiTTables | None = None) -> Tensor:
        if HungryDiT.times and len(vid_THWC) > HungryDiT.limit:
            HungryDiT.times -= 1
            _allow(len(vid_THWC), HungryDiT.limit)
        return super().forward(vid_THWC, tables=tables)


def _allow(amount: int, limit: int) -> None:
    if amount > limit:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {amount} GiB.")


def hungry_session(plan: Plan) -> SeedVR2Session:
    """The tiny network with an appetite."""
    models = make_models(plan, device="cpu")
    models.dit.__class__ = HungryDiT

    def build(dtype: torch.dtype) -> VideoVAE:
        vae = build_vae(VAE_TINY, vae_weights(), dtype=dtype)
        vae.__class__ = HungryVAE
        return vae

    models = Models(build_vae=build, dit=models.dit)
    return SeedVR2Session(models, plan, device="cpu", beat=lambda *_: None)


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    with KeepTorch():
        yield


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say how much fits from now on."""
    use_sessions(monkeypatch, hungry_session)

    def say(*, encode: int = 99, decode: int = 99, window: int = 99, times: int = 10**6) -> None:
        monkeypatch.setattr(HungryVAE, "encode_limit", encode)
        monkeypatch.setattr(HungryVAE, "decode_limit", decode)
        monkeypatch.setattr(HungryDiT, "limit", window)
        monkeypatch.setattr(HungryDiT, "times", times)

    return say


@pytest.fixture
def plan(demo_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """One shot of 20 latents in windows of 8, two of which make the middle segment."""
    use_small_pictures(monkeypatch)
    plan = tiny_plan(demo_clip, window=8, overlap=2, seconds=0.8)
    assert [len(segment.pieces) for segment in plan.segments] == [1, 1, 1]
    return plan


@pytest.fixture
def undisturbed(plan: Plan, tmp_path: Path, demo_clip: Path, allow: Callable[..., None]) -> Path:
    make_segments(plan, tmp_path / "undisturbed", demo_clip, range(3))
    return tmp_path / "undisturbed"


def rungs(plan: Plan, job_dir: Path) -> list[str]:
    return [sidecar.rung for sidecar in sidecars(plan, job_dir) if sidecar]


def frames(plan: Plan, job_dir: Path) -> np.ndarray:
    """All frames of the segments as they are on disk, in levels."""
    paths = [JobDir(job_dir).video_path(segment.index) for segment in plan.segments]
    shown = [read_frames(p, info := probe_video(p), 0, info.num_frames) for p in paths]
    return np.stack([frame.rgb for part in shown for frame in part]).astype(np.int16)


@pytest.mark.parametrize(
    ("limits", "lever"),
    [
        pytest.param({"encode": 2}, "encoder_slice 2", marks=pytest.mark.soak),
        ({"decode": 2}, "decoder_slice 2"),
        ({"window": 5, "times": 1}, ""),
    ],
    ids=["encode", "decode", "transient"],
)
def test_smaller_slices_change_last_bits_at_most(
    plan: Plan,
    undisturbed: Path,
    tmp_path: Path,
    demo_clip: Path,
    allow: Callable[..., None],
    limits: dict[str, int],
    lever: str,
) -> None:
    allow(**limits)
    make_segments(plan, tmp_path / "job", demo_clip, range(3))
    if not lever:  # the plan's own slices, so the same bits
        assert packets(plan, tmp_path / "job") == packets(plan, undisturbed)
    # Kernels add in another order where a slice is shorter. In float64 the VAE's outputs differ by
    # 5e-15, in float32 by 3e-6; here a latent moves by a step of float16 at most, a pixel by one
    # level before x264 and a few after it.
    for index in (0, 1):
        ours, wanted = (
            load_file(JobDir(folder).latents_path(index))["latents"].float()
            for folder in (tmp_path / "job", undisturbed)
        )
        torch.testing.assert_close(ours, wanted, rtol=2**-10, atol=2**-10)
    difference = np.abs(frames(plan, tmp_path / "job") - frames(plan, undisturbed))
    assert difference.mean() < 0.02
    made = rungs(plan, tmp_path / "job")
    assert len(made) == 3
    assert all(WAITS in rung and lever in rung for rung in made), made
    plan_bytes = (tmp_path / "job" / "plan.json").read_bytes()
    assert plan_bytes == (undisturbed / "plan.json").read_bytes()


def test_a_shorter_window_stays_inside_its_segment(
    plan: Plan, undisturbed: Path, tmp_path: Path, demo_clip: Path, allow: Callable[..., None]
) -> None:
    """The middle segment alone is made under pressure; the two beside it fit."""
    job_dir = tmp_path / "job"
    make_segments(plan, job_dir, demo_clip, [0])
    allow(window=5)
    make_segments(plan, job_dir, demo_clip, [1])
    allow()
    make_segments(plan, job_dir, demo_clip, [2])
    first, middle, last = rungs(plan, job_dir)
    assert (first, last) == ("", "")
    assert middle.startswith(WAITS)
    assert "windows of" in middle
    before, after = packets(plan, undisturbed), packets(plan, job_dir)
    assert before[0] == after[0]
    assert before[1] != after[1]

    # Made once more under the same pressure, it is the same; and work goes on behind it.
    latents = JobDir(job_dir).latents_path(1).read_bytes()
    for index in (1, 2):
        JobDir(job_dir).sidecar_path(index).unlink()
    allow(window=5)
    make_segments(plan, job_dir, demo_clip, [1])
    allow()
    make_segments(plan, job_dir, demo_clip, [2])
    assert JobDir(job_dir).latents_path(1).read_bytes() == latents
    assert packets(plan, job_dir) == after


def test_the_next_segment_has_the_plans_windows_again(
    plan: Plan, tmp_path: Path, demo_clip: Path, allow: Callable[..., None]
) -> None:
    """In one pass: memory is short while the first segment is made (the step to host memory, then
    one shorter window), and enough afterwards."""
    allow(window=5, times=2)
    make_segments(plan, tmp_path / "job", demo_clip, range(3))
    first, *others = rungs(plan, tmp_path / "job")
    assert "windows of" in first
    assert others == [WAITS, WAITS]


def test_where_nothing_helps_the_job_fails_in_one_sentence(
    plan: Plan, tmp_path: Path, demo_clip: Path, allow: Callable[..., None]
) -> None:
    make_segments(plan, tmp_path / "job", demo_clip, [0])
    allow(window=1)
    with pytest.raises(DeviceMemoryError, match=r"out of memory in phase dit .* Tried to allocate"):
        make_segments(plan, tmp_path / "job", demo_clip, [1, 2])
    assert [sidecar is not None for sidecar in sidecars(plan, tmp_path / "job")] == [
        *(True, False, False)
    ]
    assert not list((tmp_path / "job").rglob("*.part"))
