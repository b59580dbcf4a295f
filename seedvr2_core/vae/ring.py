"""The frames that a causal convolution reads, each in a fixed place, so that none is ever moved.

Frame n of the shot lies in slot n % S of S = as many slots as the convolution has taps in time. The
next frame takes the place of the oldest, and the weights' taps are turned to fit. So a frame's bits
depend on its number in the shot, which a resumed shot knows.

Where the slots are too many elements for a kernel, rows come first in memory and the slots lie
inside them. Then a strip of rows is one block of memory: the convolution takes height as its first
dimension and reads strips without a copy.

Legend: B batch, C channels, S slots, H W pixels of the level, O output channels.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from seedvr2_core.vae.conv import LAYOUT, MAX_ELEMENTS, conv3d, convolve_into
from seedvr2_core.vae.stream import StreamState

RING_PIXELS = 1 << 16
"""Pixels of a frame from which one frame at a time keeps a GPU busy. Smaller levels take many
frames in one call, and what they copy is small."""


def takes_rows_first(channels: int, slots: int, height: int, width: int) -> bool:
    """Whether so many frames are too large for one call of a convolution."""
    return channels * slots * (height + 3) * width > MAX_ELEMENTS


@dataclass(slots=True)
class FrameRing(StreamState):
    """The slots of one convolution."""

    memory: Tensor
    """[B, C, S, H + 2 * halo, W], in memory slots first or rows first."""
    halo: int
    """Rows of zeros above and below the frames, in place of the convolution's padding."""
    rows_first: bool
    channels: int
    """Of the frames; those behind are constant: the first 1, the others 0."""

    @classmethod
    def empty(
        cls, x_BC1HW: Tensor, slots: int, *, padding: int, constant_channels: int = 0
    ) -> Self:
        """A ring for frames like x.

        Args:
            x_BC1HW: tells sizes, dtype and device.
            slots: frames that an output reads.
            padding: rows of zeros that the convolution wants above and below; 0 where it has a
                rule of its own.
            constant_channels: to add behind x's.
        """
        batch, channels, _, height, width = x_BC1HW.shape
        total = channels + constant_channels
        rows_first = bool(padding) and batch == 1 and takes_rows_first(total, slots, height, width)
        halo = padding if rows_first else 0
        how = {"dtype": x_BC1HW.dtype, "device": x_BC1HW.device, "memory_format": LAYOUT}
        if rows_first:
            memory = torch.empty((batch, total, height + 2 * halo, slots, width), **how)
            memory = memory.transpose(2, 3)
            memory[..., :halo, :].zero_()
            memory[..., halo + height :, :].zero_()
        else:
            memory = torch.empty((batch, total, slots, height, width), **how)
        ring = cls(memory=memory, halo=halo, rows_first=rows_first, channels=channels)
        if constant_channels:
            constant = memory[..., halo : halo + height, :][:, channels:]
            constant.zero_()
            constant[:, 0] = 1
        return ring

    @property
    def num_slots(self) -> int:
        """Frames that the ring holds."""
        return self.memory.shape[2]

    def place(self, number: int) -> Tensor:
        """Where a frame of the shot lies, [B, C, 1, H, W]."""
        slot = number % self.num_slots
        rows = slice(self.halo, self.memory.shape[3] - self.halo)
        return self.memory[:, : self.channels, slot : slot + 1, rows]

    def turned(self, weight: Tensor, newest: int) -> Tensor:
        """Weights [O, C, S, kh, kw] whose taps stand as the frames do, the newest having this
        number."""
        first = self.num_slots - 1 - newest % self.num_slots
        if not first:
            return weight
        return torch.cat([weight[:, :, first:], weight[:, :, :first]], dim=2)

    def convolve(self, turned: Tensor, bias: Tensor | None, *, padding: tuple[int, int]) -> Tensor:
        """The one output frame, [B, O, 1, H', W'], with stride 1.

        Args:
            turned: weights from `turned`.
            bias: [O]; None: nothing is added.
            padding: of height and width, as the ring was made for.
        """
        if not self.rows_first:
            return conv3d(self.memory, turned, bias, padding=padding)
        x_BCHSW, weight = self.memory.transpose(2, 3), turned.transpose(2, 3)
        weight = weight.contiguous(memory_format=LAYOUT)
        _, channels, height, slots, width = x_BCHSW.shape
        out_channels, taps = weight.shape[0], weight.shape[2]
        out_height, out_width = height - taps + 1, width + 2 * padding[1] - weight.shape[4] + 1
        rows = min(
            MAX_ELEMENTS // (channels * slots * width) - taps + 1,
            MAX_ELEMENTS // (out_channels * out_width),
        )
        y_BO1HW = torch.empty(
            (1, out_channels, 1, out_height, out_width),
            dtype=self.memory.dtype,
            device=self.memory.device,
            memory_format=LAYOUT,
        )
        for start in range(0, out_height, max(1, rows)):
            stop = min(start + max(1, rows), out_height)
            convolve_into(
                y_BO1HW[..., start:stop, :].transpose(2, 3),
                x_BCHSW[:, :, start : stop + taps - 1],
                weight,
                bias,
                padding=(0, padding[1]),
            )
        return y_BO1HW
