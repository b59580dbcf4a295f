"""Attention inside frames: exact whatever chunks of queries it takes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from seedvr2_core.kernels.attention import TILES
from seedvr2_core.kernels.choice import chosen_in, kept_choices
from seedvr2_core.kernels.switches import switched
from seedvr2_core.vae import attention
from seedvr2_core.vae.attention import ONE_CALL, FrameAttention, choose_way

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


def test_the_way_that_was_chosen_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU; there the switch can ask for another."""
    taken: list[str] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, *, out_FNC: Tensor, tile: str) -> None:
        taken.append(tile)
        reference(q, k, v, out_FNC=out_FNC)

    reference = attention.frame_attention.reference
    module = _attention()
    x = torch.randn(1, 8, 2, 3, 5, generator=torch.Generator().manual_seed(3)).double()
    with switched(on_cpu=False):
        wanted = module(x)
    monkeypatch.setattr(attention, "frame_attention", attend)
    monkeypatch.setattr(attention, "uses_triton", lambda device: True)
    module.way = "own halves"
    with switched(on_cpu=True):
        torch.testing.assert_close(module(x), wanted, rtol=0, atol=1e-12)
    with switched(on_cpu=True, frame_attention="one call"):
        torch.testing.assert_close(module(x), wanted, rtol=0, atol=1e-12)
    assert taken == ["own halves"]


def test_ways_are_measured_on_a_gpu_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu, measured = (
        torch.device("cuda:0"),
        dict(zip((ONE_CALL, *TILES), (5.0, 2.0, 1.0), strict=True)),
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(attention, "uses_triton", lambda device: True)
    monkeypatch.setattr(attention, "_seconds", lambda way, *about: measured[way])
    with kept_choices(tmp_path / "kernels.json"):
        assert choose_way(33120, 512, torch.float16, gpu) == "own halves"
        measured["own halves"] = 9.0
        assert choose_way(33120, 512, torch.bfloat16, gpu) == "own"
        # What was chosen stays, and what has no choice is not in the file.
        assert choose_way(33120, 512, torch.float16, gpu) == "own halves"
        assert choose_way(33120, 512, torch.float32, gpu) == ONE_CALL
        assert choose_way(33120, 512, torch.float16, torch.device("cpu")) == ONE_CALL
    first, second = chosen_in(tmp_path / "kernels.json")
    assert first.startswith("attention of 33120 tokens, float16, on NVIDIA H100: own halves was")
    assert "bfloat16" in second
