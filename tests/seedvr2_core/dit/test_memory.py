"""The memory estimate against what a call really holds, storage by storage."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from seedvr2_core.config import DIT_7B, DIT_TINY_3B, DIT_TINY_7B, DiTConfig
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.memory import activation_bytes
from seedvr2_core.dit.model import expected_keys, make_tables
from seedvr2_core.random_weights import pcg64_v1


class _Peak(TorchDispatchMode):
    """Largest sum of live storages that operators returned."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


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
    with torch.inference_mode(), _Peak() as seen:
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
