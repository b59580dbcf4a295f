"""Rotary positions: tables per window shape, always computed in float32.

Adjacent channels (2m, 2m+1) turn by angle m; channels beyond the last angle stay as they are.
Frequencies stored in checkpoints are never used: half precision moves the angles by up to 2 rad.

Shape legend: S tokens of a window, L text tokens, P rotated channel pairs, ... any leading axes
that broadcast, K channels of a head.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Rope = Literal["lang", "pixel"]

_LANG_BASE = 10_000.0
_PIXEL_MAX_FREQUENCY = 128


def frequencies(rope: Rope, head_dim: int, *, device: torch.device | None = None) -> Tensor:
    """Angular frequencies of one axis, float32: head_dim // 6 (lang) or head_dim // 12 (pixel)."""
    if rope == "lang":
        axis_dim = head_dim // 3
        exponents = torch.arange(0, axis_dim - axis_dim % 2, 2, dtype=torch.float32, device=device)
        return _LANG_BASE ** (-exponents / axis_dim)
    count = head_dim // 2 // 3 // 2
    spread = torch.linspace(1, _PIXEL_MAX_FREQUENCY, count, dtype=torch.float32, device=device)
    return math.pi * spread


def num_frequencies(rope: Rope, head_dim: int) -> int:
    """Length of the `freqs` buffer that checkpoints carry in every block."""
    return head_dim // 3 // 2 if rope == "lang" else head_dim // 2 // 3 // 2


def video_angles(
    rope: Rope,
    head_dim: int,
    shape: tuple[int, int, int],
    text_len: int,
    *,
    device: torch.device | None = None,
) -> Tensor:
    """Angles (S, P) in rad of a window's tokens, float32; positions restart in every window.

    lang: integers, in time offset by the text's length. pixel: -1 to 1 along each axis of this
    very window (a single token lies at -1).
    Source: ByteDance SeedVR reference, rotary embeddings of the 3B and 7B models.
    """
    freqs = frequencies(rope, head_dim, device=device)
    axes: list[Tensor] = []
    for axis, length in enumerate(shape):
        if rope == "lang":
            first = text_len if axis == 0 else 0
            places = torch.arange(first, first + length, dtype=torch.float32, device=device)
        else:
            places = torch.linspace(-1, 1, length, dtype=torch.float32, device=device)
        view = [1, 1, 1, freqs.numel()]
        view[axis] = length
        axes.append((places[:, None] * freqs).view(view).expand(*shape, -1))
    return torch.cat(axes, dim=-1).flatten(0, 2)


def text_angles(head_dim: int, text_len: int, *, device: torch.device | None = None) -> Tensor:
    """Angles (L, P) in rad of the text tokens (lang only): token j is at (j, j, j)."""
    freqs = frequencies("lang", head_dim, device=device)
    places = torch.arange(text_len, dtype=torch.float32, device=device)
    return (places[:, None] * freqs).repeat(1, 3)


def rotation(angles_SP: Tensor) -> Tensor:
    """Unit complex numbers (S, 1, P), complex64; they broadcast over heads."""
    return torch.polar(torch.ones_like(angles_SP), angles_SP)[:, None]


def pair_table(angles_SP: Tensor, head_dim: int) -> Tensor:
    """Cosines and sines of every pair of a head, float32 (S, 2, head_dim / 2); 1 and 0 where a pair
    stays as it is."""
    table_S2P = angles_SP.new_zeros((len(angles_SP), 2, head_dim // 2))
    table_S2P[:, 0] = 1
    table_S2P[:, 0, : angles_SP.shape[1]] = angles_SP.cos()
    table_S2P[:, 1, : angles_SP.shape[1]] = angles_SP.sin()
    return table_S2P


def rotate_(x_SHK: Tensor, rotation_S1P: Tensor) -> Tensor:
    """Turn the channel pairs of float32 queries or keys (..., S, heads, K) in place."""
    num_pairs = rotation_S1P.shape[-1]
    pairs = x_SHK[..., : 2 * num_pairs].unflatten(-1, (num_pairs, 2))
    torch.view_as_complex(pairs).mul_(rotation_S1P)
    return x_SHK
