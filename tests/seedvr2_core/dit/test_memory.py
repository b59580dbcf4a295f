"""The memory estimate against what a call really holds, storage by storage."""

import dataclasses

import pytest
import torch

from seedvr2_core.config import DIT_3B, DIT_7B, DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.memory import activation_bytes
from seedvr2_core.dit.model import FoldedDiT, expected_keys, make_tables
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.kernels import kernel
from seedvr2_core.kernels.switches import switched
from tests.kits.gpu.live_bytes import LiveBytes


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


@pytest.mark.parametrize("config", [DIT_3B, DIT_7B], ids=["3b", "7b"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_the_path_of_a_gpu_needs_no_more(
    monkeypatch: pytest.MonkeyPatch, config: DiTConfig, *, fused: bool
) -> None:
    """At full width, two layers; "meta" stands for a GPU, with Triton or without."""
    monkeypatch.setattr(kernel, "has_triton", lambda: fused)
    size, meta = (25, 94, 160), torch.device("meta")
    config = dataclasses.replace(config, shifted=(False, True), num_separate_layers=1)
    peaks: list[int] = []
    with meta:
        model = FoldedDiT(config, text_len=58, dtype=torch.bfloat16)
        vid = torch.empty(*size, config.in_channels)
    for gpu_path in (True, False):
        with switched(fused_rows=gpu_path and fused, fused_heads=gpu_path and fused):
            tables = make_tables(config, size, 58, chunk_tokens=16_384, device=meta)
            with torch.inference_mode(), LiveBytes() as seen:
                model(vid, tables=tables)
            peaks.append(seen.peak)
    estimate = activation_bytes(config, size, chunk_tokens=16_384)
    assert max(peaks) <= 1.02 * estimate
    assert peaks[0] <= peaks[1]


def test_chunks_bound_the_memory_of_the_largest_job() -> None:
    size = (26, 2192 // 8, 3840 // 8)
    held = activation_bytes(DIT_7B, size)
    assert held < 16e9
    assert activation_bytes(DIT_7B, size, chunk_tokens=8192) < held
    assert activation_bytes(DIT_7B, size, chunk_tokens=None) > 3 * held
