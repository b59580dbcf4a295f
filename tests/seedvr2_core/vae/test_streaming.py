"""Streams: slices of any size give the whole clip's result, and nothing looks ahead."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.errors import PlanError
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.encoder import EncoderState
from seedvr2_core.vae.model import VideoVAE, build_vae, random_weights

pytestmark = pytest.mark.usefixtures("either_path")

GRIDS = [
    pytest.param(sizes, levels, id=f"{'-'.join(map(str, sizes))}/{levels or 'all'}")
    for sizes, levels in (
        ([1] * 5, None),
        ([1, 1, 3], None),
        ([2, 1, 1, 1], None),
        ([3, 2], None),
        ([1, 4], None),
        ([2, 3], (2, 2, 1, 1)),
        ([1, 4], (1, 1, 1, 1)),
        ([5], (1, 3, None, 2)),
    )
]
"""Latents of each slice; frames that run at once at each level."""
NUM_LATENTS = 5


def _vae(dtype: torch.dtype = torch.float32, *, fold: bool = True) -> VideoVAE:
    weights = {k: v.to(dtype) for k, v in random_weights(VAE_TINY, seed=1).items()}
    return build_vae(VAE_TINY, weights, dtype=dtype, fold=fold)


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module")
def vae(dtype: torch.dtype) -> VideoVAE:
    return _vae(dtype)


@pytest.fixture(scope="module")
def tolerance(dtype: torch.dtype) -> float:
    return 1e-10 if dtype == torch.float64 else 2e-5


@pytest.fixture(scope="module")
def video(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, 3, 4 * NUM_LATENTS - 3, 16, 32, generator=generator, dtype=dtype)


@pytest.fixture(scope="module")
def latents(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, 16, NUM_LATENTS, 2, 4, generator=generator, dtype=dtype)


@pytest.fixture(scope="module")
def moments(vae: VideoVAE, video: Tensor) -> Tensor:
    return vae.encode(video)[0]


@pytest.fixture(scope="module")
def frames(latents: Tensor, dtype: torch.dtype) -> Tensor:
    """Decoded whole and plain: what folded streams must equal too."""
    return _vae(dtype, fold=False).decode(latents)[0]


def decode_in(
    vae: VideoVAE,
    z: Tensor,
    sizes: Sequence[int],
    state: DecoderState | None = None,
    max_frames: Sequence[int | None] | None = None,
) -> Tensor:
    outputs = []
    for start, stop in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        output, state = vae.decode(z[:, :, start:stop], state, max_frames=max_frames)
        outputs.append(output)
    return torch.cat(outputs, dim=2)


def encode_in(
    vae: VideoVAE,
    x: Tensor,
    sizes: Sequence[int],
    state: EncoderState | None = None,
    max_frames: Sequence[int | None] | None = None,
) -> Tensor:
    """Sizes in latents, of a shot's start."""
    outputs = []
    for start, stop in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        part = x[:, :, max(0, 4 * start - 3) : 4 * stop - 3]
        output, state = vae.encode(part, state, max_frames=max_frames)
        outputs.append(output)
    return torch.cat(outputs, dim=2)


@pytest.mark.parametrize(("sizes", "max_frames"), GRIDS)
def test_streamed_decode_equals_whole(
    vae: VideoVAE,
    latents: Tensor,
    frames: Tensor,
    tolerance: float,
    sizes: list[int],
    max_frames: Sequence[int | None] | None,
) -> None:
    got = decode_in(vae, latents, sizes, max_frames=max_frames)
    torch.testing.assert_close(got, frames, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("sizes", "max_frames"), GRIDS)
def test_streamed_encode_equals_whole(
    vae: VideoVAE,
    video: Tensor,
    moments: Tensor,
    tolerance: float,
    sizes: list[int],
    max_frames: Sequence[int | None] | None,
) -> None:
    got = encode_in(vae, video, sizes, max_frames=max_frames)
    torch.testing.assert_close(got, moments, rtol=0, atol=tolerance)


@pytest.mark.parametrize("latent", [1, 2, NUM_LATENTS - 1])
def test_later_frames_never_change_earlier_moments(latent: int) -> None:
    vae = _vae()
    x = torch.randn(1, 3, 4 * NUM_LATENTS - 3, 16, 16, generator=torch.Generator().manual_seed(4))
    changed = x.clone()
    changed[:, :, 4 * latent - 3 :] += 1
    before, after = vae.encode(x)[0], vae.encode(changed)[0]
    assert torch.equal(before[:, :, :latent], after[:, :, :latent])
    assert not torch.equal(before[:, :, latent], after[:, :, latent])


