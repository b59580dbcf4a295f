"""Exact fold of an up-sampler's two convolutions into one on the low-resolution input.

Between `upscale_conv` (1x1x1, C -> 4ZC, then depth to space-time) and the causal 3x3x3 `conv` there
is no non-linearity. So every output phase (dz, dy, dx) is a small conv of the input: the taps of
`conv` that land in one low-resolution cell are summed, each times the `upscale_conv` rows of the
sub-position it lands on. In time 2 taps remain for Z = 2 and 3 for Z = 1; in space always 2x2:

    output row 2i   reads high-res rows 2i-1 | 2i, 2i+1   -> low-res rows i-1, i
    output row 2i+1 reads high-res rows 2i, 2i+1 | 2i+2   -> low-res rows i, i+1

`upscale_conv`'s bias is the weight of one more input channel that is 1 in the picture and, like
every channel, 0 in the spatial padding. On a GPU that channel is not there: what it would add is a
number for each output channel, which is another one in the first or last line (`_add_constant`).

Legend: B batch, C channels, F low-res frames, H W low-res pixels, Z frames made of one;
O output, M middle and I input channels of the weights.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seedvr2_core.kernels.norm import add_bias
from seedvr2_core.kernels.switches import switches, takes_gpu_path
from seedvr2_core.vae.causal_conv import ConvState, extend_frames, put_frame
from seedvr2_core.vae.conv import LAYOUT, at_least_float32, conv3d

EXTRA_CHANNELS = 8
"""The constant-1 channel and zeros up to a multiple of 8, which keeps tensor cores fast."""


def depth_to_space_time(u_BCFHW: Tensor, time_stride: int) -> Tensor:
    """[B, 4ZC, F, H, W] -> [B, C, ZF, 2H, 2W]; the input's channels run (dy, dx, dz, c)."""
    batch, _, frames, height, width = u_BCFHW.shape
    u_BFHWC = u_BCFHW.permute(0, 2, 3, 4, 1)
    phases = u_BFHWC.reshape(batch, frames, height, width, 2, 2, time_stride, -1)
    y_BTHWC = phases.permute(0, 1, 6, 2, 4, 3, 5, 7).reshape(
        batch, frames * time_stride, 2 * height, 2 * width, -1
    )
    return y_BTHWC.permute(0, 4, 1, 2, 3)


def fold_weights(
    up_weight: Tensor, up_bias: Tensor, conv_weight: Tensor, *, time_stride: int
) -> Tensor:
    """Weights of the folded phase convolutions.

    Args:
        up_weight: [4ZM, I, 1, 1, 1] of `upscale_conv`.
        up_bias: [4ZM].
        conv_weight: [O, M, 3, 3, 3] of `conv`.
        time_stride: Z.

    Returns:
        [4Z, O, I + EXTRA_CHANNELS, 4 - Z, 2, 2], phase = (dz*2 + dy)*2 + dx, in float32 (float64
        for float64 weights): round it once, to the dtype of the model.
    """
    wide = torch.float64 if conv_weight.dtype == torch.float64 else torch.float32
    out_channels, mid_channels = conv_weight.shape[:2]
    in_channels = up_weight.shape[1]
    up_MI = torch.cat([up_weight.flatten(1), up_bias[:, None]], dim=1).to(wide)
    up_YXZMI = up_MI.reshape(2, 2, time_stride, mid_channels, in_channels + 1)
    conv_OMTHW = conv_weight.to(wide)
    folded = conv_OMTHW.new_zeros(
        (4 * time_stride, out_channels, in_channels + EXTRA_CHANNELS, 4 - time_stride, 2, 2)
    )
    for phase, (dz, dy, dx) in enumerate(itertools.product(range(time_stride), range(2), range(2))):
        for t, h, w in itertools.product(range(3), repeat=3):
            frame, sub_z = divmod(dz + t - 2, time_stride)
            row, sub_y = divmod(dy + h - 1, 2)
            column, sub_x = divmod(dx + w - 1, 2)
            cell = (frame + 3 - time_stride, row + 1 - dy, column + 1 - dx)
            product_OI = conv_OMTHW[:, :, t, h, w] @ up_YXZMI[sub_y, sub_x, sub_z]
            folded[phase, :, : in_channels + 1, *cell] += product_OI
    return folded


