"""The way that a GPU goes, on the CPU: half precision, slices, resuming, and Triton's kernels."""

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.kernels.switches import switched
from seedvr2_core.vae import causal_conv
from seedvr2_core.vae.model import VideoVAE, build_vae, random_weights
from tests.kits.gpu.interpreter import interpreted

HALVES = [
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.bfloat16, id="bf16"),
]
NO_WORSE = 1.25
"""A way's error against float32, as a multiple of that of the plain modules in one call."""
LATENTS, BOUNDS = 6, (2, 2, 1, 1)


def _vae(dtype: torch.dtype, *, fold: bool = True) -> VideoVAE:
    return build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=dtype, fold=fold)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, LATENTS, 3, 4, 16, generator=generator)


@pytest.fixture(scope="module")
def video() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(1, 3, 4 * LATENTS - 3, 24, 32, generator=generator) * 2 - 1


def _decode(vae: VideoVAE, latents: Tensor, *, sliced: bool, rings: bool = False) -> Tensor:
    state, parts = vae.start_decoder(rings=rings), []
    for part in latents.split([2, 1, 2, 1], dim=1) if sliced else [latents]:
        out, state = vae.decode_latents(part, state, max_frames=BOUNDS if sliced else None)
        parts.append(out)
    return torch.cat(parts, dim=2)


def _encode(vae: VideoVAE, video: Tensor, *, sliced: bool, rings: bool = False) -> Tensor:
    state, parts = vae.start_encoder(rings=rings), []
    for part in video.split([5, 8, 8], dim=2) if sliced else [video]:
        bounds = BOUNDS[::-1] if sliced else None
        out, state = vae.encode_latents(part, state, max_frames=bounds)
        parts.append(out)
    return torch.cat(parts, dim=1)


def _error(got: Tensor, exact: Tensor) -> float:
    return ((got.float() - exact).square().mean() / exact.square().mean()).sqrt().item()


@pytest.mark.long
@pytest.mark.parametrize("rings", [False, True], ids=["moved", "in_rings"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_no_worse_than_the_plain_way(
    dtype: torch.dtype,
    latents: Tensor,
    video: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    *,
    rings: bool,
) -> None:
    monkeypatch.setattr(causal_conv, "RING_PIXELS", 1)
    exact, plain = _vae(torch.float32, fold=False), _vae(dtype, fold=False)
    fast = _vae(dtype)
    for run, given in ((_decode, latents), (_encode, video)):
        wanted = run(exact, given, sliced=False)
        by_plain = _error(run(plain, given, sliced=False), wanted)
        with switched(on_cpu=True):
            by_fast = _error(run(fast, given, sliced=True, rings=rings), wanted)
        assert by_fast <= NO_WORSE * by_plain
        assert by_plain > 0


@pytest.mark.long
@pytest.mark.parametrize("dtype", HALVES)
def test_a_resumed_stream_has_the_same_bits(
    dtype: torch.dtype, latents: Tensor, video: Tensor
) -> None:
    """The state goes to host memory and back, as between pieces, and into a fresh model."""
    with switched(on_cpu=True):
        vae, other = _vae(dtype), _vae(dtype)
        _, state = vae.decode_latents(latents[:, :2], max_frames=BOUNDS)
        kept = state.clone().to("cpu")
        whole, _ = vae.decode_latents(latents[:, 2:5], state, max_frames=BOUNDS)
        again, _ = other.decode_latents(latents[:, 2:5], kept, max_frames=BOUNDS)
        assert torch.equal(whole, again)
        _, encoder = vae.encode_latents(video[:, :, :5], max_frames=BOUNDS[::-1])
        parked = encoder.clone().to("cpu")
        whole, _ = vae.encode_latents(video[:, :, 5:13], encoder, max_frames=BOUNDS[::-1])
        again, _ = other.encode_latents(video[:, :, 5:13], parked, max_frames=BOUNDS[::-1])
        assert torch.equal(whole, again)


@pytest.mark.long
def test_kernels_in_the_whole_vae(latents: Tensor, video: Tensor) -> None:
    vae = _vae(torch.float32)
    part, frames = latents[:, :2, :1, :2], video[:, :, :5, :8, :16]
    with switched(on_cpu=True):
        wanted = vae.decode_latents(part)[0], vae.encode_latents(frames)[0]
        with interpreted():
            got = vae.decode_latents(part)[0], vae.encode_latents(frames)[0]
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "off",
    [
        {"fused_norm": False},
        {"absorbed_bias": False},
        {"frame_attention": "chunks"},
        {"direct_output": False},
        {"inner_padding": False},
        {"fold_border": False},
        {"padded_channels": False},
    ],
    ids=lambda off: next(iter(off)),
)
def test_each_step_can_be_switched_off(
    off: dict[str, object], latents: Tensor, video: Tensor
) -> None:
    """With the model loaded, and the result stays what it is but for last bits."""
    vae = _vae(torch.float32)
    with switched(on_cpu=True):
        wanted = _decode(vae, latents, sliced=True), _encode(vae, video, sliced=True)
    with switched(on_cpu=True, **off):
        got = _decode(vae, latents, sliced=True), _encode(vae, video, sliced=True)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-5)
