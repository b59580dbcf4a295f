"""Beginning inside a shot: after the warm-up the bits are those of the uninterrupted stream.

One shot of 60 latents, windows of at most 12 with 3 shared, sliced as the restorer does it. Encoder
and decoder are tested apart, each against its own uninterrupted float32 output.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from seedvr2_core.config import VAE_TINY
from seedvr2_core.vae import causal_conv
from seedvr2_core.vae.budget import decoder_warm_up_latents, encoder_warm_up_frames
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.encoder import EncoderState
from seedvr2_core.vae.model import VideoVAE, build_vae, random_weights

pytestmark = pytest.mark.usefixtures("either_path")

NUM_LATENTS = 60
GROUP = 2
WINDOWS = [(0, 12), (9, 20), (17, 28), (25, 36), (33, 44), (41, 52), (49, 60)]


def _taken_up(warm_up: int, shorter: int) -> list[ParameterSet]:
    """Where the stream is taken up, with what context, and whether the bits are the same.

    At the first latent of the windows that a warm-up does not take to 0; that a shorter one is not
    enough shows at one of them.
    """
    return [
        pytest.param(41, warm_up, True),
        pytest.param(41, shorter, False),
        pytest.param(41, 0, False),
        pytest.param(49, warm_up, True, marks=pytest.mark.long),
    ]


LEVELS = (None, None, 4, 2)


def _grid(breaks: set[int]) -> list[tuple[int, int]]:
    """Slices of at most GROUP latents between breaks; the shot's first group is {0, 1}."""
    edges = sorted(breaks | {0, NUM_LATENTS})
    starts = [x for a, b in itertools.pairwise(edges) for x in range(a, b, GROUP)]
    return list(itertools.pairwise([*starts, NUM_LATENTS]))


ENCODER_GRID = _grid({edge for window in WINDOWS for edge in window})
DECODER_GRID = _grid({start for start, _ in WINDOWS})


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.long)])
def rings(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Frames of all sizes kept in rings, or moved from slice to slice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_conv, "RING_PIXELS", 1)
        yield request.param


@pytest.fixture(scope="module")
def vae(either_path: None) -> VideoVAE:
    return build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=torch.float32)


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.randn(1, 3, 4 * NUM_LATENTS - 3, 16, 16, generator=_seed(1)).clamp(-1, 1)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(1, 16, NUM_LATENTS, 2, 2, generator=_seed(2))


def _seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _slice_at(grid: list[tuple[int, int]], latent: int) -> int:
    """The start of the last slice that begins at or before the latent."""
    return max(start for start, _ in grid if start <= latent)


def _decode(vae: VideoVAE, latents: Tensor, first: int, state: DecoderState) -> Tensor:
    """Frames from slice `first` to the end."""
    outputs = []
    for start, stop in DECODER_GRID:
        if start < first:
            continue
        output, state = vae.decode(latents[:, :, start:stop], state, max_frames=LEVELS)
        outputs.append(output)
    return torch.cat(outputs, dim=2)


def _encode(vae: VideoVAE, video: Tensor, first: int, state: EncoderState) -> Tensor:
    """Moments from slice `first` to the end."""
    outputs = []
    for start, stop in ENCODER_GRID:
        if start < first:
            continue
        part = video[:, :, max(0, 4 * start - 3) : 4 * stop - 3]
        output, state = vae.encode(part, state, max_frames=LEVELS[::-1])
        outputs.append(output)
    return torch.cat(outputs, dim=2)


@pytest.fixture(scope="module")
def frames(vae: VideoVAE, latents: Tensor, *, rings: bool) -> Tensor:
    return _decode(vae, latents, 0, vae.start_decoder(rings=rings))


@pytest.fixture(scope="module")
def moments(vae: VideoVAE, video: Tensor, *, rings: bool) -> Tensor:
    return _encode(vae, video, 0, vae.start_encoder(rings=rings))


@pytest.mark.parametrize(
    ("start", "context", "same"), _taken_up(decoder_warm_up_latents(VAE_TINY), 20)
)
def test_decoder_warm_up(
    vae: VideoVAE,
    latents: Tensor,
    frames: Tensor,
    start: int,
    context: int,
    *,
    same: bool,
    rings: bool,
) -> None:
    first = _slice_at(DECODER_GRID, start - context)
    assert first > 0
    got = _decode(vae, latents, first, vae.start_decoder(first, rings=rings))
    wanted = frames[:, :, 4 * start - 3 :]
    assert torch.equal(got[:, :, -wanted.shape[2] :], wanted) == same


@pytest.mark.parametrize(
    ("start", "context", "same"), _taken_up(encoder_warm_up_frames(VAE_TINY), 60)
)
def test_encoder_warm_up(
    vae: VideoVAE,
    video: Tensor,
    moments: Tensor,
    start: int,
    context: int,
    *,
    same: bool,
    rings: bool,
) -> None:
    first = _slice_at(ENCODER_GRID, start - context // 4)
    assert first > 0
    got = _encode(vae, video, first, vae.start_encoder(first, rings=rings))
    wanted = moments[:, :, start:]
    assert torch.equal(got[:, :, -wanted.shape[2] :], wanted) == same
