"""How pictures and activations are compared: PSNR, change at a join, drift, largest values.

Pictures are (H, W, 3) uint8 RGB; differences are in levels of 255 and worked out on `device`.
"""

import re
import statistics
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from seedvr2_core.selfcheck.report import tidy

FLOAT16_LIMIT = 65504.0
DIVIDER_PX = 4
AMPLIFIED = 8
_LEVEL = re.compile(r"(encoder|decoder)\.(conv_in|mid_block|(?:down|up)_blocks\.\d+)")
_LUMA_WEIGHTS = (0.2126, 0.7152, 0.0722)
Device = torch.device | str


def psnr(
    pictures: Sequence[np.ndarray], others: Sequence[np.ndarray], *, device: Device = "cpu"
) -> float:
    """Over all frames together, in dB; inf where they are the same."""
    squared = [
        _difference(a, b, device).square().mean().item()
        for a, b in zip(pictures, others, strict=True)
    ]
    mean = statistics.fmean(squared)
    return float(10 * np.log10(255**2 / mean)) if mean else float("inf")


def mean_shift(
    pictures: Sequence[np.ndarray], sources: Sequence[np.ndarray], *, device: Device = "cpu"
) -> list[float]:
    """Mean of R, G and B against the source, in levels."""
    shifts = [
        _difference(a, b, device).mean(dim=(0, 1)) for a, b in zip(pictures, sources, strict=True)
    ]
    return [round(value, 4) for value in torch.stack(shifts).mean(dim=0).tolist()]


def drift(
    pictures: Sequence[np.ndarray], sources: Sequence[np.ndarray], *, device: Device = "cpu"
) -> float:
    """How the brightness wanders against the source's: deviation over frames, in levels."""
    weights = torch.tensor(_LUMA_WEIGHTS, device=device)
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
    """What is seen where two windows join, against the same frames from a single window.

    Args:
        pictures: of the joined windows.
        reference: of the single window.
        zone: frames from the first shared one to the first that is not shared any more.
        device: where it is worked out.

    Returns:
        change_at_join: largest change, from a frame to the next, of the difference to the
        reference (motion drops out; levels); change_elsewhere: its median outside the zone;
        frame_step_ratio: largest ratio, in the zone, of the frame difference to the
        reference's; psnr_db: to the reference, all frames.
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
    """Pictures in a row (axis 0: a column) with white between them."""
    shape = list(pictures[0].shape)
    shape[axis] = DIVIDER_PX
    parts = [pictures[0]]
    for picture in pictures[1:]:
        parts += [np.full(shape, 255, np.uint8), picture]
    return np.concatenate(parts, axis=axis)


def amplified(picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The difference, AMPLIFIED times, on grey."""
    shown = _difference(picture, reference, "cpu").mul(AMPLIFIED).add(128).clamp(0, 255)
    return shown.to(torch.uint8).numpy()


def _difference(a: np.ndarray, b: np.ndarray, device: Device) -> Tensor:
    return torch.from_numpy(a).to(device).float() - torch.from_numpy(b).to(device).float()


class ActivationWatch:
    """While entered, notes the largest absolute value that any part of a VAE's level puts out.

    NaN and infinities stay, so a level that overflowed once says so.
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
        """Levels with values that are not finite; the first is where it began."""
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
