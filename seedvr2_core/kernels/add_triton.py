"""`norm.add_bias` in Triton, and the tiles in which it and the norm take a frame.

Legend: B batch, C channels, T frames, H W pixels of the level.
"""

# Triton's stubs do not know that it turns plain numbers into compile-time constants at a launch.
# pyright: reportArgumentType=false, reportReturnType=false, reportCallIssue=false

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

TILE_ELEMENTS = 4096
"""Elements that a program holds at once: enough loads in flight, few enough registers."""
MAX_BLOCK_C = 512
MAP_TILES = 4
"""Tiles that a program of the map works through, which spreads the cost of its vectors."""


@triton.jit
def offsets(pixel, width, stride_h, stride_w):
    """Of pixels inside a frame; 64 bits, as a 4k frame has 2^31 elements."""
    row = (pixel // width).to(tl.int64)
    column = (pixel % width).to(tl.int64)
    return row * stride_h + column * stride_w


@triton.jit
def _add(
    y,
    bias_C,
    residual,
    out,
    frames,
    channels,
    pixels,
    width,
    y_stride_b,
    y_stride_c,
    y_stride_t,
    y_stride_h,
    y_stride_w,
    r_stride_b,
    r_stride_c,
    r_stride_t,
    r_stride_h,
    r_stride_w,
    o_stride_b,
    o_stride_c,
    o_stride_t,
    o_stride_h,
    o_stride_w,
    HAS_RESIDUAL: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out = y + bias + residual."""
    frame = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channel < channels
    sample, time = (frame // frames).to(tl.int64), (frame % frames).to(tl.int64)
    along_c = channel.to(tl.int64)[None, :]
    bias = tl.load(bias_C + channel, mask=inside_c, other=0.0).to(tl.float32)[None, :]
    for step in range(TILES):
        pixel = (tl.program_id(0) * TILES + step) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (pixel[:, None] < pixels) & inside_c[None, :]
        inside = offsets(pixel, width, y_stride_h, y_stride_w)[:, None] + along_c * y_stride_c
        place = y + sample * y_stride_b + time * y_stride_t + inside
        tile = tl.load(place, mask=mask, other=0.0).to(tl.float32) + bias
        if HAS_RESIDUAL:
            inside = offsets(pixel, width, r_stride_h, r_stride_w)[:, None] + along_c * r_stride_c
            place = residual + sample * r_stride_b + time * r_stride_t + inside
            tile += tl.load(place, mask=mask, other=0.0).to(tl.float32)
        inside = offsets(pixel, width, o_stride_h, o_stride_w)[:, None] + along_c * o_stride_c
        place = out + sample * o_stride_b + time * o_stride_t + inside
        tl.store(place, tile.to(out.dtype.element_ty), mask=mask)


def add_bias(
    y_BCTHW: Tensor,
    bias_C: Tensor,
    *,
    residual_BCTHW: Tensor | None = None,
    out_BCTHW: Tensor,
) -> None:
    """See `norm.add_bias`."""
    batch, channels, frames, height, width = y_BCTHW.shape
    block_p, block_c = blocks_of(channels)
    residual = y_BCTHW if residual_BCTHW is None else residual_BCTHW
    blocks = triton.cdiv(height * width, MAP_TILES * block_p)
    _add[(blocks, batch * frames, triton.cdiv(channels, block_c))](
        y_BCTHW,
        bias_C,
        residual,
        out_BCTHW,
        frames,
        channels,
        height * width,
        width,
        *y_BCTHW.stride(),
        *residual.stride(),
        *out_BCTHW.stride(),
        HAS_RESIDUAL=residual_BCTHW is not None,
        TILES=MAP_TILES,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )


def blocks_of(channels: int) -> tuple[int, int]:
    """Pixels and channels of a tile; a tile is as wide as the channels, which lie side by side."""
    block_c = min(MAX_BLOCK_C, triton.next_power_of_2(channels))
    return max(1, TILE_ELEMENTS // block_c), block_c
