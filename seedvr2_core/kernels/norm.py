"""Group norm over single frames with SiLU, and the addition that closes a residual block.

Both take the bias of the convolution in front of them, which then needs no pass of its own.

Legend: B batch, C channels, T frames, H W pixels of the level, G groups.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.kernels.kernel import Cost, Kernel, num_bytes

CHUNK_ELEMENTS = 1 << 25
"""Elements that the reference normalises at once; this bounds its float32 copies to 0.4 GB."""


def _norm_silu(
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
    """Normalise every frame of every sample by the statistics of its own channel groups.

    Args:
        x_BCTHW: any floating dtype and layout; channels_last_3d is read without a copy.
        weight_C: scale.
        bias_C: shift.
        out_BCTHW: where to write, x's shape and dtype; may be a part of a larger buffer.
        input_bias_C: added to x first, not rounded between.
        num_groups: divides C.
        eps: added to the variance.
        silu: apply x * sigmoid(x) to the result.

    Numerics: statistics and the whole map in float32 (float64 for float64 input), rounded once.
    Frames never mix, so slicing in time changes nothing but the order of sums.
    """
    x_BTHWC, y_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1), out_BCTHW.permute(0, 2, 3, 4, 1)
    group_size = x_BCTHW.shape[1] // num_groups
    for frames, channels in _chunks(x_BCTHW.shape, group_size):
        part_BTHWC = _widened(x_BTHWC[:, frames, ..., channels], input_bias_C, channels)
        part_BTHWC = part_BTHWC - _group_mean(part_BTHWC, group_size)
        scale = _scale_of(part_BTHWC, weight_C[channels], eps, group_size)
        y_BTHWC[:, frames, ..., channels] = _mapped(part_BTHWC, scale, bias_C[channels], silu=silu)


def _norm_moments(
    x_BCTHW: Tensor,
    weight_C: Tensor,
    *,
    moments_F2C: Tensor,
    input_bias_C: Tensor | None = None,
    num_groups: int,
    eps: float,
) -> None:
    """The first half of `norm_silu`: what a channel of a whole frame subtracts, and its factor.

    Args:
        x_BCTHW: as for `norm_silu`.
        weight_C: likewise.
        moments_F2C: where to write, (B * T, 2, C): float32, or float64 for float64 input.
        input_bias_C: as for `norm_silu`.
        num_groups: likewise.
        eps: likewise.
    """
    x_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1)
    group_size = x_BCTHW.shape[1] // num_groups
    moments_BT2C = moments_F2C.unflatten(0, x_BTHWC.shape[:2])
    for frames, channels in _chunks(x_BCTHW.shape, group_size):
        part_BTHWC = _widened(x_BTHWC[:, frames, ..., channels], input_bias_C, channels)
        mean = _group_mean(part_BTHWC, group_size)
        part_BTHWC = part_BTHWC - mean
        scale = _scale_of(part_BTHWC, weight_C[channels], eps, group_size)
        moments_BT2C[:, frames, 0, channels] = mean[:, :, 0, 0]
        moments_BT2C[:, frames, 1, channels] = scale[:, :, 0, 0]


def _norm_rows(
    x_BCTHW: Tensor,
    moments_F2C: Tensor,
    bias_C: Tensor,
    *,
    out_BCTHW: Tensor,
    input_bias_C: Tensor | None = None,
    silu: bool,
) -> None:
    """The second half of `norm_silu`, of any rows of the frames; both halves give its bits.

    Args:
        x_BCTHW: some rows of the frames.
        moments_F2C: of the whole frames, from `norm_moments`.
        bias_C: as for `norm_silu`.
        out_BCTHW: likewise, for these rows.
        input_bias_C: likewise.
        silu: likewise.
    """
    x_BTHWC, y_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1), out_BCTHW.permute(0, 2, 3, 4, 1)
    moments_BT2C = moments_F2C.unflatten(0, x_BTHWC.shape[:2])
    for frames, channels in _chunks(x_BCTHW.shape, 1):
        part_BTHWC = _widened(x_BTHWC[:, frames, ..., channels], input_bias_C, channels)
        own_BT2C = moments_BT2C[:, frames, :, channels]
        mean, scale = (own_BT2C[:, :, i, None, None] for i in range(2))
        part_BTHWC = part_BTHWC - mean
        y_BTHWC[:, frames, ..., channels] = _mapped(part_BTHWC, scale, bias_C[channels], silu=silu)


def _widened(x_BTHWC: Tensor, input_bias_C: Tensor | None, channels: slice) -> Tensor:
    """In float32 (float64 stays), with the bias; half precision cannot hold sums over millions of
    pixels."""
    wide = torch.float64 if x_BTHWC.dtype == torch.float64 else torch.float32
    x_BTHWC = x_BTHWC.to(wide)
    return x_BTHWC if input_bias_C is None else x_BTHWC + input_bias_C[channels].to(wide)


def _scale_of(centred_BTHWC: Tensor, weight_C: Tensor, eps: float, group_size: int) -> Tensor:
    """[B, T, 1, 1, C]: what each channel is multiplied by."""
    variance = _group_mean(centred_BTHWC.square(), group_size)
    return torch.rsqrt(variance + eps) * weight_C.to(centred_BTHWC.dtype)


def _mapped(centred_BTHWC: Tensor, scale: Tensor, bias_C: Tensor, *, silu: bool) -> Tensor:
    """In place."""
    centred_BTHWC.mul_(scale).add_(bias_C.to(centred_BTHWC.dtype))
    return F.silu(centred_BTHWC, inplace=True) if silu else centred_BTHWC


def _group_mean(x_BTHWC: Tensor, group_size: int) -> Tensor:
    """[B, T, 1, 1, C]: each channel's group mean over its frame."""
    height, width = x_BTHWC.shape[2:4]
    sum_BTGK = x_BTHWC.sum(dim=(2, 3)).unflatten(-1, (-1, group_size))
    mean_BTG1 = sum_BTGK.sum(dim=-1, keepdim=True) / (height * width * group_size)
    return mean_BTG1.expand_as(sum_BTGK).flatten(2)[:, :, None, None, :]


