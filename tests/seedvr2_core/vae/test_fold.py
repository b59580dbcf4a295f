"""The folded up-sampler equals the plain one everywhere, borders and a shot's start included."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from seedvr2_core.vae.blocks import Upsampler
from seedvr2_core.vae.fold import EXTRA_CHANNELS, depth_to_space_time, fold_weights

pytestmark = pytest.mark.usefixtures("either_path")

CHANNELS = 3
NUM_FRAMES = 6
SIZES = [[6], [1] * 6, [1, 5], [2, 4], [3, 3], [1, 1, 4], [5, 1]]


def _pair(time_stride: int) -> tuple[Upsampler, Upsampler]:
    """The same up-sampler plain and folded, float64, biases far from zero."""
    generator = torch.Generator().manual_seed(1)
    plain = Upsampler(CHANNELS, time_stride=time_stride).double().requires_grad_(False)
    for parameter in plain.parameters():
        parameter.normal_(generator=generator)
    folded = copy.deepcopy(plain)
    folded.fold()
    return plain, folded


def _frames(height: int = 4, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, CHANNELS, NUM_FRAMES, height, width, generator=generator).double()


def _run(upsampler: Upsampler, x: Tensor, sizes: list[int], *, seen: int = 0) -> Tensor:
    state = upsampler.start(seen=seen)
    parts = [
        upsampler(x[:, :, start:stop], state)
        for start, stop in itertools.pairwise(itertools.accumulate(sizes, initial=0))
    ]
    return torch.cat(parts, dim=2)


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes)))
@pytest.mark.parametrize("time_stride", [1, 2], ids=["Z1", "Z2"])
def test_folded_equals_plain(time_stride: int, sizes: list[int]) -> None:
    plain, folded = _pair(time_stride)
    x = _frames()
    expected = _run(plain, x, [NUM_FRAMES])
    got = _run(folded, x, sizes)
    assert got.shape[2] == time_stride * NUM_FRAMES - (time_stride - 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (4, 1), (2, 2)])
@pytest.mark.parametrize("time_stride", [1, 2], ids=["Z1", "Z2"])
def test_folded_equals_plain_where_all_is_border(time_stride: int, height: int, width: int) -> None:
    plain, folded = _pair(time_stride)
    x = _frames(height, width)
    expected = _run(plain, x, [NUM_FRAMES])
    torch.testing.assert_close(_run(folded, x, [2, 4]), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("time_stride", [1, 2], ids=["Z1", "Z2"])
def test_inside_a_shot_nothing_is_dropped_and_one_frame_is_enough(time_stride: int) -> None:
    plain, folded = _pair(time_stride)
    x = _frames()
    got = _run(folded, x, [2, 4], seen=7)
    expected = _run(plain, x, [NUM_FRAMES], seen=7)
    assert got.shape[2] == time_stride * NUM_FRAMES
    # The plain path repeats the first high-res frame, the folded one the first low-res frame.
    same = slice(time_stride, None)
    torch.testing.assert_close(got[:, :, same], expected[:, :, same], rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", [[2], [1, 1], [1, 2]], ids=["2", "1-1", "1-2"])
def test_state_is_low_resolution_after_the_hand_over(sizes: list[int]) -> None:
    _, folded = _pair(2)
    x, state = _frames(), folded.start(seen=0)
    for start, stop in itertools.pairwise(itertools.accumulate(sizes, initial=0)):
        folded(x[:, :, start:stop], state)
    ((path, kept),) = state.named_tensors()
    assert path == "folded.frames"
    assert torch.equal(kept, x[:, :, sum(sizes) - 1 : sum(sizes)])


def test_which_path_depends_on_the_frame_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, folded = _pair(2)
    plain_frames: list[int] = []
    convolve = folded.upscale_conv.forward

    def count(x: Tensor, *args: object) -> Tensor:
        plain_frames.append(x.shape[2])
        return convolve(x, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(folded.upscale_conv, "forward", count)
    for sizes in SIZES:
        plain_frames.clear()
        _run(folded, _frames(), sizes)
        assert sum(plain_frames) == 2


def test_depth_to_space_time_puts_channels_last_in_the_order() -> None:
    channels, frames, height, width = 2, 3, 2, 4
    u = torch.arange(8 * channels * frames * height * width).reshape(1, -1, frames, height, width)
    y = depth_to_space_time(u, 2)
    for dy, dx, dz, c in itertools.product(range(2), range(2), range(2), range(channels)):
        n = ((dy * 2 + dx) * 2 + dz) * channels + c
        assert torch.equal(y[0, c, dz::2, dy::2, dx::2], u[0, n])


def test_fold_is_at_least_float32() -> None:
    up, conv = torch.randn(4 * CHANNELS, CHANNELS, 1, 1, 1), torch.randn(5, CHANNELS, 3, 3, 3)
    weights = fold_weights(up.half(), torch.zeros(4 * CHANNELS).half(), conv.half(), time_stride=1)
    assert weights.dtype == torch.float32
    assert weights.shape == (4, 5, CHANNELS + EXTRA_CHANNELS, 3, 2, 2)
