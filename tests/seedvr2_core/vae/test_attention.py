"""Attention inside frames: exact whatever chunks of queries it takes."""

import pytest
import torch

from seedvr2_core.vae import attention
from seedvr2_core.vae.attention import FrameAttention

pytestmark = pytest.mark.usefixtures("either_path")


def _attention() -> FrameAttention:
    torch.manual_seed(1)
    return FrameAttention(8, num_groups=2, eps=1e-6).double().requires_grad_(False)


@pytest.mark.parametrize("score_bytes", [1, 4 * 15 * 4, 1 << 28], ids=["1row", "4rows", "all"])
def test_attention_equals_the_formula(monkeypatch: pytest.MonkeyPatch, score_bytes: int) -> None:
    monkeypatch.setattr(attention, "SCORE_BYTES", score_bytes)
    module = _attention()
    x = torch.randn(2, 8, 3, 3, 5, generator=torch.Generator().manual_seed(2)).double()
    tokens = module.group_norm(x).permute(0, 2, 3, 4, 1).flatten(2, 3)
    q, k, v = module.to_q(tokens), module.to_k(tokens), module.to_v(tokens)
    mixed = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1) @ v
    expected = x + module.to_out[0](mixed).unflatten(2, (3, 5)).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_frames_do_not_mix() -> None:
    module = _attention()
    x = torch.randn(1, 8, 2, 3, 5, generator=torch.Generator().manual_seed(3)).double()
    torch.testing.assert_close(module(x)[:, :, 1:], module(x[:, :, 1:]), rtol=0, atol=1e-12)
