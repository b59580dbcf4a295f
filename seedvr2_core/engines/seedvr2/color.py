"""Gives restored frames the colour of their source, because the model drifts in hue and brightness.

The wavelet methods take the low frequencies from the source and keep the restored detail. The blur
B is linear, so (c - B c) + B s = c + B (s - c), and one blur, that of the difference, is enough.

Shape legend: T frames, C = 3 channels in R, G, B order, H W pixels; c content (restored),
s style (source). Everything is float32 in [-1, 1] before and may leave that range after.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.frames import CB_RANGE, CR_RANGE, LUMA_WEIGHTS

ColorMethod = Literal["wavelet", "wavelet_rgb", "lab", "adain", "none"]

LUMA_STAGES = 5
CHROMA_STAGES = 3
RGB_STAGES = 5
_LAB_LUMA_KEPT = 0.8
_VARIANCE_FLOOR = 1e-5

_RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_XYZ_TO_RGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
_WHITE_XYZ = (0.95047, 1.0, 1.08883)
_LAB_EPSILON = 6 / 29
_LAB_KAPPA = (29 / 3) ** 3


def check_method(method: str) -> None:
    """Refuse an unknown colour method.

    Raises:
        InvalidRequestError: the method is unknown; the message lists the known ones.
    """
    if method not in get_args(ColorMethod):
        raise InvalidRequestError(
            f"unknown colour method {method!r}; choose one of: {', '.join(get_args(ColorMethod))}"
        )


def needs_whole_shot(method: str) -> bool:
    """Whether the method needs all frames of a shot at once; the others work frame by frame."""
    return method == "lab"


def transfer_color(content_TCHW: Tensor, style_TCHW: Tensor, method: ColorMethod) -> Tensor:
    """Give the restored frames the colour of the source frames.

    Args:
        content_TCHW: restored frames, float32 (T, 3, H, W); with "lab" all frames of the shot.
        style_TCHW: source frames resized to the same size, same shape and device.
        method: wavelet: two-scale split in Y'CbCr (luma below 13 px, chroma below about 3 px from
            the source); wavelet_rgb: five scales of R'G'B'; adain: mean and deviation of each
            frame; lab: histograms of the whole shot; none: nothing.

    Returns:
        Float32, same shape, not clamped (lab: within [-1, 1]).

    Raises:
        InvalidRequestError: unknown method.
        ValueError: shapes differ.
    """
    check_method(method)
    if content_TCHW.shape != style_TCHW.shape:
        raise ValueError(
            f"restored and source frames must have one shape, got {tuple(content_TCHW.shape)} and "
            f"{tuple(style_TCHW.shape)}; crop the padding and resize the source first"
        )
    content_TCHW, style_TCHW = content_TCHW.float(), style_TCHW.float()
    if method == "none":
        return content_TCHW
    if method == "lab":
        return _lab(content_TCHW, style_TCHW)
    by_frame = {"wavelet": wavelet_split, "wavelet_rgb": wavelet_rgb, "adain": _adain}[method]
    out_TCHW = torch.empty_like(content_TCHW)
    for out_CHW, c_CHW, s_CHW in zip(out_TCHW, content_TCHW, style_TCHW, strict=True):
        out_CHW.copy_(by_frame(c_CHW, s_CHW))
    return out_TCHW


def toward_source(c_CHW: Tensor, s_CHW: Tensor, strength: float) -> Tensor:
    """Take a part of a restored frame's detail in luma from its source, band by band.

    The difference in luma is split by the wavelet's chain of blurs into `LUMA_STAGES` bands of
    detail. Of band k, counted from 0 at the finest, strength ** (1 + k / 4) of the restored one
    stays: structure comes from the source before texture does. What is coarser than all bands, and
    chroma, stay as they are. Every blur passes each frequency by 0 to 1, so with more strength no
    frequency comes nearer to the source (but for what is repeated at the edges).

    Args:
        c_CHW: restored frame, float32 in [-1, 1]; it is not changed.
        s_CHW: source frame of the same shape.
        strength: from 0, the source's detail, to 1, the restored one.
    """
    r, g, b = (s_CHW - c_CHW).unbind(0)
    wr, wg, wb = LUMA_WEIGHTS
    finer_1HW = (wr * r + wg * g + wb * b)[None]
    taken_1HW = torch.zeros_like(finer_1HW)
    for band, radius in enumerate(wavelet_radii(LUMA_STAGES)):
        coarser_1HW = blur(finer_1HW, [radius])
        taken_1HW.add_(finer_1HW.sub_(coarser_1HW), alpha=1 - strength ** (1 + band / 4))
        finer_1HW = coarser_1HW
    return c_CHW + taken_1HW


def blur(x_CHW: Tensor, radii: Sequence[int]) -> Tensor:
    """Blur with a chain of separable [1, 2, 1] / 4 kernels of these dilations; edges repeat."""
    for radius in radii:
        for axis in (-2, -1):
            x_CHW = _blur_axis(x_CHW, radius, axis)
    return x_CHW


def wavelet_radii(stages: int, *, limit: int | None = None) -> list[int]:
    """Dilations 1, 2, 4, ... of a chain, none above `limit`."""
    return [min(2**stage, limit or 2**stage) for stage in range(stages)]


def wavelet_rgb(c_CHW: Tensor, s_CHW: Tensor, *, limit: int | None = None) -> Tensor:
    """Five-scale split in R'G'B': c + B (s - c). Source: ByteDance SeedVR reference, colour fix."""
    return c_CHW + blur(s_CHW - c_CHW, wavelet_radii(RGB_STAGES, limit=limit))


