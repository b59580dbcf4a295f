"""Rotary positions: lengths stay, distances count, the right channels turn."""

import math

import pytest
import torch

from seedvr2_core.dit.rope import (
    Rope,
    frequencies,
    num_frequencies,
    rotate_,
    rotation,
    text_angles,
    video_angles,
)

TURNING = {"lang": 126, "pixel": 60}


@pytest.mark.parametrize("rope", ["lang", "pixel"])
def test_rotation_keeps_length_and_leaves_the_last_channels_alone(rope: Rope) -> None:
    x = torch.randn(2, 24, 3, 128)
    turned = rotate_(x.clone(), rotation(video_angles(rope, 128, (2, 3, 4), 58)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[..., TURNING[rope] :], x[..., TURNING[rope] :])
    assert not torch.equal(turned[..., : TURNING[rope]], x[..., : TURNING[rope]])


@pytest.mark.parametrize("head_dim", [32, 40, 128])
@pytest.mark.parametrize("rope", ["lang", "pixel"])
def test_frequencies_are_float32_and_as_many_as_the_buffer(rope: Rope, head_dim: int) -> None:
    freqs = frequencies(rope, head_dim)
    assert freqs.dtype == torch.float32
    assert freqs.shape == (num_frequencies(rope, head_dim),)


def test_lang_sees_only_distances_between_text_and_frames() -> None:
    """Frame f lies at L + f: the product with the last text token depends on f + 1 alone."""
    q, k = torch.randn(1, 1, 1, 126).expand(1, -1, -1, -1), torch.randn(1, 1, 1, 126)
    products = []
    for length in (5, 58):
        video = rotation(video_angles("lang", 126, (1, 1, 1), length))
        angles = text_angles(126, length)[-1:].clone()
        angles[:, 42 // 2 :] = 0  # space is not offset; compare time alone
        products.append((rotate_(q.clone(), video) * rotate_(k.clone(), rotation(angles))).sum())
    torch.testing.assert_close(products[0], products[1], atol=1e-4, rtol=1e-4)


def test_text_tokens_lie_on_the_diagonal() -> None:
    time, height, width = text_angles(32, 7).chunk(3, dim=-1)
    assert torch.equal(time, height)
    assert torch.equal(time, width)
    assert torch.equal(time[0], torch.zeros(5))


def test_pixel_positions_span_minus_one_to_one_and_a_single_token_is_at_minus_one() -> None:
    angles = video_angles("pixel", 32, (1, 3, 5), 0).view(3, 5, 3, -1)
    lowest = angles[..., 0] / math.pi
    assert torch.equal(lowest[..., 0], torch.full((3, 5), -1.0))
    torch.testing.assert_close(lowest[:, 0, 1], torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(lowest[0, :, 2], torch.linspace(-1, 1, 5))
