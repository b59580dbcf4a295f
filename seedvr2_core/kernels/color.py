"""Wavelet colour and rounding of a frame, as one kernel of two passes.

A chain of blurs with kernels [1, 2, 1] / 4 of growing dilation, each of which repeats the edge, is
linear in each axis by itself. So it is a band of weights for each row and for each column, which is
made once for a size: the chain of passes over the picture becomes one pass along each axis.

Shape legend: C = 3 channels in R, G, B order, H W pixels, T taps of a band.
"""

import functools

import torch
from torch import Tensor

from seedvr2_core.frames import CB_RANGE, CR_RANGE, LUMA_WEIGHTS
from seedvr2_core.kernels.kernel import Cost, Kernel, num_bytes

_WHITE = {torch.uint8: 255, torch.uint16: 65535}


def blur_band(length: int, radii: tuple[int, ...]) -> Tensor:
    """The chain of blurs along an axis: float32 (length, T) with T = 2 sum(radii) + 1.

    Place x of the result is the sum over taps t of band[x, t] times place x + t - sum(radii) of the
    input; taps beyond the edges are 0, as what they would read is in those at the edge.
    """
    reach = sum(radii)
    place, taps = torch.arange(length)[:, None], torch.arange(2 * reach + 1)[None]
    band = torch.zeros((length, 2 * reach + 1), dtype=torch.float64)
    band[:, reach] = 1
    for radius in radii:
        wider = 0.5 * band
        for step in (-radius, radius):
            # What the place a step away was made of, seen from here.
            other = (place + step).clamp(0, length - 1)
            target = (taps + other - place).expand_as(band)
            inside = (target >= 0) & (target < band.shape[1])
            moved = 0.25 * band[other[:, 0]]
            wider.scatter_add_(1, torch.where(inside, target, 0), torch.where(inside, moved, 0.0))
        band = wider
    return band.float()


def _cost(
    out_HWC: Tensor,
    c_CHW: Tensor,
    s_CHW: Tensor,
    low_CHW: Tensor,
    bands_y: tuple[Tensor, Tensor],
    bands_x: tuple[Tensor, Tensor],
) -> Cost:
    return Cost(
        read=num_bytes(c_CHW, s_CHW, low_CHW, c_CHW, *bands_y, *bands_x),
        written=num_bytes(low_CHW, out_HWC),
        launches=2,
    )


@functools.partial(Kernel, cost=_cost)
def wavelet_color(
    out_HWC: Tensor,
    c_CHW: Tensor,
    s_CHW: Tensor,
    low_CHW: Tensor,
    bands_y: tuple[Tensor, Tensor],
    bands_x: tuple[Tensor, Tensor],
) -> None:
    """Take the low frequencies from the source, then round to integers.

    Args:
        out_HWC: written; uint8 or uint16 over their full range, or a floating dtype, which is
            neither clamped nor rounded. Contiguous.
        c_CHW: restored frame, float32 about [-1, 1]; any strides.
        s_CHW: source frame at the same size, float32; contiguous.
        low_CHW: float32 scratch of the same shape; contiguous.
        bands_y: of luma and of chroma, from `blur_band`, for the rows.
        bands_x: for the columns.
    """
    r, g, b = (s_CHW - c_CHW).unbind(0)
    luma = LUMA_WEIGHTS[0] * r + LUMA_WEIGHTS[1] * g + LUMA_WEIGHTS[2] * b
    parts = (luma, (b - luma) / CB_RANGE, (r - luma) / CR_RANGE)
    for low_HW, part_HW, place in zip(low_CHW, parts, (0, 1, 1), strict=True):
        low_HW.copy_(_banded(_banded(part_HW, bands_y[place]).T, bands_x[place]).T)
    y, cb, cr = low_CHW.unbind(0)
    low_r, low_b = y + CR_RANGE * cr, y + CB_RANGE * cb
    low_g = (y - LUMA_WEIGHTS[0] * low_r - LUMA_WEIGHTS[2] * low_b) / LUMA_WEIGHTS[1]
    x_HWC = (c_CHW + torch.stack([low_r, low_g, low_b])).permute(1, 2, 0)
    if not out_HWC.is_floating_point():
        white = _WHITE[out_HWC.dtype]
        x_HWC = x_HWC.clamp(-1, 1).add_(1).mul_(white / 2).round_()
    out_HWC.copy_(x_HWC)


def _banded(x_HW: Tensor, band_HT: Tensor) -> Tensor:
    """The band along the first axis."""
    height, taps = band_HT.shape
    place_HT = torch.arange(height, device=x_HW.device)[:, None] - taps // 2
    place_HT = (place_HT + torch.arange(taps, device=x_HW.device)).clamp(0, height - 1)
    out_HW = torch.zeros_like(x_HW)
    for tap in range(taps):
        out_HW += band_HT[:, tap, None].to(x_HW.dtype) * x_HW[place_HT[:, tap]]
    return out_HW
