"""Random weights by a fixed recipe: for the `tiny` engine, benchmarks and tests."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_ROPE_BUFFER = "rope.rope.freqs"


def pcg64_v1(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Float32 tensors that keep activations of order one; the same everywhere.

    Names are visited in sorted order, one PCG64 stream of standard normals z for all. Matrices
    are z / sqrt(in), biases 0.1 z, `_shift` 0.3 z, `_gate` 0.5 + 0.3 z, other vectors 1 + 0.2 z.
    Rope buffers are left out.

    Raises:
        ValueError: a tensor is neither vector nor matrix; the recipe knows no others.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    tensors: dict[str, Tensor] = {}
    for name in sorted(shapes):
        if name.endswith(_ROPE_BUFFER):
            continue
        shape = tuple(shapes[name])
        if len(shape) not in (1, 2):
            raise ValueError(f"pcg64-v1 is for vectors and matrices, {name} has shape {shape}")
        values = generator.standard_normal(math.prod(shape), dtype=np.float32).reshape(shape)
        tensors[name] = _scaled(name, torch.from_numpy(values))
    return tensors


def _scaled(name: str, z: Tensor) -> Tensor:
    if z.ndim == 2:
        return z / math.sqrt(z.shape[1])
    if name.endswith("bias"):
        return 0.1 * z
    if name.endswith("_shift"):
        return 0.3 * z
    if name.endswith("_gate"):
        return 0.5 + 0.3 * z
    return 1 + 0.2 * z
