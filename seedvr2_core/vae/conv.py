"""The one place that calls a convolution kernel.

Legend: B batch, C channels, T frames, H W pixels; F = B*T single frames.
"""

import functools
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.kernels.devices import is_nvidia
from seedvr2_core.kernels.norm import add_bias
from seedvr2_core.kernels.switches import switches, takes_gpu_path

logger = logging.getLogger(__name__)

LAYOUT = torch.channels_last_3d
"""Memory layout of all weights and activations: channels innermost, so a frame is one block."""
CHANNEL_STEP = 8
"""Half-precision kernels on tensor cores take channels in these steps."""
MAX_ELEMENTS = 2**31 - 1
"""Most elements of a tensor that a kernel gets. For more, cuDNN needs 64-bit indices, which few of
its kernels have. A 4k frame at 256 channels, with the two before it, has three times as many."""
STRIP_ELEMENTS = 1 << 27
"""Most elements of a strip of rows of several frames on a GPU, which is a copy. Small ones are what
lets 2k run on 16 GB and 4k on 32; a strip of 45 rows at 4k still keeps a GPU busy."""
COPIED_SHARE = 4
"""On a GPU without cuDNN parts of a result are copied to their place. They are smaller by this
factor, so that input and result of one fit into what is reserved for convolutions."""


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def conv3d(
    x_BCTHW: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """`F.conv3d` without padding in time, its result always in channels_last_3d.

    Args:
        x_BCTHW: best in channels_last_3d.
        weight: [O, C, kt, kh, kw].
        bias: [O]; None: nothing is added.
        stride: in time, height, width.
        padding: zeros at both sides of height and width.

    Tensors beyond MAX_ELEMENTS are convolved some frames at a time, on a GPU, or in strips of rows;
    each part gets what it reads around it, so the result is the same up to the order of sums.
    """
    batch, _, frames, height, width = x_BCTHW.shape
    out_channels, _, *kernel = weight.shape
    out_frames = (frames - kernel[0]) // stride[0] + 1
    out_height = (height + 2 * padding[0] - kernel[1]) // stride[1] + 1
    out_width = (width + 2 * padding[1] - kernel[2]) // stride[2] + 1
    row_elements = max(
        x_BCTHW.numel() // height * stride[1], batch * out_channels * out_frames * out_width
    )
    if row_elements * (out_height + kernel[1]) <= MAX_ELEMENTS:
        return _convolve(x_BCTHW, weight, bias, stride=stride, padding=padding)
    y_BCTHW = torch.empty(
        (batch, out_channels, out_frames, out_height, out_width),
        dtype=x_BCTHW.dtype,
        device=x_BCTHW.device,
        memory_format=LAYOUT,
    )
    on_gpu = takes_gpu_path(x_BCTHW.device)
    most = (
        MAX_ELEMENTS // COPIED_SHARE if on_gpu and not _has_cudnn(x_BCTHW.device) else MAX_ELEMENTS
    )
    at_once = min(
        (most // (x_BCTHW.numel() // frames) - kernel[0]) // stride[0] + 1,
        most // (y_BCTHW.numel() // out_frames),
    )
    if at_once >= 1 and switches().split_frames and on_gpu:
        for start in range(0, out_frames, at_once):
            stop = min(start + at_once, out_frames)
            given_BCTHW = x_BCTHW[:, :, start * stride[0] : (stop - 1) * stride[0] + kernel[0]]
            convolve_into(
                y_BCTHW[:, :, start:stop], given_BCTHW, weight, bias, stride=stride, padding=padding
            )
        return y_BCTHW
    rows = max(1, (min(most, STRIP_ELEMENTS) if on_gpu else most) // row_elements - kernel[1])

    def cut(top: int, bottom: int) -> AbstractContextManager[Tensor]:
        return nullcontext(_cut(x_BCTHW, top, bottom))

    convolve_strips(y_BCTHW, cut, weight, bias, stride=stride, padding=padding, rows=rows)
    return y_BCTHW


def convolve_strips(
    y_BCTHW: Tensor,
    cut: Callable[[int, int], AbstractContextManager[Tensor]],
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int],
    rows: int,
) -> None:
    """As `conv3d` into `y_BCTHW`, so many rows of it at a time.

    Args:
        y_BCTHW: the result.
        cut: gives the input's rows from one to before another, zeros where there are none.
        weight: as for `conv3d`.
        bias: likewise.
        stride: likewise.
        padding: likewise.
        rows: of the result that a strip makes.
    """
    out_height, kernel_height = y_BCTHW.shape[3], weight.shape[3]
    for start in range(0, out_height, rows):
        stop = min(start + rows, out_height)
        top = start * stride[1] - padding[0]
        bottom = (stop - 1) * stride[1] - padding[0] + kernel_height
        with cut(top, bottom) as strip_BCTHW:
            convolve_into(
                y_BCTHW[..., start:stop, :],
                strip_BCTHW,
                weight,
                bias,
                stride=stride,
                padding=(0, padding[1]),
            )
        del strip_BCTHW  # before the next one is cut


def _cut(x_BCTHW: Tensor, top: int, bottom: int) -> Tensor:
    """Rows of a whole tensor; those outside it are zeros."""
    strip_BCTHW = x_BCTHW[..., max(0, top) : bottom, :]
    above, below = max(0, -top), max(0, bottom - x_BCTHW.shape[3])
    if above or below or not _is_block(strip_BCTHW):
        strip_BCTHW = F.pad(strip_BCTHW, (0, 0, above, below))
    return strip_BCTHW


def band_rows(x_BCTHW: Tensor, weight: Tensor) -> int:
    """Rows of a result that are made at once where single frames are worked in bands of rows
    (bands/rows.py); 0 where a frame is worked whole.

    They are those that `conv3d` takes of frames that are too large for one call, so the bits are
    the same there.

    Args:
        x_BCTHW: new frames; as many are made, and those before them are read as well.
        weight: of a convolution that keeps height and width.
    """
    batch, channels, frames, height, width = x_BCTHW.shape
    out_channels, _, taps, kernel_height, _ = weight.shape
    row_elements = batch * width * max(channels * (taps - 1 + frames), out_channels * frames)
    if channels % CHANNEL_STEP or row_elements * (height + kernel_height) <= STRIP_ELEMENTS:
        return 0
    return max(1, STRIP_ELEMENTS // row_elements - kernel_height)


def convolve_into(
    out_BCTHW: Tensor,
    x_BCTHW: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int],
) -> None:
    """Write a convolution into a part of a larger tensor; on a GPU without a copy, where it can.

    Args:
        out_BCTHW: of the result's shape and x's dtype.
        x_BCTHW: as for `conv3d`, small enough for one call.
        weight: likewise.
        bias: likewise.
        stride: likewise.
        padding: likewise.
    """
    if not writes_straight(out_BCTHW, x_BCTHW, weight):
        out_BCTHW.copy_(_convolve(x_BCTHW, weight, bias, stride=stride, padding=padding))
        return
    place_BCTHW = _as_block(out_BCTHW)
    if x_BCTHW.device.type == "meta":
        F.conv3d(x_BCTHW, weight, None, stride=stride, padding=(0, *padding))
    else:
        try:
            _cudnn_into(place_BCTHW, x_BCTHW, weight, stride=stride, padding=padding)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _tell(f"cuDNN does not write a convolution where it is told: {error}")
            out_BCTHW.copy_(_convolve(x_BCTHW, weight, bias, stride=stride, padding=padding))
            return
    if bias is not None:
        add_bias(place_BCTHW, bias, out_BCTHW=place_BCTHW)


def writes_straight(out_BCTHW: Tensor, x_BCTHW: Tensor, weight: Tensor) -> bool:
    """Whether a convolution is written where it belongs, without a copy."""
    blocks = _is_block(out_BCTHW) and _is_block(x_BCTHW)
    possible = _has_cudnn(x_BCTHW.device) and not weight.shape[0] % CHANNEL_STEP
    return switches().direct_output and blocks and possible


def _cudnn_into(
    out_BCTHW: Tensor,
    x_BCTHW: Tensor,
    weight: Tensor,
    *,
    stride: tuple[int, int, int],
    padding: tuple[int, int],
) -> None:
    """What `F.conv3d` calls on a GPU, with the flags that it would give."""
    flags = torch.backends.cudnn
    torch.ops.aten.cudnn_convolution.out(
        x_BCTHW,
        weight,
        (0, *padding),
        stride,
        (1, 1, 1),
        1,
        flags.benchmark,
        flags.deterministic or torch.are_deterministic_algorithms_enabled(),
        flags.allow_tf32,
        out=out_BCTHW,
    )


@functools.cache
def _tell(message: str) -> None:
    """Log a warning, once."""
    logger.warning(message)


def _as_block(x_BCTHW: Tensor) -> Tensor:
    """The same memory, which is a block, with the strides of a whole tensor in LAYOUT.

    A dimension of one element may have any stride, and torch would take an unusual one for another
    layout and copy the input into that.
    """
    _, channels, frames, height, width = x_BCTHW.shape
    row = width * channels
    strides = (frames * height * row, 1, height * row, row, channels)
    return x_BCTHW.as_strided(x_BCTHW.shape, strides)


def _is_block(x_BCTHW: Tensor) -> bool:
    return x_BCTHW.is_contiguous(memory_format=LAYOUT)


def _has_cudnn(device: torch.device) -> bool:
    """Whether cuDNN writes results where it is told ("meta" stands for a GPU)."""
    if device.type == "meta":
        return True
    cudnn = torch.backends.cudnn
    return is_nvidia(device) and cudnn.enabled and cudnn.is_available()


def _convolve(
    x_BCTHW: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int, int],
    padding: tuple[int, int],
) -> Tensor:
    out_channels = weight.shape[0]
    if takes_gpu_path(x_BCTHW.device) and switches().padded_channels:
        x_BCTHW, weight, bias = _pad_channels(x_BCTHW, weight, bias)
    if x_BCTHW.device.type == "cpu":
        # Torch's 3-D kernels there take 10 (float32) to 20 times (half) as long at batch 1.
        y_BCTHW = _conv3d_by_frames(x_BCTHW, weight, bias, stride=stride, padding=padding)
    else:
        y_BCTHW = F.conv3d(x_BCTHW, weight, bias, stride=stride, padding=(0, *padding))
    return y_BCTHW[:, :out_channels].contiguous(memory_format=LAYOUT)


def _pad_channels(
    x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Zeros up to a multiple of CHANNEL_STEP input and output channels; only the ends need it."""
    out, given = (-size % CHANNEL_STEP for size in weight.shape[:2])
    if given:
        x_BCTHW = F.pad(x_BCTHW, (0, 0, 0, 0, 0, 0, 0, given)).contiguous(memory_format=LAYOUT)
    if given or out:
        weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, given, 0, out))
        weight = weight.contiguous(memory_format=LAYOUT)
    if out and bias is not None:
        bias = F.pad(bias, (0, out))
    return x_BCTHW, weight, bias


def _conv3d_by_frames(
    x_BCTHW: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int, int],
    padding: tuple[int, int],
) -> Tensor:
    """One conv2d over all frames, the temporal taps side by side as channels: the same sums."""
    batch, taps = x_BCTHW.shape[0], weight.shape[2]
    last_start = x_BCTHW.shape[2] - taps
    shifted = [x_BCTHW[:, :, tap : last_start + tap + 1 : stride[0]] for tap in range(taps)]
    stacked_BCTHW = shifted[0] if taps == 1 else torch.cat(shifted, dim=1)
    stacked_FCHW = stacked_BCTHW.transpose(1, 2).flatten(0, 1)
    weight_OCHW = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    y_FCHW = F.conv2d(
        stacked_FCHW.contiguous(memory_format=torch.channels_last),
        weight_OCHW,
        bias,
        stride=stride[1:],
        padding=padding,
    )
    return y_FCHW.unflatten(0, (batch, -1)).transpose(1, 2)
