"""Cases of the colour kernel; see kernel_cases.py."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from benchmarks.model.kernel_cases import KernelCase, Random
from seedvr2_core.kernels.color import blur_band, wavelet_color

LUMA_RADII, CHROMA_RADII = (1, 2, 4, 8, 16), (1, 2, 4)


def color_cases() -> Iterator[KernelCase]:
    """Every case of the kernel in kernels/color.py; integers are in its tests."""
    for height, width in ((1, 1), (3, 70), (37, 2), (33, 140)):
        yield KernelCase(
            name=f"wavelet_color, {height}x{width}",
            kernel=wavelet_color,
            make=_maker(height, width),
            outs=("out_HWC",),
            slow=height * width > 1000,
        )


def bands(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of luma and of chroma, on the device of a tensor."""
    luma, chroma = blur_band(length, LUMA_RADII), blur_band(length, CHROMA_RADII)
    return luma.to(like.device), chroma.to(like.device)


def _maker(height: int, width: int) -> Callable[[Random], dict[str, Any]]:
    def make(random: Random) -> dict[str, Any]:
        c_CHW = random(height, width + 1, 3).float()[:, :width].permute(2, 0, 1)
        return {
            "out_HWC": random(height, width, 3),
            "c_CHW": c_CHW,
            "s_CHW": random(3, height, width).float(),
            "low_CHW": random(3, height, width).float(),
            "bands_y": bands(height, c_CHW),
            "bands_x": bands(width, c_CHW),
        }

    return make
