"""The session of the engines that restore each frame on its own, and conversions that they share.

Shape legend: B batch, C = 3 channels in R, G, B order, H W pixels. Float pictures run from 0.0
(black) to 1.0 (white).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seedvr2_core.beat import Beat
from seedvr2_core.engines.protocol import Commit, Reads, ShotState
from seedvr2_core.errors import SegmentError
from seedvr2_core.frames import Frame, host_tensor
from seedvr2_core.planning import Piece, Shot

_ROWS = 64
"""Rows at once: what is computed of them stays in the processor's caches. It was the fastest."""
RestoreFrame = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 or uint16 -> (target H, target W, 3) of the same dtype."""


class PerFrameSession:
    """A `protocol.Session` whose state is empty: a frame depends on no other frame."""

    def __init__(self, restore_frame: RestoreFrame, *, beat: Beat) -> None:
        """Use `restore_frame` for every frame; `beat` is called after each."""
        self._restore_frame: RestoreFrame | None = restore_frame
        self._beat = beat

    def reads(self, shot: Shot, pieces: Sequence[Piece], *, unaided: bool = False) -> Reads:
        """The frames of the pieces and nothing else."""
        return Reads(frames=range(pieces[0].start, pieces[-1].stop), latents=range(0))

    def begin(
        self,
        frames: Iterator[Frame],
        *,
        shot: Shot,
        piece: Piece,
        before: Commit | None = None,
        unaided: bool = False,
    ) -> ShotState:
        """An empty state; reads no frame."""
        return ShotState()

    def restore(
        self, frames: Iterator[Frame], *, shot: Shot, piece: Piece, state: ShotState
    ) -> Iterator[Frame]:
        """Restore the piece's frames one by one; no frame past its end is read.

        Raises:
            SegmentError: `frames` does not start at the piece, skips a frame or ends early.
        """
        assert self._restore_frame is not None, "session is closed"
        total = piece.stop - piece.start
        for done, expected in enumerate(range(piece.start, piece.stop)):
            frame = next(frames, None)
            if frame is None or frame.index != expected:
                got = "the frames ended" if frame is None else f"got frame {frame.index}"
                raise SegmentError(
                    f"piece [{piece.start}, {piece.stop}) of shot {shot.index}: {got} after "
                    f"{done} of {total} frames, expected frame {expected}; decode the source "
                    f"from frame {piece.start} on"
                )
            restored = replace(frame, rgb=self._restore_frame(frame.rgb))
            self._beat("restore", done + 1, total)
            yield restored

    def take_commit(self) -> Commit:
        """The precision alone: there are no latents to keep."""
        return Commit(precision="float32")

    def step_down(self) -> str:
        """There is no other precision, and no frame can be divided: no step."""
        return ""

    def close(self) -> None:
        """Let go of the weights."""
        self._restore_frame = None


def rgb_to_unit(rgb: np.ndarray, device: str) -> Tensor:
    """(H, W, 3) uint8 or uint16 -> x_BCHW [1, 3, H, W] float32 in 0..1, as `rgb` lies in memory."""
    x_BHWC = host_tensor(rgb)[None].to(device).float().div_(np.iinfo(rgb.dtype).max)
    return x_BHWC.permute(0, 3, 1, 2)


def unit_to_rgb(x_BCHW: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    """x_BCHW [1, 3, H, W] float32, about 0..1 -> (H, W, 3) uint8 or uint16, rounded and clamped."""
    white = int(np.iinfo(dtype).max)
    if dtype == np.uint8:
        levels_CHW = x_BCHW[0].mul(white).round_().clamp_(0, white).to(torch.uint8)
        return levels_CHW.permute(1, 2, 0).contiguous().cpu().numpy()
    # The writer takes deep pictures by planes, and those are what this is in memory.
    return _levels(x_BCHW[0].cpu().numpy(), white).transpose(1, 2, 0)


def _levels(unit_CHW: np.ndarray, white: int) -> np.ndarray:
    """float32, about 0..1 -> uint16 of the same shape, rounded and clamped, some rows at a time."""
    levels_CHW = np.empty(unit_CHW.shape, np.uint16)
    most = np.float32(white)
    room_HW = np.empty((_ROWS, unit_CHW.shape[2]), np.float32)
    for unit_HW, levels_HW in zip(unit_CHW, levels_CHW, strict=True):
        for start in range(0, len(unit_HW), _ROWS):
            rows_HW = unit_HW[start : start + _ROWS]
            scaled_HW = np.multiply(rows_HW, most, out=room_HW[: len(rows_HW)])
            np.rint(scaled_HW, out=scaled_HW)
            levels_HW[start : start + _ROWS] = np.clip(scaled_HW, 0, most, out=scaled_HW)
    return levels_CHW
