"""The per-frame group norm against torch's, whatever chunks it works in."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.kernels import norm
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.norm import FrameGroupNorm, NormSiLU

pytestmark = pytest.mark.usefixtures("either_path")
GROUPS, EPS = 4, 1e-6


def _inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 3 + 2 * torch.randn(2, 16, 3, 5, 7, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def _norm(x: Tensor, weight: Tensor, bias: Tensor, *, silu: bool) -> Tensor:
    module = FrameGroupNorm(16, num_groups=GROUPS, eps=EPS).to(x.dtype).requires_grad_(False)
    module.weight.copy_(weight)
    module.bias.copy_(bias)
    return module(x, silu=silu)


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    frames = x.transpose(1, 2).flatten(0, 1)
    y = F.group_norm(frames, GROUPS, weight, bias, EPS)
    return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


@pytest.mark.parametrize("chunk", [1, 100, 2000, 1 << 25])
@pytest.mark.parametrize("silu", [False, True], ids=["norm", "norm_silu"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAYOUT], ids=["nchw", "nhwc"])
def test_norm_equals_torchs_on_frames(
    monkeypatch: pytest.MonkeyPatch, chunk: int, layout: torch.memory_format, *, silu: bool
) -> None:
    monkeypatch.setattr(norm, "CHUNK_ELEMENTS", chunk)
    x, weight, bias = _inputs()
    before = x.contiguous(memory_format=layout).clone()
    got = _norm(before, weight, bias, silu=silu)
    expected = _by_torch(x, weight, bias)
    torch.testing.assert_close(got, F.silu(expected) if silu else expected, rtol=0, atol=1e-12)
    assert got.is_contiguous(memory_format=LAYOUT)
    assert torch.equal(before, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_rounds_once(dtype: torch.dtype) -> None:
    x, weight, bias = _inputs(dtype)
    x = x * 30  # squares beyond float16
    got = _norm(x, weight, bias, silu=True)
    expected = F.silu(_by_torch(x.double(), weight.double(), bias.double()))
    spacing = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), expected, rtol=spacing, atol=1e-4)


def test_prologue_writes_into_a_part_of_a_buffer() -> None:
    x, weight, bias = _inputs()
    module = FrameGroupNorm(16, num_groups=GROUPS, eps=EPS).double().requires_grad_(False)
    module.weight.copy_(weight)
    module.bias.copy_(bias)
    buffer = torch.zeros(2, 16, 5, 5, 7, dtype=x.dtype).contiguous(memory_format=LAYOUT)
    NormSiLU(module)(x, out_BCTHW=buffer[:, :, 2:])
    expected = F.silu(_by_torch(x, weight, bias))
    torch.testing.assert_close(buffer[:, :, 2:], expected, rtol=0, atol=1e-12)
    assert not buffer[:, :, :2].any()


@pytest.mark.parametrize("chunk", [2000, 1 << 25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_rows_have_the_bits_of_whole_frames(
    monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(norm, "CHUNK_ELEMENTS", chunk)
    x, weight, bias = _inputs(dtype)
    # Whole vectors of a CPU: it rounds what is left over in another way.
    x = x.repeat(1, 1, 1, 2, 2)[..., :8].contiguous(memory_format=LAYOUT)
    module = FrameGroupNorm(16, num_groups=GROUPS, eps=EPS).to(dtype).requires_grad_(False)
    module.weight.copy_(weight)
    module.bias.copy_(bias)
    prologue = NormSiLU(module, input_bias=bias)
    whole = prologue(x, out_BCTHW=torch.empty_like(x))
    parts, write = torch.zeros_like(x), prologue.by_rows(x)
    for rows in (slice(0, 3), slice(3, 4), slice(4, 10)):
        write(rows, parts[..., rows, :])
    assert torch.equal(parts, whole)
