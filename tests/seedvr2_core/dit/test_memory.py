"""The memory estimate against what a call really holds, storage by storage."""

import dataclasses

import pytest
import torch

from seedvr2_core.config import DIT_3B, DIT_7B, DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.memory import Path, activation_bytes
from seedvr2_core.dit.model import FoldedDiT, expected_keys, make_tables
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.kernels.switches import switched
from seedvr2_core.planning.memory import CHUNKS
from tests.kits.gpu.live_bytes import LiveBytes

LOW, HIGH = 0.99, 1.05
"""The estimate lies within these shares of what a call holds; a layer's text is left out."""


@pytest.mark.parametrize("config", [DIT_TINY_3B, DIT_TINY_7B], ids=["3b", "7b"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chunk", [None, 500], ids=["whole", "chunks"])
def test_estimate_matches_a_real_call(
    config: DiTConfig, dtype: torch.dtype, chunk: int | None
) -> None:
    size, text_len = (5, 34, 60), 9
    text = torch.randn(text_len, config.text_dim)
    model = load_folded(config, pcg64_v1(expected_keys(config), 2), text, dtype=dtype)
    vid = torch.randn(*size, config.in_channels)
    with torch.inference_mode(), LiveBytes(beside=_weights(model)) as seen:
        tables = make_tables(config, size, text_len, chunk_tokens=chunk)
        model(vid, tables=tables)
    estimate = activation_bytes(
        config,
        size,
        text_len=text_len,
        chunk_tokens=chunk,
        itemsize=dtype.itemsize,
        path=Path(on_cpu=True),
    )
    assert LOW <= estimate / seen.peak <= HIGH


def _weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


@pytest.mark.long
@pytest.mark.parametrize("config", [DIT_3B, DIT_7B], ids=["3b", "7b"])
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("own_kernels", [True, False], ids=["own kernels", "torch alone"])
@pytest.mark.parametrize("size", [(25, 90, 160), (25, 136, 240), (25, 270, 480)], ids=str)
def test_the_path_of_a_gpu_at_full_width(
    config: DiTConfig, size: tuple[int, int, int], chunk: int, *, own_kernels: bool
) -> None:
    """Three layers; "meta" stands for a GPU. All aims have windows of these sizes or between."""
    config = dataclasses.replace(config, shifted=(False, True, False), num_separate_layers=1)
    meta = torch.device("meta")
    with meta:
        model = FoldedDiT(config, text_len=58, dtype=torch.bfloat16)
    with (
        switched(fused_rows=own_kernels, fused_heads=own_kernels),
        torch.inference_mode(),
        LiveBytes(beside=_weights(model)) as seen,
    ):
        tables = make_tables(config, size, 58, chunk_tokens=chunk, device=meta)
        model(torch.empty(*size, config.in_channels, device=meta), tables=tables)
    path = Path(own_kernels=own_kernels)
    estimate = activation_bytes(config, size, chunk_tokens=chunk, path=path)
    assert 1 <= estimate / seen.peak <= HIGH


def test_chunks_bound_the_memory_of_the_largest_job() -> None:
    size = (26, 2192 // 8, 3840 // 8)
    held = activation_bytes(DIT_7B, size)
    assert held < 16e9
    assert activation_bytes(DIT_7B, size, chunk_tokens=8192) < held
    assert activation_bytes(DIT_7B, size, chunk_tokens=None) > 3 * held
