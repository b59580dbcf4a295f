"""Frames worked in bands of rows have the bits of whole frames, wherever the caches wait."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.kernels.switches import switched
from seedvr2_core.vae import conv
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.encoder import EncoderState
from seedvr2_core.vae.model import VideoVAE, build_vae, random_weights
from seedvr2_core.vae.store import CacheStore

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
HEIGHT, WIDTH = 48, 64
SINGLE = (1, 1, 1, 1)
"""Frames at once at each level."""
MOST = 3 * 8 * WIDTH * 9
"""Elements of a strip: 6 rows at 8 channels, more at the narrow levels."""


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def vae(request: pytest.FixtureRequest) -> VideoVAE:
    weights = {k: v.to(request.param) for k, v in random_weights(VAE_TINY, seed=1).items()}
    return build_vae(VAE_TINY, weights, dtype=request.param)


@pytest.fixture(autouse=True, params=[False, True], ids=["cpu", "gpu path"])
def _small_strips(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(conv, "STRIP_ELEMENTS", MOST)
    with switched(on_cpu=request.param):
        yield


def _store(block_bytes: int | None = 0) -> CacheStore:
    return CacheStore(CPU, block_bytes=block_bytes, always=True)


def _random(*size: int, like: VideoVAE) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(2)).to(like.dtype)


def encoded(vae: VideoVAE, state: EncoderState) -> list[Tensor]:
    video, made = _random(1, 3, 13, HEIGHT, WIDTH, like=vae), []
    with torch.inference_mode():
        for start, stop in ((0, 5), (5, 9), (9, 13)):
            moments, state = vae.encode(video[:, :, start:stop], state, max_frames=SINGLE)
            made.append(moments)
    return [*made, *(tensor for _, tensor in state.named_tensors())]


def decoded(vae: VideoVAE, state: DecoderState) -> list[Tensor]:
    z, made = _random(1, 16, 4, HEIGHT // 8, WIDTH // 8, like=vae), []
    with torch.inference_mode():
        for latents in z.split([2, 1, 1], dim=2):
            frames, state = vae.decode(latents, state, max_frames=SINGLE)
            made.append(frames)
    return [*made, *(tensor for _, tensor in state.named_tensors())]


def same(got: list[Tensor], wanted: list[Tensor]) -> bool:
    assert len(got) == len(wanted)
    return all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.long
def test_whole_frames_cut_into_the_same_strips_have_the_same_bits(
    vae: VideoVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "MAX_ELEMENTS", MOST)
    states = vae.start_encoder(), vae.start_decoder()
    for state in states:
        state.use_bands()
        state.use_store(_store())
    got = encoded(vae, states[0]), decoded(vae, states[1])
    assert same(got[0], encoded(vae, vae.start_encoder()))
    assert same(got[1], decoded(vae, vae.start_decoder()))
