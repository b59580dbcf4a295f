"""Rings give what moved frames give, in both layouts, and a state goes through host memory."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.kernels.switches import switched
from seedvr2_core.vae import causal_conv, conv, ring
from seedvr2_core.vae.causal_conv import ConvState
from seedvr2_core.vae.model import VideoVAE, build_vae, random_weights
from seedvr2_core.vae.ring import FrameRing

LEVELS = (2, 1, 1, 1)
SIZES = [1, 2, 1, 3]
"""Latents of each slice."""
EVERY_PAIR = [
    pytest.param("cpu", 0, True, id="cpu-from_the_start-folded"),
    pytest.param("cpu", 3, False, id="cpu-inside_a_shot-as_trained"),
    pytest.param("gpu_path", 0, False, id="gpu_path-from_the_start-as_trained"),
    pytest.param("gpu_path", 3, True, id="gpu_path-inside_a_shot-folded"),
]
"""Path, first latent and whether up-samplers are folded: half of all threes, every two of them."""


@pytest.fixture(params=["slots_first", "rows_first"], autouse=True)
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All frames in rings; in the second layout of a few rows for a call."""
    monkeypatch.setattr(causal_conv, "RING_PIXELS", 1)
    if request.param == "rows_first":
        monkeypatch.setattr(ring, "MAX_ELEMENTS", 1100)
    return request.param


@pytest.fixture
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    with switched(on_cpu=request.param == "gpu_path"):
        yield request.param


def _vae(*, fold: bool = True) -> VideoVAE:
    weights = {k: v.double() for k, v in random_weights(VAE_TINY, seed=1).items()}
    return build_vae(VAE_TINY, weights, dtype=torch.float64, fold=fold)


def _random(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.long
@pytest.mark.parametrize(("path", "first", "fold"), EVERY_PAIR, indirect=["path"])
def test_streams_with_rings_equal_streams_without(path: str, first: int, *, fold: bool) -> None:
    vae = _vae(fold=fold)
    latents, video = _random(1, 16, 7, 2, 3), _random(1, 3, 28, 16, 24)
    decoder, other_decoder = vae.start_decoder(first), vae.start_decoder(first, rings=True)
    encoder, other_encoder = vae.start_encoder(first), vae.start_encoder(first, rings=True)
    for part in latents.split(SIZES, dim=2):
        wanted, decoder = vae.decode(part, decoder, max_frames=LEVELS)
        got, other_decoder = vae.decode(part, other_decoder.packed(), max_frames=LEVELS)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    frames = [4 * size - (3 if not index and not first else 0) for index, size in enumerate(SIZES)]
    start = 0
    for count in frames:
        part = video[:, :, start : start + count]
        wanted, encoder = vae.encode(part, encoder, max_frames=LEVELS[::-1])
        got, other_encoder = vae.encode(part, other_encoder, max_frames=LEVELS[::-1])
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
        start += count
    # What waits elsewhere is no more than what streams without rings keep.
    for mine, theirs in ((other_decoder, decoder), (other_encoder, encoder)):
        assert mine.num_bytes() > theirs.num_bytes()
        packed = mine.packed()
        like = [(x.shape, x.stride(), x.dtype) for x in mine.packed_like()]
        assert [(x.shape, x.stride(), x.dtype) for _, x in packed.named_tensors()] == like
        assert packed.num_bytes() == theirs.num_bytes()
        assert all(".memory" not in name for name, _ in packed.named_tensors())


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_packed_state_goes_on_with_the_same_bits(dtype: torch.dtype) -> None:
    vae = build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=dtype)
    latents = _random(1, 16, 5, 3, 4).to(dtype)
    with switched(on_cpu=True):
        _, state = vae.decode(latents[:, :, :2], vae.start_decoder(rings=True), max_frames=LEVELS)
        parked = state.clone().packed().to("cpu")
        wanted, _ = vae.decode(latents[:, :, 2:], state, max_frames=LEVELS)
        got, _ = vae.decode(latents[:, :, 2:], parked, max_frames=LEVELS)
    assert torch.equal(got, wanted)


def test_strips_of_rows_are_blocks_of_memory(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a GPU's kernel reads and writes them without a copy."""
    seen: list[bool] = []

    def look(out: Tensor, x: Tensor, *args: object, **kwargs: object) -> None:
        seen.append(conv._as_block(out) is not None and conv._is_block(x))

    monkeypatch.setattr(ring, "convolve_into", look)
    state = ConvState(rings=True)
    for _ in range(4):
        made = causal_conv.put_frame(torch.zeros(1, 4, 1, 30, 16), state, taps=3, padding=1)
    assert (made.rows_first, made.halo) == ((True, 1) if layout == "rows_first" else (False, 0))
    made.convolve(torch.zeros(8, 4, 3, 3, 3), None, padding=(1, 1))
    assert all(seen)
    assert len(seen) > 4 if made.rows_first else not seen


def test_constant_channels_stop_at_the_border() -> None:
    made = FrameRing.empty(torch.zeros(1, 5, 1, 30, 16), 2, padding=1, constant_channels=8)
    made.place(0).fill_(2)
    made.place(1).fill_(3)
    inside = made.memory[..., made.halo : made.halo + 30, :]
    assert (inside[:, 5] == 1).all()
    assert (inside[:, 6:] == 0).all()
    assert (inside[:, :5, 0] == 2).all()
    assert made.memory.sum() == inside.sum()
