"""`norm.py` in Triton. Statistics take three steps: sums of parts of a frame, which are joined in a
fixed order, then the map. So a frame's bits depend neither on its neighbours nor on the launch.

Legend: B batch, C channels, T frames, H W pixels, F = B*T frames, S parts of a frame, K channels of
a group.
"""

# Triton's stubs do not know that it turns plain numbers into compile-time constants at a launch.
# pyright: reportArgumentType=false, reportReturnType=false, reportCallIssue=false

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from seedvr2_core.kernels.add_triton import MAP_TILES, add_bias, blocks_of, offsets

__all__ = ["add_bias", "norm_moments", "norm_rows", "norm_silu"]

MAX_PARTS = 512
"""Parts of a frame: with one frame four programs for every multiprocessor, whose loads together
keep the memory busy."""
MIN_TILES = 4
JOIN_PARTS, JOIN_CHANNELS = 64, 16


@triton.jit
def _part_sums(
    x,
    sums_FS2C,
    frames,
    channels,
    pixels,
    width,
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    num_parts,
    TILES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean and sum of squared differences of each channel over a part of a frame."""
    part, frame = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    base = (frame // frames).to(tl.int64) * stride_b + (frame % frames).to(tl.int64) * stride_t
    along_c = channel.to(tl.int64)[None, :] * stride_c
    first = part * (TILES * BLOCK_P)
    inside_c = channel[None, :] < channels
    # The first tile's mean is close to the part's: sums of differences from it lose no digits.
    pixel = first + tl.arange(0, BLOCK_P)
    mask = (pixel[:, None] < pixels) & inside_c
    places = x + base + offsets(pixel, width, stride_h, stride_w)[:, None] + along_c
    tile = tl.load(places, mask=mask, other=0.0).to(tl.float32)
    center = tl.sum(tile, axis=0) / tl.minimum(BLOCK_P, pixels - first)
    sum_PC = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    square_PC = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(TILES):
        pixel = first + step * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (pixel[:, None] < pixels) & inside_c
        places = x + base + offsets(pixel, width, stride_h, stride_w)[:, None] + along_c
        tile = tl.load(places, mask=mask, other=0.0).to(tl.float32)
        tile = tl.where(mask, tile - center[None, :], 0.0)
        sum_PC += tile
        square_PC += tile * tile
    count = tl.minimum(TILES * BLOCK_P, pixels - first).to(tl.float32)
    sum_C = tl.sum(sum_PC, axis=0)
    out = sums_FS2C + (frame * num_parts + part).to(tl.int64) * 2 * channels + channel
    tl.store(out, center + sum_C / count, mask=channel < channels)
    squares = tl.maximum(tl.sum(square_PC, axis=0) - sum_C * sum_C / count, 0.0)
    tl.store(out + channels, squares, mask=channel < channels)


@triton.jit
def _bias_of(input_bias, channel, mask, HAS_BIAS: tl.constexpr, BLOCK_K: tl.constexpr):
    """What is added to some channels first: (K,) float32."""
    bias = tl.zeros((BLOCK_K,), tl.float32)
    if HAS_BIAS:
        bias = tl.load(input_bias + channel, mask=mask, other=0.0).to(tl.float32)
    return bias


@triton.jit
def _places_of(
    sums,
    start,
    channel,
    in_group,
    channels,
    pixels,
    part_pixels,
    num_parts,
    BLOCK_S: tl.constexpr,
):
    """Where the means of parts of a frame lie: (S, K), the parts' pixels (S,), and which exist."""
    part = start + tl.arange(0, BLOCK_S)
    count = tl.minimum(part_pixels, pixels - part * part_pixels).to(tl.float32)
    mask = (part < num_parts)[:, None] & in_group[None, :]
    return sums + part[:, None] * 2 * channels + channel[None, :], count, mask


@triton.jit
def _join_parts(
    sums_FS2C,
    weight,
    input_bias,
    map_F2C,
    channels,
    group_size,
    pixels,
    part_pixels,
    num_parts,
    eps,
    HAS_BIAS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Mean and variance of a group -> what its channels subtract (after the bias) and multiply."""
    frame, group = tl.program_id(0), tl.program_id(1)
    sums = sums_FS2C + frame.to(tl.int64) * num_parts * 2 * channels
    out = map_F2C + frame.to(tl.int64) * 2 * channels
    total = pixels * 1.0 * group_size
    mean = 0.0
    for first in range(0, group_size, BLOCK_K):
        inside = first + tl.arange(0, BLOCK_K)
        ours = inside < group_size
        channel = group * group_size + inside
        bias = _bias_of(input_bias, channel, ours, HAS_BIAS, BLOCK_K)
        for start in range(0, num_parts, BLOCK_S):
            places, count, mask = _places_of(
                sums, start, channel, ours, channels, pixels, part_pixels, num_parts, BLOCK_S
            )
            means = tl.load(places, mask=mask, other=0.0) + bias[None, :]
            mean += tl.sum(tl.where(mask, means * (count[:, None] / total), 0.0))
    squares = 0.0
    for first in range(0, group_size, BLOCK_K):
        inside = first + tl.arange(0, BLOCK_K)
        ours = inside < group_size
        channel = group * group_size + inside
        bias = _bias_of(input_bias, channel, ours, HAS_BIAS, BLOCK_K)
        for start in range(0, num_parts, BLOCK_S):
            places, count, mask = _places_of(
                sums, start, channel, ours, channels, pixels, part_pixels, num_parts, BLOCK_S
            )
            away = tl.load(places, mask=mask, other=0.0) + bias[None, :] - mean
            own = tl.load(places + channels, mask=mask, other=0.0)
            squares += tl.sum(tl.where(mask, (own + count[:, None] * away * away) / total, 0.0))
    scale = 1.0 / tl.sqrt(squares + eps)
    for first in range(0, group_size, BLOCK_K):
        inside = first + tl.arange(0, BLOCK_K)
        channel = group * group_size + inside
        mask = inside < group_size
        tl.store(out + channel, tl.zeros((BLOCK_K,), tl.float32) + mean, mask=mask)
        factor = tl.load(weight + channel, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + channels + channel, scale * factor, mask=mask)


@triton.jit
def _map(
    x,
    y,
    map_F2C,
    shift_C,
    input_bias,
    frames,
    channels,
    pixels,
    width,
    x_stride_b,
    x_stride_c,
    x_stride_t,
    x_stride_h,
    x_stride_w,
    y_stride_b,
    y_stride_c,
    y_stride_t,
    y_stride_h,
    y_stride_w,
    HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """y = silu((x + bias - mean) * scale + shift)."""
    frame = tl.program_id(1)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channel < channels
    sample, time = (frame // frames).to(tl.int64), (frame % frames).to(tl.int64)
    x_base = x + sample * x_stride_b + time * x_stride_t
    y_base = y + sample * y_stride_b + time * y_stride_t
    along_c = channel.to(tl.int64)[None, :]
    own = map_F2C + frame.to(tl.int64) * 2 * channels + channel
    mean = tl.load(own, mask=inside_c, other=0.0)[None, :]
    scale = tl.load(own + channels, mask=inside_c, other=0.0)[None, :]
    shift = tl.load(shift_C + channel, mask=inside_c, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        bias = tl.load(input_bias + channel, mask=inside_c, other=0.0).to(tl.float32)[None, :]
    for step in range(TILES):
        pixel = (tl.program_id(0) * TILES + step) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (pixel[:, None] < pixels) & inside_c[None, :]
        x_pixel = offsets(pixel, width, x_stride_h, x_stride_w)[:, None]
        tile = tl.load(x_base + x_pixel + along_c * x_stride_c, mask=mask, other=0.0)
        tile = tile.to(tl.float32)
        if HAS_BIAS:
            tile += bias
        tile = (tile - mean) * scale + shift
        if SILU:
            tile = tile / (1.0 + tl.exp(-tile))
        y_pixel = offsets(pixel, width, y_stride_h, y_stride_w)[:, None]
        place = y_base + y_pixel + along_c * y_stride_c
        tl.store(place, tile.to(y.dtype.element_ty), mask=mask)


def norm_silu(
    x_BCTHW: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    *,
    out_BCTHW: Tensor,
    input_bias_C: Tensor | None = None,
    num_groups: int,
    eps: float,
    silu: bool,
) -> None:
    """See `norm.norm_silu`."""
    total = x_BCTHW.shape[0] * x_BCTHW.shape[2]
    size = (total, 2, x_BCTHW.shape[1])
    map_F2C = torch.empty(size, dtype=torch.float32, device=x_BCTHW.device)
    how = {"input_bias_C": input_bias_C}
    norm_moments(x_BCTHW, weight_C, moments_F2C=map_F2C, num_groups=num_groups, eps=eps, **how)
    norm_rows(x_BCTHW, map_F2C, bias_C, out_BCTHW=out_BCTHW, silu=silu, **how)


def norm_moments(
    x_BCTHW: Tensor,
    weight_C: Tensor,
    *,
    moments_F2C: Tensor,
    input_bias_C: Tensor | None = None,
    num_groups: int,
    eps: float,
) -> None:
    """See `norm.norm_moments`."""
    batch, channels, frames, height, width = x_BCTHW.shape
    pixels, total = height * width, batch * frames
    block_p, block_c = blocks_of(channels)
    tiles = max(MIN_TILES, triton.cdiv(triton.cdiv(pixels, block_p), MAX_PARTS))
    parts = triton.cdiv(pixels, tiles * block_p)
    size = (total, parts, 2, channels)
    sums_FS2C = torch.empty(size, dtype=torch.float32, device=x_BCTHW.device)
    _part_sums[(parts, total, triton.cdiv(channels, block_c))](
        x_BCTHW,
        sums_FS2C,
        frames,
        channels,
        pixels,
        width,
        *x_BCTHW.stride(),
        parts,
        TILES=tiles,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    _join_parts[(total, num_groups)](
        sums_FS2C,
        weight_C,
        weight_C if input_bias_C is None else input_bias_C,
        moments_F2C,
        channels,
        channels // num_groups,
        pixels,
        tiles * block_p,
        parts,
        eps,
        HAS_BIAS=input_bias_C is not None,
        BLOCK_S=JOIN_PARTS,
        BLOCK_K=JOIN_CHANNELS,
    )


def norm_rows(
    x_BCTHW: Tensor,
    moments_F2C: Tensor,
    bias_C: Tensor,
    *,
    out_BCTHW: Tensor,
    input_bias_C: Tensor | None = None,
    silu: bool,
) -> None:
    """See `norm.norm_rows`."""
    batch, channels, frames, height, width = x_BCTHW.shape
    pixels = height * width
    block_p, block_c = blocks_of(channels)
    blocks = triton.cdiv(pixels, MAP_TILES * block_p)
    _map[(blocks, batch * frames, triton.cdiv(channels, block_c))](
        x_BCTHW,
        out_BCTHW,
        moments_F2C,
        bias_C,
        bias_C if input_bias_C is None else input_bias_C,
        frames,
        channels,
        pixels,
        width,
        *x_BCTHW.stride(),
        *out_BCTHW.stride(),
        HAS_BIAS=input_bias_C is not None,
        SILU=silu,
        TILES=MAP_TILES,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
