"""Weights that stay quantised in memory and become numbers where they are used.

`QuantizedWeight` is one weight as its file has it. Folding (dit/fold.py) multiplies weights by
vectors; such a weight keeps the vector and applies it when it is expanded. The order of operations
is that of a weight that was expanded before: expand in float32, multiply, round once. So a model of
quantised weights gives the bits of the same model with its weights written out.

Shape legend: R rows (outputs), C columns (inputs), M rows of activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_core.dit.model import assign_state
from seedvr2_core.weights.ggml import block_values
from seedvr2_core.weights.reader import BLOCK_BYTES

EXPANDED_AT_ONCE = 1 << 22
"""Values that are expanded together: the temporaries of more would need memory for nothing."""
DATA, SCALE, FACTOR = "data", "scale", "factor"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedWeight:
    """A matrix as it is stored. It stands for a float32 tensor in what folding does with one."""

    form: str
    """A dtype of reader.py: F8_E4M3, F8_E4M3+scale, I8+scale, I8+convrot, Q8_0 ..."""
    shape: tuple[int, ...]
    data: Tensor
    """fp8 or int8 (R, C); uint8 (blocks, bytes of a block) for ggml's formats."""
    scale: Tensor | None = None
    """float32 (R, 1) or (1, 1)."""
    group: int = 0
    """Columns that were rotated together ("convrot"); 0: none."""
    factor: Tensor | None = None
    """float32 (R, 1) or (1, C): what folding multiplied the weight by."""
    dtype: torch.dtype = torch.float32
    """What it is expanded to."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What it holds, by name."""
        found = {DATA: self.data, SCALE: self.scale, FACTOR: self.factor}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to(self, target: torch.dtype | torch.device | str) -> "QuantizedWeight":
        """On another device, or to be expanded to another dtype; as `Tensor.to`."""
        if isinstance(target, torch.dtype):
            return replace(self, dtype=target)
        return replace(self, **{name: t.to(target) for name, t in self.tensors.items()})

    def float(self) -> "QuantizedWeight":
        """To be expanded to float32."""
        return self.to(torch.float32)

    def __mul__(self, factor: Tensor) -> "QuantizedWeight":
        """The weight times a vector (C,) or (R, 1), kept as it is."""
        assert self.factor is None
        assert factor.dtype == self.dtype == torch.float32
        return replace(self, factor=factor.reshape(-1, 1) if factor.ndim == 2 else factor[None])

    def __matmul__(self, vector_C: Tensor) -> Tensor:
        """The product with a vector, (R,)."""
        return self.expand() @ vector_C

    def expand(self) -> Tensor:
        """The numbers, (R, C) in `dtype`."""
        rows = self.shape[0]
        expanded = torch.empty(self.shape, dtype=self.dtype, device=self.data.device)
        flat_RC = expanded.view(rows, -1)
        step = max(1, EXPANDED_AT_ONCE // max(1, flat_RC.shape[1]))
        if self.form in BLOCK_BYTES and flat_RC.shape[1] % BLOCK_BYTES[self.form][0]:
            step = rows  # blocks that run over the ends of rows
        for start in range(0, rows, step):
            self._expand_rows(flat_RC, start, min(rows, start + step))
        return expanded

    def _expand_rows(self, flat_RC: Tensor, start: int, stop: int) -> None:
        """Write some rows, with the factor."""
        piece_MC = self._rows(start, stop)
        if self.factor is not None:
            by_row = self.factor.shape[1] == 1 and self.factor.shape[0] == self.shape[0]
            piece_MC.mul_(self.factor[start:stop] if by_row else self.factor)
        flat_RC[start:stop] = piece_MC

    def _rows(self, start: int, stop: int) -> Tensor:
        """Some rows without the factor, float32 in a new tensor."""
        if self.form in BLOCK_BYTES:
            share = len(self.data) // self.shape[0]
            whole = (start, stop) == (0, self.shape[0])
            blocks = self.data if whole else self.data[start * share : stop * share]
            return block_values(self.form, blocks).reshape(stop - start, -1)
        values_MC = self.data[start:stop].flatten(1).to(torch.float32, copy=True)
        if self.scale is not None:
            values_MC.mul_(self.scale if len(self.scale) == 1 else self.scale[start:stop])
        return unrotated(values_MC, self.group) if self.group else values_MC


def unrotated(values_MC: Tensor, group: int) -> Tensor:
    """Undo the rotation of "convrot": each `group` columns times the regular Hadamard matrix.

    That matrix is the Kronecker power of H4 = [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1],
    [-1, 1, 1, 1]] / 2, and its own inverse. Applied as sums of neighbours, one base-4 digit of the
    column after the other, so that a row does not depend on how many there are.
    Source: docs/int8_convrot.md of stable-diffusion.cpp, which describes the files.

    Args:
        values_MC: float32.
        group: a power of 4 that divides C.
    """
    shape, stride = values_MC.shape, 1
    while stride < group:
        values_MC = _rotated_by_four(values_MC.reshape(-1, 4, stride))
        stride *= 4
    return values_MC.reshape(shape)


def _rotated_by_four(values_N4S: Tensor) -> Tensor:
    """H4 times the axis of length 4, in a new tensor."""
    a, b, c, d = values_N4S.unbind(1)
    rotated = torch.empty_like(values_N4S)
    torch.add(a, b, out=rotated[:, 0]).add_(c).sub_(d)
    torch.add(a, b, out=rotated[:, 1]).sub_(c).add_(d)
    torch.sub(a, b, out=rotated[:, 2]).add_(c).add_(d)
    torch.sub(b, a, out=rotated[:, 3]).add_(c).add_(d)
    return rotated.mul_(0.5)


class QuantizedLinear(nn.Module):
    """A Linear whose weight is expanded each time that it is asked for."""

    data: Tensor
    scale: Tensor | None
    factor: Tensor | None

    def __init__(self, weight: QuantizedWeight, *, bias: bool) -> None:
        """Take a weight over; the bias has arbitrary values.

        Args:
            weight: (R, C), with its factor.
            bias: whether there is one, (R,) in the weight's dtype.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._plan = replace(weight, data=weight.data.new_empty(0), scale=None, factor=None)
        for name in (DATA, SCALE, FACTOR):
            self.register_buffer(name, weight.tensors.get(name))
        empty = torch.empty(self.out_features, dtype=weight.dtype, device="meta")
        self.bias = nn.Parameter(empty, requires_grad=False) if bias else None

    @property
    def weight(self) -> Tensor:
        """The numbers, in a new tensor."""
        return replace(self._plan, data=self.data, scale=self.scale, factor=self.factor).expand()

    def forward(self, x_MC: Tensor) -> Tensor:
        """(M, C) -> (M, R) in the dtype of the weight."""
        return F.linear(x_MC, self.weight, self.bias)


def assign_quantized(
    model: nn.Module, state: Mapping[str, "Tensor | QuantizedWeight"], *, device: torch.device | str
) -> None:
    """As `dit.model.assign_state`, where weights may be quantised: those Linears are replaced.

    Raises:
        CheckpointError: names or shapes differ.
    """
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            plain[name] = value
            continue
        place = name.removesuffix(".weight")
        parent, _, attribute = place.rpartition(".")
        linear = QuantizedLinear(value, bias=f"{place}.bias" in state)
        setattr(model.get_submodule(parent), attribute, linear)
        plain |= {f"{place}.{part}": tensor for part, tensor in value.tensors.items()}
    assign_state(model, plain, device=device)
