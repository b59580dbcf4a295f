"""The memory estimate against what a call really holds, storage by storage."""

import pytest
import torch

from seedvr2_core.config import DIT_7B, DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.memory import activation_bytes
from seedvr2_core.dit.model import expected_keys, make_tables
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from tests.kits.live_bytes import LiveBytes


@pytest.mark.parametrize("config", [DIT_TINY_3B, DIT_TINY_7B], ids=["3b", "7b"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunk", [None, 500], ids=["whole", "chunks"])
def test_estimate_matches_a_real_call(
    config: DiTConfig, dtype: torch.dtype, chunk: int | None
) -> None:
    size, text_len = (5, 34, 60), 9
    text = torch.randn(text_len, config.text_dim)
    model = load_folded(config, pcg64_v1(expected_keys(config), 2), text, dtype=dtype)
    tables = make_tables(config, size, text_len, chunk_tokens=chunk)
    vid = torch.randn(*size, config.in_channels)
    with torch.inference_mode(), LiveBytes() as seen:
        model(vid, tables=tables)
    estimate = activation_bytes(
        config, size, text_len=text_len, chunk_tokens=chunk, itemsize=dtype.itemsize
    )
    assert 0.7 * estimate <= seen.peak <= 1.05 * estimate


def test_chunks_bound_the_memory_of_the_largest_job() -> None:
    size = (26, 2192 // 8, 3840 // 8)
    held = activation_bytes(DIT_7B, size)
    assert held < 16e9
    assert activation_bytes(DIT_7B, size, chunk_tokens=8192) < held
    assert activation_bytes(DIT_7B, size, chunk_tokens=None) > 3 * held