@pytest.mark.parametrize("latent", [1, 2, NUM_LATENTS - 1])
def test_later_latents_never_change_earlier_frames(latent: int) -> None:
    vae = _vae()
    z = torch.randn(1, 16, NUM_LATENTS, 2, 2, generator=torch.Generator().manual_seed(5))
    changed = z.clone()
    changed[:, :, latent:] += 1
    before, after = vae.decode(z)[0], vae.decode(changed)[0]
    assert torch.equal(before[:, :, : 4 * latent - 3], after[:, :, : 4 * latent - 3])
    assert not torch.equal(before[:, :, 4 * latent - 3], after[:, :, 4 * latent - 3])


def test_same_slices_and_levels_give_the_same_bits() -> None:
    vae = _vae()
    z = torch.randn(1, 16, 4, 2, 2, generator=torch.Generator().manual_seed(6))
    runs = [decode_in(vae, z, [2, 1, 1], max_frames=(2, 2, 1, 1)) for _ in range(2)]
    assert torch.equal(*runs)


def test_samples_of_a_batch_do_not_mix() -> None:
    vae = _vae(torch.float64)
    z = torch.randn(2, 16, 3, 2, 2, generator=torch.Generator().manual_seed(7)).double()
    both = decode_in(vae, z, [1, 2])
    single = decode_in(vae, z[1:], [1, 2])
    torch.testing.assert_close(both[1:], single, rtol=0, atol=1e-10)


def test_state_clone_continues_independently() -> None:
    vae = _vae()
    z = torch.randn(1, 16, 4, 2, 2, generator=torch.Generator().manual_seed(8))
    _, state = vae.decode(z[:, :, :2])
    kept = state.clone()
    first, _ = vae.decode(z[:, :, 2:], state)
    again, after = vae.decode(z[:, :, 2:], kept)
    assert torch.equal(first, again)
    assert after.next_latent == 4


def test_activations_and_weights_stay_channels_last() -> None:
    vae = _vae()
    seen: list[str] = []

    def check(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 5:
            seen.append(name)
            # Views into a conv's input buffer are blocks of frames in the same order.
            assert output[:, :, :1].is_contiguous(memory_format=LAYOUT), name

    for name, module in vae.named_modules():
        module.register_forward_hook(lambda _m, _a, output, name=name: check(name, output))
    decode_in(vae, torch.randn(1, 16, 4, 2, 4), [1, 2, 1])
    encode_in(vae, torch.randn(1, 3, 9, 16, 32), [1, 2])
    assert len(seen) > 100
    for name, tensor in itertools.chain(vae.named_parameters(), vae.named_buffers()):
        assert tensor.dim() < 5 or tensor.is_contiguous(memory_format=LAYOUT), name


@pytest.mark.parametrize(("first", "num_frames"), [(0, 4), (0, 0), (3, 5), (3, 2)])
def test_encode_refuses_parts_of_latents(first: int, num_frames: int) -> None:
    vae = _vae()
    with pytest.raises(PlanError, match=f"at latent {first} of a shot, got {num_frames}"):
        vae.encode(torch.zeros(1, 3, num_frames, 16, 16), vae.start_encoder(first))


def test_bad_level_bounds_are_refused() -> None:
    vae = _vae()
    for bounds in ((1, 1), (1, 1, 1, 0)):
        with pytest.raises(PlanError, match="4 bounds"):
            vae.decode(torch.zeros(1, 16, 1, 2, 2), max_frames=bounds)
    with pytest.raises(PlanError, match="at least 1 latent"):
        vae.decode(torch.zeros(1, 16, 0, 2, 2))


@pytest.mark.parametrize("first", [1, 2, 5])
def test_inside_a_shot_every_latent_is_four_frames(first: int) -> None:
    vae = _vae()
    for sizes in ([1, 2], [3]):
        frames = decode_in(vae, torch.zeros(1, 16, 3, 2, 2), sizes, vae.start_decoder(first))
        assert frames.shape[2] == 12
    moments, state = vae.encode(torch.zeros(1, 3, 8, 16, 16), vae.start_encoder(first))
    assert moments.shape[2] == 2
    assert state.next_latent == first + 2
