"""What a layer knows about the token grid, and whether it works by kernels of our own.

Shape legend: N video tokens of the sample, W windows, S tokens of a window, P rotated pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seedvr2_core.dit.sdpa import Sdpa
from seedvr2_core.dit.window import Batch, Grid
from seedvr2_core.kernels.kernel import uses_triton
from seedvr2_core.kernels.switches import takes_gpu_path


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTables:
    """Shared by all layers of one window method."""

    batches: tuple[Batch, ...]
    rotations: Mapping[Grid, Tensor]
    """Window shape -> complex64 (S, 1, P)."""
    pairs: Mapping[Grid, Tensor]
    """Window shape -> cosines and sines of every pair of channels, float32 (S, 2, K / 2), for our
    own kernel; empty on a CPU."""
    text_rotation: Tensor | None
    """complex64 (L, 1, P), or None where text does not rotate."""
    window_rank_W: Tensor
    """int64, place of each canonical window in the sorted order."""
    chunk_tokens: int
    """Rows of the MLP at once."""
    sdpa: Sdpa


def fuses(device: torch.device) -> bool:
    """Whether our own kernels do the element-wise work of the transformer there.

    Their torch references would need more memory than the plain path, so without Triton that runs.
    """
    return takes_gpu_path(device) and (device.type in ("cpu", "meta") or uses_triton(device))
