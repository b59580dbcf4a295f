"""`color.py` in Triton: luma and chroma blurred along columns; then along rows, and all the rest.

Legend: H W pixels; a program makes a tile of ROWS x COLUMNS of them.
"""

# Triton's stubs do not know that it turns plain numbers into compile-time constants at a launch.
# pyright: reportArgumentType=false, reportCallIssue=false

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from seedvr2_core.frames import CB_RANGE, CR_RANGE, LUMA_WEIGHTS

ROWS, COLUMNS = 16, 128
_WHITE = {torch.uint8: 255, torch.uint16: 65535}
_LUMA_R, _LUMA_G, _LUMA_B = (tl.constexpr(weight) for weight in LUMA_WEIGHTS)
_CB, _CR = tl.constexpr(CB_RANGE), tl.constexpr(CR_RANGE)


@triton.jit
def _down(
    low,
    content,
    source,
    luma_band,
    chroma_band,
    height,
    width,
    channel_stride,
    row_stride,
    column_stride,
    LUMA_REACH: tl.constexpr,
    CHROMA_REACH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first = tl.program_id(1) * ROWS
    row = first + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    plane = height * width
    y = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    cb = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    cr = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    begin = tl.maximum(first - LUMA_REACH, 0)
    end = tl.minimum(first + ROWS + LUMA_REACH, height)
    for at in range(begin, end):
        c = content + at * row_stride + column * column_stride
        s = source + at * width + column
        r = tl.load(s, mask=inside, other=0.0) - tl.load(c, mask=inside, other=0.0)
        g = tl.load(s + plane, mask=inside, other=0.0)
        g -= tl.load(c + channel_stride, mask=inside, other=0.0)
        b = tl.load(s + 2 * plane, mask=inside, other=0.0)
        b -= tl.load(c + 2 * channel_stride, mask=inside, other=0.0)
        luma = _LUMA_R * r + _LUMA_G * g + _LUMA_B * b
        tap = at - row + LUMA_REACH
        used = (row < height) & (tap >= 0) & (tap <= 2 * LUMA_REACH)
        weight = tl.load(luma_band + row * (2 * LUMA_REACH + 1) + tap, mask=used, other=0.0)
        y += weight[:, None] * luma[None, :]
        tap = at - row + CHROMA_REACH
        used = (row < height) & (tap >= 0) & (tap <= 2 * CHROMA_REACH)
        weight = tl.load(chroma_band + row * (2 * CHROMA_REACH + 1) + tap, mask=used, other=0.0)
        cb += weight[:, None] * ((b - luma) / _CB)[None, :]
        cr += weight[:, None] * ((r - luma) / _CR)[None, :]
    to = low + row[:, None] * width + column[None, :]
    kept = (row < height)[:, None] & inside[None, :]
    tl.store(to, y, mask=kept)
    tl.store(to + plane, cb, mask=kept)
    tl.store(to + 2 * plane, cr, mask=kept)


@triton.jit
def _integers(x, white):
    """Clamped, scaled and rounded to the nearest, halves to even."""
    x = (tl.minimum(tl.maximum(x, -1.0), 1.0) + 1.0) * (white / 2)
    whole = tl.floor(x)
    rest = x - whole
    odd = (whole - 2.0 * tl.floor(whole / 2.0)) > 0.5
    return whole + tl.where((rest > 0.5) | ((rest == 0.5) & odd), 1.0, 0.0)


@triton.jit
def _across(
    out,
    low,
    content,
    luma_band,
    chroma_band,
    height,
    width,
    channel_stride,
    row_stride,
    column_stride,
    white,
    LUMA_REACH: tl.constexpr,
    CHROMA_REACH: tl.constexpr,
    ROUND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    lines, columns = (row < height)[:, None], column < width
    plane = height * width
    source = low + row[:, None] * width
    y = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    cb = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    cr = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for tap in range(2 * LUMA_REACH + 1):
        at = column + tap - LUMA_REACH
        used = lines & (columns & (at >= 0) & (at < width))[None, :]
        band = luma_band + column * (2 * LUMA_REACH + 1) + tap
        weight = tl.load(band, mask=columns, other=0.0)
        y += weight[None, :] * tl.load(source + at[None, :], mask=used, other=0.0)
    for tap in range(2 * CHROMA_REACH + 1):
        at = column + tap - CHROMA_REACH
        used = lines & (columns & (at >= 0) & (at < width))[None, :]
        band = chroma_band + column * (2 * CHROMA_REACH + 1) + tap
        weight = tl.load(band, mask=columns, other=0.0)
        cb += weight[None, :] * tl.load(source + plane + at[None, :], mask=used, other=0.0)
        cr += weight[None, :] * tl.load(source + 2 * plane + at[None, :], mask=used, other=0.0)
    low_r, low_b = y + _CR * cr, y + _CB * cb
    low_g = (y - _LUMA_R * low_r - _LUMA_B * low_b) / _LUMA_G
    kept = lines & columns[None, :]
    c = content + row[:, None] * row_stride + column[None, :] * column_stride
    r = tl.load(c, mask=kept, other=0.0) + low_r
    g = tl.load(c + channel_stride, mask=kept, other=0.0) + low_g
    b = tl.load(c + 2 * channel_stride, mask=kept, other=0.0) + low_b
    if ROUND:
        r, g, b = _integers(r, white), _integers(g, white), _integers(b, white)
    to = out + 3 * (row[:, None] * width + column[None, :])
    tl.store(to, r.to(out.dtype.element_ty), mask=kept)
    tl.store(to + 1, g.to(out.dtype.element_ty), mask=kept)
    tl.store(to + 2, b.to(out.dtype.element_ty), mask=kept)


def wavelet_color(
    out_HWC: Tensor,
    c_CHW: Tensor,
    s_CHW: Tensor,
    low_CHW: Tensor,
    bands_y: tuple[Tensor, Tensor],
    bands_x: tuple[Tensor, Tensor],
) -> None:
    """See color.py."""
    _, height, width = c_CHW.shape
    assert all(x.is_contiguous() for x in (out_HWC, s_CHW, low_CHW, *bands_y, *bands_x))
    grid = (triton.cdiv(width, COLUMNS), triton.cdiv(height, ROWS))
    assert 3 * c_CHW.stride(0) + height * c_CHW.stride(1) < 2**31, "offsets have 32 bits"
    sizes = (height, width, *c_CHW.stride())
    reach_y, reach_x = _reach(*bands_y), _reach(*bands_x)
    tile: dict[str, Any] = {"ROWS": ROWS, "COLUMNS": COLUMNS, "num_warps": 4}
    first: tuple[Any, ...] = (low_CHW, c_CHW, s_CHW, *bands_y, *sizes)
    _down[grid](*first, **reach_y, **tile)
    tile["ROUND"] = not out_HWC.is_floating_point()
    white = float(_WHITE.get(out_HWC.dtype, 1))
    arguments: tuple[Any, ...] = (out_HWC, low_CHW, c_CHW, *bands_x, *sizes, white)
    _across[grid](*arguments, **reach_x, **tile)


def _reach(luma: Tensor, chroma: Tensor) -> dict[str, Any]:
    """How far the bands of an axis reach to either side."""
    return {"LUMA_REACH": luma.shape[1] // 2, "CHROMA_REACH": chroma.shape[1] // 2}
