"""The kernels of dit.py in Triton; imported on a GPU only. One program works on one token's row."""

from typing import Any

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_WARPS = 8


@triton.jit
def _norm_rows(out, x, rows, width, eps, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(x + row * width + columns, mask=inside, other=0.0)
    scale = 1.0 / tl.sqrt_rn(tl.sum(value * value, axis=0) / width + eps)
    tl.store(out + place * width + columns, (value * scale).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_rows(out, x, rows, y, width, eps, NORM: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    value = tl.load(x + row * width + columns, mask=inside, other=0.0)
    value += tl.load(y + place * width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * width + columns, value, mask=inside)
    if NORM:
        scale = 1.0 / tl.sqrt_rn(tl.sum(value * value, axis=0) / width + eps)
        rounded = (value * scale).to(out.dtype.element_ty)
        tl.store(out + place * width + columns, rounded, mask=inside)


@triton.jit
def _turned(x, weight, cos, sin, eps, channels, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    """Heads (HEADS, BLOCK) normed and rotated in float32."""
    scale = 1.0 / tl.sqrt_rn(tl.sum(x * x, axis=1) / channels + eps)
    x = x * scale[:, None] * weight[None, :]
    a, b = tl.split(tl.reshape(x, (HEADS, BLOCK // 2, 2)))
    return tl.reshape(
        tl.join(a * cos[None, :] - b * sin[None, :], a * sin[None, :] + b * cos[None, :]),
        (HEADS, BLOCK),
    )


@triton.jit
def _join_heads(
    joined,
    qkv,
    text,
    weights,
    rotation,
    qkv_row,
    video_len,
    joined_len,
    text_len,
    heads,
    channels,
    eps,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    window = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0)
    head = tl.arange(0, HEADS)
    channel = tl.arange(0, BLOCK)
    inside = (head < heads)[:, None] & (channel < channels)[None, :]
    cell = head[:, None] * channels + channel[None, :]
    inner = heads * channels
    to = joined + (window * joined_len + token) * inner + cell
    # From queries to keys, and from keys to values: the rows of all programs.
    part = tl.num_programs(0).to(tl.int64) * tl.num_programs(1) * inner
    if token < video_len:
        row = qkv + (window * video_len + token) * qkv_row + cell
        pair = tl.arange(0, BLOCK // 2)
        turns = 2 * pair < channels
        table = rotation + token * channels + pair
        cos = tl.load(table, mask=turns, other=1.0)
        sin = tl.load(table + channels // 2, mask=turns, other=0.0)
        for index in tl.static_range(2):  # pyright: ignore
            x = tl.load(row + index * inner, mask=inside, other=0.0).to(tl.float32)
            weight = tl.load(
                weights + index * channels + channel, mask=channel < channels, other=0.0
            )
            x = _turned(x, weight, cos, sin, eps, channels, HEADS, BLOCK)
            tl.store(to + index * part, x.to(joined.dtype.element_ty), mask=inside)
        tl.store(to + 2 * part, tl.load(row + 2 * inner, mask=inside), mask=inside)
    else:
        said = text + (token - video_len) * inner + cell
        for index in tl.static_range(3):  # pyright: ignore
            value = tl.load(said + index * text_len * inner, mask=inside)
            tl.store(to + index * part, value, mask=inside)


def norm_rows(out_MD: Tensor, x_ND: Tensor, rows_M: Tensor, *, eps: float) -> None:
    """See dit.py."""
    if not out_MD.numel():
        return
    width = _width(out_MD, x_ND)
    _launch(
        _norm_rows,
        (len(rows_M),),
        (out_MD, x_ND, rows_M, width, eps),
        BLOCK=triton.next_power_of_2(width),
    )


def add_rows(x_ND: Tensor, rows_M: Tensor, y_MD: Tensor) -> None:
    """See dit.py."""
    _add(y_MD, x_ND, rows_M, y_MD, eps=0.0, norm=False)


def add_norm_rows(
    out_MD: Tensor, x_ND: Tensor, rows_M: Tensor, y_MD: Tensor, *, eps: float
) -> None:
    """See dit.py."""
    _add(out_MD, x_ND, rows_M, y_MD, eps=eps, norm=True)


def _add(
    out_MD: Tensor, x_ND: Tensor, rows_M: Tensor, y_MD: Tensor, *, eps: float, norm: bool
) -> None:
    if not y_MD.numel():
        return
    width = _width(out_MD, x_ND, y_MD)
    _launch(
        _add_rows,
        (len(rows_M),),
        (out_MD, x_ND, rows_M, y_MD, width, eps),
        NORM=norm,
        BLOCK=triton.next_power_of_2(width),
    )


def join_heads(
    joined_3WJHK: Tensor,
    qkv_M3HK: Tensor,
    text_3LHK: Tensor,
    weights_2K: Tensor,
    rotation_S2P: Tensor,
    *,
    eps: float,
) -> None:
    """See dit.py."""
    _, num_windows, joined_len, heads, channels = joined_3WJHK.shape
    text_len = text_3LHK.shape[1]
    contiguous = (joined_3WJHK, text_3LHK, weights_2K, rotation_S2P, qkv_M3HK[0])
    assert all(x.is_contiguous() for x in contiguous), "rows must be contiguous"
    assert channels % 2 == 0, f"channels turn in pairs, got {channels}"
    _launch(
        _join_heads,
        (joined_len, num_windows),
        (
            *(joined_3WJHK, qkv_M3HK, text_3LHK, weights_2K, rotation_S2P),
            *(qkv_M3HK.stride(0), joined_len - text_len, joined_len, text_len),
            *(heads, channels, eps),
        ),
        HEADS=triton.next_power_of_2(heads),
        BLOCK=triton.next_power_of_2(channels),
    )


def _width(*tensors: Tensor) -> int:
    assert all(x.is_contiguous() for x in tensors), "rows must be contiguous"
    return tensors[0].shape[-1]


def _launch(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], **constants: Any
) -> None:
    kernel[grid](*arguments, **constants, num_warps=_WARPS)
