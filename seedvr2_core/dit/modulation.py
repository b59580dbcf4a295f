"""Adaptive modulation: scale and shift before a layer, gate behind it.

The scale is used as it is: the learned one already contains the usual "1 +".
Source: ByteDance SeedVR reference, single adaptive layer.

Shape legend: M tokens, D width. The time embedding has 6 D numbers: channel slowest, then slot
(attention, MLP), then shift, scale, gate.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Slot = Literal["attn", "mlp"]
_SLOT_INDEX = {"attn": 0, "mlp": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Modulation:
    """Float32 vectors (D,) for one slot of one stream."""

    shift_D: Tensor
    scale_D: Tensor
    gate_D: Tensor


class BlockModulation(nn.Module):
    """Learned vectors of a block's stream, added to those of the time embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for slot in _SLOT_INDEX:
            for part in ("shift", "scale", "gate"):
                self.register_parameter(f"{slot}_{part}", _vector(width))

    def forward(self, emb_6D: Tensor, slot: Slot) -> Modulation:
        """Vectors of a slot, added up in float32."""
        shift_D, scale_D, gate_D = time_vectors(emb_6D, slot)
        return Modulation(
            shift_D=shift_D + self.get_parameter(f"{slot}_shift").float(),
            scale_D=scale_D + self.get_parameter(f"{slot}_scale").float(),
            gate_D=gate_D + self.get_parameter(f"{slot}_gate").float(),
        )


class OutputModulation(nn.Module):
    """Learned vectors before the output Linear (3B).

    They meet the time embedding's attention slot: the trained weights rely on that.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_shift = _vector(width)
        self.out_scale = _vector(width)

    def forward(self, emb_6D: Tensor) -> tuple[Tensor, Tensor]:
        """(shift, scale), float32 (D,)."""
        shift_D, scale_D, _ = time_vectors(emb_6D, "attn")
        return shift_D + self.out_shift.float(), scale_D + self.out_scale.float()


def time_vectors(emb_6D: Tensor, slot: Slot) -> tuple[Tensor, Tensor, Tensor]:
    """(shift, scale, gate) of a slot in the time embedding, float32 (D,)."""
    shift_D, scale_D, gate_D = emb_6D.float().view(-1, 2, 3)[:, _SLOT_INDEX[slot]].unbind(-1)
    return shift_D, scale_D, gate_D


def modulate_(x_MD: Tensor, modulation: Modulation | None) -> Tensor:
    """x * scale + shift on float32 rows in place; None (folded into the weights): as it is."""
    if modulation is None:
        return x_MD
    return x_MD.mul_(modulation.scale_D).add_(modulation.shift_D)


def gated(x_MD: Tensor, modulation: Modulation | None) -> Tensor:
    """x * gate in float32; None (folded into the weights) returns x as it is."""
    return x_MD if modulation is None else x_MD * modulation.gate_D


def _vector(width: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(width, dtype=torch.float32))
