"""Small parts of the transformer."""

import pytest
import torch
from torch import nn

from seedvr2_core.dit.layers import PerStream, patchify, rms_norm, sinusoids, unpatchify
from seedvr2_core.dit.modulation import Modulation, gated, modulate_


@pytest.mark.parametrize("size", [(1, 2, 2), (3, 4, 6), (2, 8, 2)], ids=str)
def test_patches_round_trip(size: tuple[int, int, int]) -> None:
    vid = torch.randn(*size, 5)
    tokens = patchify(vid)
    assert tokens.shape == (size[0] * size[1] * size[2] // 4, 20)
    assert torch.equal(unpatchify(tokens, size), vid)


def test_rms_norm_is_float32_whatever_comes_in() -> None:
    x = torch.randn(4, 16, dtype=torch.bfloat16)
    normed = rms_norm(x, eps=1e-5)
    assert normed.dtype == torch.float32
    torch.testing.assert_close(normed.square().mean(-1), torch.ones(4), atol=1e-3, rtol=0)


def test_rms_norm_leaves_its_input_alone() -> None:
    x = torch.randn(4, 16)
    before = x.clone()
    rms_norm(x, eps=1e-5).zero_()
    assert torch.equal(x, before)


def test_sinusoids_have_the_sine_first() -> None:
    waves = sinusoids(torch.tensor([0.0, 1000.0]), 8)
    assert torch.equal(waves[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(waves[1, 0], torch.tensor(1000.0).sin())


def test_a_stream_falls_back_to_the_shared_part() -> None:
    shared = PerStream(("all",), lambda _: nn.Linear(2, 2))
    own = PerStream(("vid", "txt"), lambda _: nn.Linear(2, 2))
    assert shared.of("vid") is shared.of("txt")
    assert own.of("vid") is not own.of("txt")
    assert set(own.state_dict()) == {"vid.weight", "vid.bias", "txt.weight", "txt.bias"}


def test_no_modulation_changes_nothing() -> None:
    x = torch.randn(3, 4)
    ones, zeros = torch.ones(4), torch.zeros(4)
    identity = Modulation(shift_D=zeros, scale_D=ones, gate_D=ones)
    assert torch.equal(modulate_(x.clone(), None), x)
    assert torch.equal(modulate_(x.clone(), identity), x)
    assert torch.equal(gated(x, None), gated(x, identity))
