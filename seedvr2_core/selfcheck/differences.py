"""Measures of pictures and activations: PSNR, change at a join, drift, largest values.

Pictures are (H, W, 3) RGB, uint8 or uint16: a source of 16 bits is restored to 16 bits. Differences
are in levels of 255 whatever the depth, so that numbers compare, and are computed on `device`.
"""

import re
import statistics
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from seedvr2_core.frames import LUMA_WEIGHTS
from seedvr2_core.selfcheck.report import tidy

FLOAT16_LIMIT = 65504.0
DIVIDER_PX = 4
AMPLIFIED = 8
_LEVEL = re.compile(r"(encoder|decoder)\.(conv_in|mid_block|(?:down|up)_blocks\.\d+)")
Device = torch.device | str


def psnr(
    pictures: Sequence[np.ndarray], others: Sequence[np.ndarray], *, device: Device = "cpu"
) -> float:
    """Peak signal-to-noise ratio over all frames together, in dB; inf if they are the same."""
    squared = [
        _difference(a, b, device).square().mean().item()
        for a, b in zip(pictures, others, strict=True)
    ]
    mean = statistics.fmean(squared)
    return float(10 * np.log10(255**2 / mean)) if mean else float("inf")


def mean_shift(
    pictures: Sequence[np.ndarray], sources: Sequence[np.ndarray], *, device: Device = "cpu"
) -> list[float]:
    """How far the means of R, G and B are from the source's, in levels."""
    shifts = [
        _difference(a, b, device).mean(dim=(0, 1)) for a, b in zip(pictures, sources, strict=True)
    ]
    return [round(value, 4) for value in torch.stack(shifts).mean(dim=0).tolist()]


def drift(
    pictures: Sequence[np.ndarray], sources: Sequence[np.ndarray], *, device: Device = "cpu"
) -> float:
    """How much the brightness wanders: deviation over frames of its distance to the source's.

    In levels.
    """
    weights = torch.tensor(LUMA_WEIGHTS, device=device)
    shifts = [
        (_difference(a, b, device).mean(dim=(0, 1)) @ weights).item()
        for a, b in zip(pictures, sources, strict=True)
    ]
    return statistics.pstdev(shifts)


def change_at_join(
    pictures: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    zone: range,
    *,
    device: Device = "cpu",
) -> dict[str, Any]:
    """How visible the join of two windows is, against the same frames from a single window.

    Args:
        pictures: of the joined windows.
        reference: of the single window.
        zone: frames from the first shared one to the first that is not shared any more.
        device: where it is computed.

    Returns:
        change_at_join: the largest change from one frame to the next of the difference to the
        reference, in levels (motion is in both and drops out); change_elsewhere: the median of
        that change outside the zone; frame_step_ratio: largest ratio in the zone of the step from
        one frame to the next to the reference's step; psnr_db: to the reference, over all frames.
    """
    inside, outside, ratios = [], [], []
    for t in range(1, len(pictures)):
        step = _difference(pictures[t], pictures[t - 1], device)
        reference_step = _difference(reference[t], reference[t - 1], device)
        change = (step - reference_step).abs().mean().item()
        (inside if t in zone else outside).append(change)
        if t in zone:
            ratios.append(step.abs().mean().item() / max(reference_step.abs().mean().item(), 1e-3))
    return {
        "change_at_join": tidy(max(inside)),
        "change_elsewhere": tidy(statistics.median(outside)),
        "frame_step_ratio": tidy(max(ratios)),
        "psnr_db": tidy(psnr(pictures, reference, device=device)),
    }


def side_by_side(pictures: Sequence[np.ndarray], *, axis: int = 1) -> np.ndarray:
    """Pictures beside each other (axis 0: below), with white lines between them; all uint8."""
    shape = list(pictures[0].shape)
    shape[axis] = DIVIDER_PX
    parts = [pictures[0]]
    for picture in pictures[1:]:
        parts += [np.full(shape, 255, np.uint8), picture]
    return np.concatenate(parts, axis=axis)


def amplified(picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The difference of two pictures, multiplied by AMPLIFIED, on grey; uint8."""
    shown = _difference(picture, reference, "cpu").mul(AMPLIFIED).add(128).clamp(0, 255)
    return shown.to(torch.uint8).numpy()


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two values at one place, in levels; 0 only if they are the same."""
    return _difference(a, b, "cpu").abs().max().item()


def to_eight_bits(picture: np.ndarray) -> np.ndarray:
    """The picture as uint8, rounded: what people look at."""
    if picture.dtype == np.uint8:
        return picture
    return _levels(picture, "cpu").round().to(torch.uint8).numpy()


def _difference(a: np.ndarray, b: np.ndarray, device: Device) -> Tensor:
    """a - b in levels."""
    return _levels(a, device) - _levels(b, device)


def _levels(picture: np.ndarray, device: Device) -> Tensor:
    """(H, W, 3) of either depth -> float32 with white at 255; exact for uint8."""
    per_level = np.iinfo(picture.dtype).max // 255
    return torch.from_numpy(picture).to(device).float() / per_level


class ActivationWatch:
    """Notes, while it is entered, the largest absolute value in the outputs of each VAE level.

    NaN and infinities are kept, so a level that overflowed once is seen at the end.
    """

    def __init__(self, vae: nn.Module) -> None:
        self._vae = vae
        self._largest: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, module in self._vae.named_modules():
            if "." in name:
                self._hooks.append(module.register_forward_hook(self._hook(level_of(name))))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @property
    def levels(self) -> dict[str, float]:
        """Level -> largest absolute value, in the order of the data."""
        return {name: value.item() for name, value in self._largest.items()}

    @property
    def overflowed(self) -> list[str]:
        """Levels with values that are not finite; the overflow began in the first."""
        return [name for name, value in self.levels.items() if not np.isfinite(value)]

    def _hook(self, level: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.numel():
                return
            low, high = torch.aminmax(output)
            largest = torch.maximum(high, -low)
            before = self._largest.get(level, largest)
            # Both spread NaN.
            self._largest[level] = torch.maximum(before, largest)

        return note


def level_of(name: str) -> str:
    """The level that a module of the VAE belongs to, by its name."""
    found = _LEVEL.match(name)
    return found.group() if found else f"{name.partition('.')[0]}.conv_out"