def _blur_axis(x_CHW: Tensor, radius: int, axis: int) -> Tensor:
    length = x_CHW.shape[axis]
    sides = (0, 0, radius, radius) if axis == -2 else (radius, radius, 0, 0)
    padded = F.pad(x_CHW, sides, mode="replicate")
    out = x_CHW * 0.5
    out.add_(padded.narrow(axis, 0, length), alpha=0.25)
    return out.add_(padded.narrow(axis, 2 * radius, length), alpha=0.25)


def wavelet_split(
    c_CHW: Tensor,
    s_CHW: Tensor,
    *,
    luma_stages: int = LUMA_STAGES,
    chroma_stages: int = CHROMA_STAGES,
) -> Tensor:
    """Low frequencies of luma and of chroma from the source, over so many scales of each.

    Those of chroma are at most those of luma. `benchmarks/media/color_split.py` compares others.
    """
    r, g, b = (s_CHW - c_CHW).unbind(0)
    wr, wg, wb = LUMA_WEIGHTS
    luma = wr * r + wg * g + wb * b
    fine = torch.stack([luma, (b - luma) / CB_RANGE, (r - luma) / CR_RANGE])
    radii = wavelet_radii(luma_stages)
    low = blur(fine, radii[:chroma_stages])
    y = blur(low[:1], radii[chroma_stages:])[0]
    low_r, low_b = y + CR_RANGE * low[2], y + CB_RANGE * low[1]
    low_g = (y - wr * low_r - wb * low_b) / wg
    return c_CHW + torch.stack([low_r, low_g, low_b])


def _adain(c_CHW: Tensor, s_CHW: Tensor) -> Tensor:
    """Mean and standard deviation of each channel."""
    (c_mean, c_std), (s_mean, s_std) = _moments(c_CHW), _moments(s_CHW)
    return (c_CHW - c_mean) / c_std * s_std + s_mean


def _moments(x_CHW: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x_CHW, dim=(-2, -1), keepdim=True, correction=1)
    return mean, (variance + _VARIANCE_FLOOR).sqrt()


def _lab(content_TCHW: Tensor, style_TCHW: Tensor) -> Tensor:
    """Wavelet split, then histograms in CIELAB: chroma matched, luma by a fifth."""
    limit = max(1, min(content_TCHW.shape[-2:]) // 8)
    split = [wavelet_rgb(c, s, limit=limit) for c, s in zip(content_TCHW, style_TCHW, strict=True)]
    lab_TCHW = torch.stack([_rgb_to_lab(frame) for frame in split])
    del split
    for channel, kept in enumerate((_LAB_LUMA_KEPT, 0.0, 0.0)):
        style = torch.stack([_rgb_to_lab(frame)[channel] for frame in style_TCHW])
        content = lab_TCHW[:, channel]
        matched = rank_match(content, style)
        lab_TCHW[:, channel] = kept * content + (1 - kept) * matched
    return torch.stack([_lab_to_rgb(frame) for frame in lab_TCHW])


def rank_match(content: Tensor, style: Tensor) -> Tensor:
    """Exact histogram matching: the k-th smallest value becomes the k-th smallest of the style.

    With n values against m of the style, rank i takes the style's rank trunc(i/(n-1) * (m-1)).
    """
    values = style.flatten().sort().values
    if values.numel() != content.numel():
        ranks = torch.linspace(0, 1, content.numel(), device=content.device) * (values.numel() - 1)
        values = values[ranks.long()]
    order = content.flatten().argsort(stable=True)
    return torch.empty_like(values).scatter_(0, order, values).view(content.shape)


def _matrix(rows: Sequence[Sequence[float]], x_CHW: Tensor) -> Tensor:
    return torch.einsum("ij,jhw->ihw", x_CHW.new_tensor(rows), x_CHW)


def _rgb_to_lab(rgb_CHW: Tensor) -> Tensor:
    """[-1, 1] (clamped) R'G'B' to CIELAB."""
    coded = (rgb_CHW.clamp(-1, 1) + 1) / 2
    linear = torch.where(coded > 0.04045, ((coded + 0.055) / 1.055) ** 2.4, coded / 12.92)
    xyz = _matrix(_RGB_TO_XYZ, linear) / linear.new_tensor(_WHITE_XYZ)[:, None, None]
    f = torch.where(xyz > _LAB_EPSILON**3, xyz ** (1 / 3), (_LAB_KAPPA * xyz + 16) / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _lab_to_rgb(lab_CHW: Tensor) -> Tensor:
    """CIELAB to R'G'B' in [-1, 1] (clamped)."""
    fy = (lab_CHW[0] + 16) / 116
    f = torch.stack([fy + lab_CHW[1] / 500, fy, fy - lab_CHW[2] / 200])
    xyz = torch.where(f > _LAB_EPSILON, f**3, (116 * f - 16) / _LAB_KAPPA)
    linear = _matrix(_XYZ_TO_RGB, xyz * xyz.new_tensor(_WHITE_XYZ)[:, None, None])
    gamma = 1.055 * linear.clamp(min=0) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, gamma, 12.92 * linear).clamp(0, 1) * 2 - 1
