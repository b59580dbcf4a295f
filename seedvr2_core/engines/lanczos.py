"""Lanczos-3 resize, and the engine "lanczos": the baseline that every other engine has to beat.

`lanczos_resize` resizes float tensors on any device, one axis after the other. Resizing an axis is
a product with a banded matrix. The rows of the matrix are cut into blocks, and each block is one
small dense product with the slice of the input that it depends on.

8-bit frames on the CPU go through torch's own integer kernel of the same filter (torch >= 2.13).
From 480p to 720p it takes 2 ms of one thread, where the float path takes 8; its result is within
two levels of the float path's.

Shape legend: B batch, C channels, H W pixels, P planes (every leading axis folded), R rows of all
planes.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_core.beat import Beat
from seedvr2_core.engines.per_frame import PerFrameSession, rgb_to_unit, unit_to_rgb
from seedvr2_core.frames import host_tensor
from seedvr2_core.planning import Plan

LOBES = 3
BLOCK = 32
"""Outputs of a dense block. Smaller blocks need more calls, larger ones multiply more zeros; this
size was the fastest when measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    """Outputs [out_start, out_stop) of one axis, computed from inputs [in_start, in_stop)."""

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int
    weights: Tensor
    """[out_stop - out_start, in_stop - in_start] float32; every row sums to 1."""


@functools.lru_cache(maxsize=32)
def _bands(size_in: int, size_out: int, device: torch.device) -> tuple[_Band, ...]:
    """The banded matrix that resizes an axis; made once for each pair of sizes.

    Pixel centres lie at half integers. To shrink, the filter is stretched by the ratio, which
    prevents aliasing. At the edges, only taps inside the picture count, and their weights are
    scaled to a sum of 1.
    """
    step = size_in / size_out
    stretch = max(1.0, step)
    bands = []
    for start in range(0, size_out, BLOCK):
        stop = min(start + BLOCK, size_out)
        center = (np.arange(start, stop) + 0.5) * step - 0.5
        lo = max(0, math.ceil(center[0] - LOBES * stretch))
        hi = min(size_in, math.floor(center[-1] + LOBES * stretch) + 1)
        t = (np.arange(lo, hi)[None, :] - center[:, None]) / stretch
        weights = np.where(np.abs(t) < LOBES, np.sinc(t) * np.sinc(t / LOBES), 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        tensor = torch.from_numpy(weights.astype(np.float32)).to(device)
        bands.append(_Band(out_start=start, out_stop=stop, in_start=lo, in_stop=hi, weights=tensor))
    return tuple(bands)


def _resize_width(x_PHW: Tensor, width: int) -> Tensor:
    """Resize every row of every plane: [P, H, W] -> [P, H, width]."""
    planes, height, width_in = x_PHW.shape
    x_RW = x_PHW.reshape(planes * height, width_in)
    out_RW = x_RW.new_empty(planes * height, width)
    for band in _bands(width_in, width, x_RW.device):
        source = x_RW[:, band.in_start : band.in_stop]
        torch.mm(source, band.weights.t(), out=out_RW[:, band.out_start : band.out_stop])
    return out_RW.view(planes, height, width)


def _resize_height(x_PHW: Tensor, height: int) -> Tensor:
    """Resize every column of every plane: [P, H, W] -> [P, height, W]."""
    planes, height_in, width = x_PHW.shape
    out_PHW = x_PHW.new_empty(planes, height, width)
    for band in _bands(height_in, height, x_PHW.device):
        for x_HW, out_HW in zip(x_PHW, out_PHW, strict=True):
            source = x_HW[band.in_start : band.in_stop]
            torch.mm(band.weights, source, out=out_HW[band.out_start : band.out_stop])
    return out_PHW


def lanczos_resize(x_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Resize the last two axes, without aliasing where they shrink; computes no gradient.

    Args:
        x_BCHW: [..., H, W] float32, any range; any number of leading axes, so [C, H, W] too.
        height: rows of the result, >= 1.
        width: columns of the result, >= 1.

    Returns:
        [..., height, width] float32; may overshoot the input's range at sharp edges. The input
        itself if the size is already right.
    """
    *lead, height_in, width_in = x_BCHW.shape
    out_PHW = x_BCHW.detach().reshape(-1, height_in, width_in)
    axes = [(height_in, height, _resize_height), (width_in, width, _resize_width)]
    if height_in * width < height * width_in:  # the axis that leaves fewer pixels goes first
        axes.reverse()
    for size_in, size_out, resize_axis in axes:
        if size_in != size_out:
            out_PHW = resize_axis(out_PHW, size_out)
    return out_PHW.reshape(*lead, height, width)


@torch.inference_mode()
def resize_rgb(rgb: np.ndarray, *, height: int, width: int, device: str = "cpu") -> np.ndarray:
    """Resize one picture; the result is rounded and clamped.

    Args:
        rgb: (H, W, 3), uint8 or uint16, any strides.
        height: rows of the result.
        width: columns of the result.
        device: torch device for the float path, which all but 8-bit pictures on the CPU take.

    Returns:
        (height, width, 3) of the same dtype; `rgb` itself if the size is already right.
    """
    if rgb.shape[:2] == (height, width):
        return rgb
    if rgb.dtype == np.uint8 and device == "cpu":
        x_BCHW = host_tensor(rgb)[None].permute(0, 3, 1, 2)  # channels last: the kernel's fast form
        out_BCHW = F.interpolate(x_BCHW, (height, width), mode="lanczos", antialias=True)
        return out_BCHW[0].permute(1, 2, 0).contiguous().numpy()
    with _one_thread(device):
        resized_BCHW = lanczos_resize(rgb_to_unit(rgb, device), height, width)
        return unit_to_rgb(resized_BCHW, rgb.dtype)


@torch.inference_mode()
def resize_plane(plane: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Resize one plane, such as alpha, on the CPU; the result is rounded and clamped.

    Args:
        plane: (H, W), uint8 or uint16, any strides.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (height, width) of the same dtype; `plane` itself if the size is already right.
    """
    if plane.shape == (height, width):
        return plane
    levels = torch.from_numpy(plane.astype(np.float32))
    with _one_thread("cpu"):
        resized = lanczos_resize(levels, height, width).round_()
    return resized.clamp_(0, int(np.iinfo(plane.dtype).max)).numpy().astype(plane.dtype)


@contextlib.contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """On the CPU, let torch use the calling thread alone for the length of a `with` block.

    Its threads wait for each other by spinning. Beside an encoder that keeps all cores busy, one
    that has no core lets the others burn theirs: a 720p picture took 100 to 300 ms of CPU instead
    of 8. No sum is split between threads, so the bits are the same.
    """
    before = torch.get_num_threads()
    if device != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_session(
    plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None = None
) -> PerFrameSession:
    """A session that resizes every frame to the plan's size (see `protocol.EngineModule`)."""
    resize = functools.partial(resize_rgb, height=plan.height, width=plan.width, device=device)
    return PerFrameSession(resize, beat=beat)
