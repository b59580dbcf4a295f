"""Group norm over single frames, in float32, with SiLU on the way out.

Legend: B batch, C channels, T frames, H W pixels of the level, G groups.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_core.vae.conv import LAYOUT

CHUNK_ELEMENTS = 1 << 25
"""Elements normalised at once; this bounds the float32 copies to about 0.4 GB."""


def frame_group_norm(
    x_BCTHW: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    *,
    num_groups: int,
    eps: float,
    silu: bool = False,
    out_BCTHW: Tensor | None = None,
) -> Tensor:
    """Normalise every frame of every sample by the statistics of its own channel groups.

    Args:
        x_BCTHW: any floating dtype and layout; channels_last_3d is read without a copy.
        weight_C: scale.
        bias_C: shift.
        num_groups: divides C.
        eps: added to the variance.
        silu: apply x * sigmoid(x) to the result.
        out_BCTHW: where to write; None allocates in channels_last_3d.

    Returns:
        [B, C, T, H, W] of x's dtype: out_BCTHW where given.

    Numerics: statistics in two passes and the whole map in float32 (float64 for float64 input),
    rounded once. Frames never mix, so slicing in time changes nothing but the order of sums.
    """
    # Half precision cannot hold sums over millions of pixels.
    wide = torch.float64 if x_BCTHW.dtype == torch.float64 else torch.float32
    y_BCTHW = torch.empty_like(x_BCTHW, memory_format=LAYOUT) if out_BCTHW is None else out_BCTHW
    x_BTHWC, y_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1), y_BCTHW.permute(0, 2, 3, 4, 1)
    group_size = x_BCTHW.shape[1] // num_groups
    for frames, channels in _chunks(x_BCTHW.shape, group_size):
        part_BTHWC = x_BTHWC[:, frames, ..., channels].to(wide)
        part_BTHWC = part_BTHWC - _group_mean(part_BTHWC, group_size)
        variance = _group_mean(part_BTHWC.square(), group_size)
        scale = torch.rsqrt(variance + eps) * weight_C[channels].to(wide)
        part_BTHWC.mul_(scale).add_(bias_C[channels].to(wide))
        if silu:
            F.silu(part_BTHWC, inplace=True)
        y_BTHWC[:, frames, ..., channels] = part_BTHWC
    return y_BCTHW


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


class FrameGroupNorm(nn.Module):
    """`frame_group_norm` with its weights."""

    def __init__(self, channels: int, *, num_groups: int, eps: float) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, x_BCTHW: Tensor, *, silu: bool = False, out_BCTHW: Tensor | None = None
    ) -> Tensor:
        """See `frame_group_norm`."""
        return frame_group_norm(
            x_BCTHW,
            self.weight,
            self.bias,
            num_groups=self.num_groups,
            eps=self.eps,
            silu=silu,
            out_BCTHW=out_BCTHW,
        )


class NormSiLU:
    """A `Prologue`: the norm, then SiLU, written into a conv's input buffer."""

    def __init__(self, norm: FrameGroupNorm) -> None:
        self._norm = norm

    def __call__(self, x_BCTHW: Tensor, *, out_BCTHW: Tensor) -> Tensor:
        return self._norm(x_BCTHW, silu=True, out_BCTHW=out_BCTHW)
