"""The rows that a strip of a causal convolution reads, put together for that strip alone.

A frame at full size, with the two before it that a convolution reads, is the largest thing that the
VAE holds. In bands it never is in one place: of the frames that the state keeps only the rows of a
strip come to the device, the new frame's are made by the convolution's prologue there, and what the
state keeps goes back before the next strip. The strips are those of `conv.conv3d`.

Legend: B batch, C channels, T frames, H W pixels of the level.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seedvr2_core.vae.conv import LAYOUT

if TYPE_CHECKING:
    from seedvr2_core.vae.causal_conv import ConvState

RowsPrologue = Callable[[slice, Tensor], None]
"""Writes what a prologue makes of some rows of its frames."""


class FrameRows:
    """Rows of the next frames of a stream and of those that its state keeps, from top to bottom."""

    def __init__(
        self,
        x_BCTHW: Tensor,
        state: "ConvState",
        *,
        kept: int,
        kernel: int,
        write: RowsPrologue | None,
    ) -> None:
        """Nothing is read yet.

        Args:
            x_BCTHW: the frames.
            state: updated row by row.
            kept: frames that it keeps.
            kernel: the convolution's height.
            write: makes rows of the convolution's input; None: x is its input.
        """
        self._x, self._state, self._write = x_BCTHW, state, write
        self._kept, self._shared = kept, kernel - 1
        self._is_first = state.frames is None
        self._done = 0
        """Rows that the state has of these frames."""
        if self._is_first:
            state.make_room(x_BCTHW[:, :, :1].expand(-1, -1, kept, -1, -1))
        frames = state.frames
        assert frames is not None
        assert frames.shape[2] == kept
        assert frames.dtype == x_BCTHW.dtype, "a state never crosses a change of dtype"

    @contextmanager
    def cut(self, top: int, bottom: int) -> Iterator[Tensor]:
        """[B, C, kept + T, bottom - top, W]; zeros above and below the frames.

        To be called from top to bottom, each time for rows that begin among the last ones.
        """
        batch, channels, frames, height, width = self._x.shape
        first, last = max(0, top), min(bottom, height)
        strip_BCTHW = torch.empty(
            (batch, channels, self._kept + frames, bottom - top, width),
            dtype=self._x.dtype,
            device=self._x.device,
            memory_format=LAYOUT,
        )
        strip_BCTHW[..., : first - top, :].zero_()
        strip_BCTHW[..., last - top :, :].zero_()
        inside_BCTHW = strip_BCTHW[..., first - top : last - top, :]
        self._fill(slice(first, last), inside_BCTHW)
        # What the next strip reads of the kept frames must not be written over yet.
        stop = height if bottom > height else bottom - self._shared
        last_BCTHW = inside_BCTHW[:, :, frames:, self._done - first : stop - first]
        self._state.keep_rows(slice(self._done, stop), last_BCTHW)
        self._done = stop
        yield strip_BCTHW
        self._state.let_go()

    def _fill(self, rows: slice, out_BCTHW: Tensor) -> None:
        old_BCTHW, new_BCTHW = out_BCTHW[:, :, : self._kept], out_BCTHW[:, :, self._kept :]
        if self._write is None:
            new_BCTHW.copy_(self._x[..., rows, :])
        else:
            self._write(rows, new_BCTHW)
        if self._is_first:
            # A shot's first frame stands in for those before it.
            old_BCTHW.copy_(new_BCTHW[:, :, :1].expand_as(old_BCTHW))
        else:
            self._state.read_rows(rows, old_BCTHW)
