"""Values of ggml's block formats: how the bytes of a block become numbers.

A block holds 32 or 256 neighbouring values. Each format is written here from the description of
the ggml block layouts (ggml-common.h and the GGUF specification); the tests compare with the
dequantisation of the `gguf` package. Scales are float16; values are computed in float32.

Shape legend: B blocks, S sub-blocks, V values of a sub-block.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seedvr2_core.weights.reader import BLOCK_BYTES


def block_values(form: str, blocks_BY: Tensor) -> Tensor:
    """The values of whole blocks.

    Args:
        form: Q8_0, Q4_K, Q5_K or Q6_K.
        blocks_BY: uint8 (B, bytes of a block), as they lie in the file.

    Returns:
        float32 (B, values of a block).
    """
    assert blocks_BY.shape[1] == BLOCK_BYTES[form][1]
    return _VALUES[form](blocks_BY)


def _half(bytes_B2: Tensor) -> Tensor:
    """Two bytes of each block as one float16, in float32 (B, 1)."""
    return bytes_B2.contiguous().view(torch.float16).float()


def _q8_0(blocks_BY: Tensor) -> Tensor:
    """scale, then 32 signed bytes."""
    return _half(blocks_BY[:, :2]) * blocks_BY[:, 2:].view(torch.int8).float()


@dataclass(frozen=True, slots=True)
class _SubScales:
    """Of the eight sub-blocks of Q4_K and Q5_K, each float32 (B, 8, 1)."""

    scale: Tensor
    least: Tensor
    """What is subtracted from the sub-block's values."""


def _sub_scales(blocks_BY: Tensor) -> _SubScales:
    """The scale of the scales, that of the minima, and 12 bytes with 8 + 8 numbers of 6 bits.

    The first four of each kind are the low bits of bytes 0-3 and 4-7. The other four have their
    low 4 bits in bytes 8-11 and their high 2 in what the first eight bytes have left.
    """
    packed = blocks_BY[:, 4:16]
    low, mid, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([low & 63, (high & 15) | (low >> 6 << 4)], dim=1)
    minima = torch.cat([mid & 63, (high >> 4) | (mid >> 6 << 4)], dim=1)
    return _SubScales(
        scale=(_half(blocks_BY[:, :2]) * scales.float())[:, :, None],
        least=(_half(blocks_BY[:, 2:4]) * minima.float())[:, :, None],
    )


def _nibbles(bytes_BY: Tensor) -> Tensor:
    """Groups of 32 bytes: low halves are one sub-block, high halves the next; uint8 (B, S, 32)."""
    groups = bytes_BY.reshape(bytes_BY.shape[0], -1, 1, 32)
    return torch.cat([groups & 15, groups >> 4], dim=2).flatten(1, 2)


def _q4_k(blocks_BY: Tensor) -> Tensor:
    subs = _sub_scales(blocks_BY)
    return (subs.scale * _nibbles(blocks_BY[:, 16:]).float() - subs.least).flatten(1)


def _q5_k(blocks_BY: Tensor) -> Tensor:
    """As Q4_K, with a fifth bit: bit s of 32 bytes belongs to sub-block s."""
    subs = _sub_scales(blocks_BY)
    fifth = torch.cat([(blocks_BY[:, None, 16:48] >> s & 1) << 4 for s in range(8)], dim=1)
    values = _nibbles(blocks_BY[:, 48:]) | fifth
    return (subs.scale * values.float() - subs.least).flatten(1)


def _q6_k(blocks_BY: Tensor) -> Tensor:
    """Low 4 bits (128 bytes), high 2 bits (64 bytes), 16 signed scales, the scale of them.

    The bits of each half of 128 values lie together: in the low ones 32 + 32 bytes hold four
    quarters (both low halves, then both high halves), in the high ones two bits of each byte
    belong to each quarter.
    """
    num_blocks = blocks_BY.shape[0]
    low = blocks_BY[:, :128].reshape(num_blocks, 2, 2, 32)
    low = torch.cat([low & 15, low >> 4], dim=2)
    high = blocks_BY[:, 128:192].reshape(num_blocks, 2, 1, 32)
    high = torch.cat([high >> shift & 3 for shift in (0, 2, 4, 6)], dim=2)
    values = (low | high << 4).to(torch.int8) - 32
    scales = blocks_BY[:, 192:208].view(torch.int8).float() * _half(blocks_BY[:, 208:])
    return (values.reshape(num_blocks, 16, 16).float() * scales[:, :, None]).flatten(1)


_VALUES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