def _chunks(shape: torch.Size, group_size: int) -> Iterator[tuple[slice, slice]]:
    """(frames, channels) ranges of at most CHUNK_ELEMENTS where whole groups of a frame allow."""
    batch, channels, frames, height, width = shape
    plane = batch * height * width
    frame_step = max(1, CHUNK_ELEMENTS // (plane * channels))
    channel_step = max(1, CHUNK_ELEMENTS // (plane * frame_step * group_size)) * group_size
    for frame in range(0, frames, frame_step):
        for channel in range(0, channels, channel_step):
            yield slice(frame, frame + frame_step), slice(channel, channel + channel_step)


def _norm_silu_cost(
    x_BCTHW: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    *,
    out_BCTHW: Tensor,
    input_bias_C: Tensor | None = None,
    num_groups: int,
    eps: float,
    silu: bool,
) -> Cost:
    """Once for the statistics, once for the map; the sums between are small beside a frame."""
    vectors = num_bytes(weight_C, bias_C, input_bias_C)
    return Cost(
        read=2 * num_bytes(x_BCTHW) + vectors,
        written=num_bytes(out_BCTHW),
        launches=3,
    )


def _norm_moments_cost(
    x_BCTHW: Tensor,
    weight_C: Tensor,
    *,
    moments_F2C: Tensor,
    input_bias_C: Tensor | None = None,
    num_groups: int,
    eps: float,
) -> Cost:
    return Cost(
        read=num_bytes(x_BCTHW, weight_C, input_bias_C),
        written=num_bytes(moments_F2C),
        launches=2,
    )


def _norm_rows_cost(
    x_BCTHW: Tensor,
    moments_F2C: Tensor,
    bias_C: Tensor,
    *,
    out_BCTHW: Tensor,
    input_bias_C: Tensor | None = None,
    silu: bool,
) -> Cost:
    read = num_bytes(x_BCTHW, moments_F2C, bias_C, input_bias_C)
    return Cost(read=read, written=num_bytes(out_BCTHW))


def _add_bias(
    y_BCTHW: Tensor,
    bias_C: Tensor,
    *,
    residual_BCTHW: Tensor | None = None,
    out_BCTHW: Tensor,
) -> None:
    """out = y + bias + residual, in float32 (float64 stays), rounded once.

    Args:
        y_BCTHW: what a convolution made without its bias; any layout.
        bias_C: of every dtype, so that a sum of biases need not be rounded.
        residual_BCTHW: of y's shape and dtype; None: nothing.
        out_BCTHW: of y's shape and dtype; may be y itself.
    """
    wide = torch.float64 if y_BCTHW.dtype == torch.float64 else torch.float32
    bias_C111 = bias_C.to(wide)[:, None, None, None]
    for frame in range(y_BCTHW.shape[2]):
        sum_BC1HW = y_BCTHW[:, :, frame : frame + 1].to(wide) + bias_C111
        if residual_BCTHW is not None:
            sum_BC1HW += residual_BCTHW[:, :, frame : frame + 1].to(wide)
        out_BCTHW[:, :, frame : frame + 1] = sum_BC1HW


def _add_bias_cost(
    y_BCTHW: Tensor,
    bias_C: Tensor,
    *,
    residual_BCTHW: Tensor | None = None,
    out_BCTHW: Tensor,
) -> Cost:
    return Cost(read=num_bytes(y_BCTHW, bias_C, residual_BCTHW), written=num_bytes(out_BCTHW))


norm_silu = Kernel(_norm_silu, cost=_norm_silu_cost)
norm_moments = Kernel(_norm_moments, cost=_norm_moments_cost)
norm_rows = Kernel(_norm_rows, cost=_norm_rows_cost)
add_bias = Kernel(_add_bias, cost=_add_bias_cost)