class FoldedUpsampler(nn.Module):
    """The folded form; its weights are derived, so they are buffers outside the state dict."""

    def __init__(self, weights: Tensor, bias: Tensor, *, time_stride: int) -> None:
        """Take `fold_weights`' result and `conv`'s bias."""
        super().__init__()
        self.time_stride = time_stride
        self.in_channels = weights.shape[2] - EXTRA_CHANNELS
        for phase, weight in enumerate(weights):
            self.register_buffer(
                f"weight_{phase}", weight.contiguous(memory_format=LAYOUT), persistent=False
            )
        self.register_buffer("bias", bias.clone(), persistent=False)

    @property
    def kept_frames(self) -> int:
        """Low-res frames kept for the next slice."""
        return 3 - self.time_stride

    def forward(self, x_BCFHW: Tensor, state: ConvState) -> Tensor:
        """[B, C, F, H, W] -> [B, O, ZF, 2H, 2W]; phase by phase, so one phase is held twice."""
        batch, _, frames, height, width = x_BCFHW.shape
        z = self.time_stride
        y_BCTHW = torch.empty(
            (batch, self.get_buffer("bias").shape[0], z * frames, 2 * height, 2 * width),
            dtype=x_BCFHW.dtype,
            device=x_BCFHW.device,
            memory_format=LAYOUT,
        )
        extra = 0 if self._by_border(x_BCFHW) else EXTRA_CHANNELS
        if state.takes_ring(x_BCFHW):
            for frame, x_BC1HW in enumerate(x_BCFHW.split(1, dim=2)):
                ring = put_frame(x_BC1HW, state, taps=4 - z, padding=1, constant_channels=extra)
                self._write(
                    y_BCTHW[:, :, z * frame : z * frame + z],
                    lambda weight, bias, ring=ring: ring.convolve(
                        ring.turned(weight, state.seen - 1), bias, padding=(1, 1)
                    ),
                )
            return y_BCTHW
        buffer_BCFHW = extend_frames(x_BCFHW, state, extra_channels=extra)
        if extra:
            buffer_BCFHW[:, self.in_channels :].zero_()
            buffer_BCFHW[:, self.in_channels] = 1
        with state.keeping(buffer_BCFHW[:, : self.in_channels, -self.kept_frames :]):
            self._write(
                y_BCTHW, lambda weight, bias: conv3d(buffer_BCFHW, weight, bias, padding=(1, 1))
            )
        return y_BCTHW

    @staticmethod
    def _by_border(x_BCFHW: Tensor) -> bool:
        return switches().fold_border and takes_gpu_path(x_BCFHW.device)

    def _write(self, y_BCTHW: Tensor, convolve: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        """All phases of y; `convolve` gives a phase's conv of the input for weights and bias."""
        z, bias_C = self.time_stride, self.get_buffer("bias")
        height, width = y_BCTHW.shape[3] // 2, y_BCTHW.shape[4] // 2
        by_border = self._by_border(y_BCTHW)
        absorbed = by_border or (switches().absorbed_bias and takes_gpu_path(y_BCTHW.device))
        for phase, (dz, dy, dx) in enumerate(itertools.product(range(z), range(2), range(2))):
            weight = self.get_buffer(f"weight_{phase}")
            taken = weight
            if by_border:
                taken = weight[:, : self.in_channels].contiguous(memory_format=LAYOUT)
            # Position p of this conv reads rows p-1 and p: phase dy of row i is position i + dy.
            part = convolve(taken, None if absorbed else bias_C)
            part = part[..., dy : dy + height, dx : dx + width]
            place_BCTHW = y_BCTHW[:, :, dz::z, dy::2, dx::2]
            if by_border:
                constant = weight[:, self.in_channels]
                _add_constant(part, constant, bias_C, (dy, dx), out=place_BCTHW)
            elif absorbed:
                add_bias(part, bias_C, out_BCTHW=place_BCTHW)
            else:
                place_BCTHW.copy_(part)
            del part  # before the next phase is made


def _add_constant(
    part_BOFHW: Tensor, taps_OFHW: Tensor, bias_O: Tensor, phase: tuple[int, int], *, out: Tensor
) -> None:
    """out = part + bias + what a channel that is 1 in the picture and 0 around it would add.

    Phase 0 reads the cell before and its own, so its first line misses a tap; phase 1 reads its own
    and the next, so its last line does. All other lines get the whole sum.

    Args:
        part_BOFHW: the phase's result without constant and bias.
        taps_OFHW: the constant channel's weights, [O, kt, 2, 2].
        bias_O: the convolution's.
        phase: (dy, dx).
        out: of part's shape.
    """
    taps_OHW = at_least_float32(taps_OFHW).sum(1)
    bias_O = at_least_float32(bias_O)
    height, width = part_BOFHW.shape[3:]
    for rows, row_taps in _lines(height, phase[0]):
        for columns, column_taps in _lines(width, phase[1]):
            sum_O = taps_OHW[:, row_taps, column_taps].sum((1, 2)) + bias_O
            place = out[..., rows, columns]
            if place.numel():
                add_bias(part_BOFHW[..., rows, columns], sum_O, out_BCTHW=place)


def _lines(length: int, phase: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(lines, taps that lie in the picture): all but the border line, and that one."""
    if phase == 0:
        return (slice(1, None), slice(0, 2)), (slice(0, 1), slice(1, 2))
    return (slice(0, length - 1), slice(0, 2)), (slice(length - 1, None), slice(0, 1))
