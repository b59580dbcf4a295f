"""Folded weights, chunks and fused kernels in half precision lose no more than the plain way."""

import pytest
import torch
from torch import Tensor

from seedvr2_core.config import DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import expected_keys, load_plain
from seedvr2_core.dit.tables import make_tables
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.kernels.switches import switched

NO_WORSE = 1.25
"""A way's error against float32, as a multiple of that of the plain modules in the same dtype."""
TEXT = 7


def _error(got: Tensor, exact: Tensor) -> float:
    return ((got.float() - exact).square().mean() / exact.square().mean()).sqrt().item()


@pytest.mark.parametrize("config", [DIT_TINY_3B, DIT_TINY_7B], ids=["3b", "7b"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_no_worse_than_the_plain_way(
    config: DiTConfig, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(5)
    size = (5, 18, 32)
    vid = torch.randn(*size, config.in_channels, generator=generator)
    text = torch.randn(TEXT, config.text_dim, generator=generator)
    tensors = pcg64_v1(expected_keys(config), 11)
    with torch.inference_mode():
        exact = load_plain(config, tensors)(vid, text)
        plain = load_plain(config, tensors, dtype=dtype)(vid, text)
        with switched(on_cpu=True):
            tables = make_tables(config, size, TEXT, chunk_tokens=200)
            fast = load_folded(config, tensors, text, dtype=dtype)(vid, tables=tables)
    by_plain, by_fast = _error(plain, exact), _error(fast, exact)
    assert 0 < by_fast <= NO_WORSE * by_plain
