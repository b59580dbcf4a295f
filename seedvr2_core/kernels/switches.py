"""The steps of the GPU path, each of which can be switched while a model is loaded.

A switch changes results by the order of sums and by roundings only. All are on by default where
they apply: `takes_gpu_path` says where. Nothing here is an option of a job.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What the code does on a GPU. A CPU takes none of these steps, unless `on_cpu` says so."""

    on_cpu: bool = False
    """Take the GPU's path for tensors of the CPU as well; tests do."""
    triton: bool = True
    """Kernels of our own in Triton, where it can be loaded; else their torch references."""
    interpret: bool = False
    """Run our kernels on tensors of the CPU too, in Triton's interpreter; tests do."""

    fused_norm: bool = True
    """VAE: group norm and SiLU in two passes, written into the next convolution's buffer."""
    absorbed_bias: bool = True
    """VAE: a convolution's bias is added by the kernel that reads its result."""
    frame_attention: Literal["chunks", "one call", "own", "own halves", "auto"] = "auto"
    """VAE: attention of each frame by chunks of queries, of all frames in one call, by a kernel of
    our own in one of two tiles, or in the way that is fastest on the device (choice.py)."""
    split_frames: bool = True
    """VAE: inputs too large for a convolution kernel are split by frames, which copies nothing,
    and by rows only where one frame is too large."""
    direct_output: bool = True
    """VAE: parts of a result too large for a convolution kernel are written where they belong."""
    inner_padding: bool = True
    """VAE: a down-sampler's zeros are the convolution's own, not a padded copy."""
    fold_border: bool = True
    """VAE: the constant in a folded up-sampler is a bias that is smaller at the border, not one
    more input channel."""
    padded_channels: bool = True
    """VAE: the ends' 3 channels are padded to 8, which tensor cores want."""

    overlap: bool = True
    """Host: copies on streams of their own, and the host one slice ahead of the device."""

    fused_color: bool = True
    """Host: wavelet colour and rounding of a frame by one kernel."""

    dit_attention: Literal["default", "flash", "cudnn"] = "cudnn"
    """Transformer: what torch chooses; the flash kernel for all windows; or cuDNN for the few
    shapes that hold nearly all of the work and flash for the rest (dit/sdpa.py)."""
    fused_rows: bool = True
    """Transformer: rows are gathered, normed and rounded by one kernel, and what a layer adds to
    them is added by the next one; the residual stream is never permuted."""
    fused_heads: bool = True
    """Transformer: queries and keys are normed, rotated and joined to the text by one kernel."""
    gelu_epilogue: bool = True
    """Transformer (7B): GELU inside the matrix product before it."""


_current = Switches()


def switches() -> Switches:
    """The switches as they are now, for all threads."""
    return _current


@contextmanager
def switched(**changes: Any) -> Iterator[Switches]:
    """Change some switches for a block, in all threads.

    Raises:
        TypeError: there is no switch of that name.
    """
    global _current
    before = _current
    _current = replace(before, **changes)
    try:
        yield _current
    finally:
        _current = before


def takes_gpu_path(device: torch.device) -> bool:
    """Whether the steps above apply to tensors there ("meta" stands for a GPU)."""
    return device.type != "cpu" or _current.on_cpu
