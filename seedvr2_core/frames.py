"""Frames on their way through the system: the type every part hands on, and its tensor form.

Inside the model, pictures are float32 in [-1, 1] (-1 is black, 1 is white); only this file converts
to and from that range. The flow process uses `Frame` without loading torch, so torch is imported
where it is needed.

Shape legend: T frames, H W pixels, C = 3 channels in R, G, B order.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

SIZE_MULTIPLE = 16
"""Height and width of the model's input are multiples of this: the VAE's stride of 8 times the
transformer's patches of 2."""
BLACK_ROWS = 16
"""Rows of black below the picture; they keep the model's brightness steady between frames."""
MIN_REFLECTED_ROWS = 8
"""Fewest reflected rows between picture and black; black directly below the picture would spoil
its last rows."""
FRAMES_PER_LATENT = 4
"""Frames of a latent after a shot's first latent, which holds one frame."""
LUMA_WEIGHTS = (0.2126, 0.7152, 0.0722)
"""Of red, green and blue in the brightness that everything here speaks of: BT.709's, on coded
R'G'B'."""
CB_RANGE, CR_RANGE = 1.8556, 1.5748
"""What blue - luma, and red - luma, is divided by to become Cb and Cr."""
_BLACK = -1.0
_WHITE = {"uint8": 255, "uint16": 65535}


@dataclass(frozen=True, slots=True)
class Frame:
    """One upright picture with its own time."""

    rgb: "np.ndarray"
    """(H, W, 3), uint8 or uint16, R'G'B' full range (0 black, 255 or 65535 white); any strides."""
    pts: int
    """Presentation time in ticks of the source's time base, relative to the container's zero."""
    index: int
    """Position among the presented frames of the file, from 0."""
    alpha: "np.ndarray | None" = None
    """(H, W) of the type of `rgb`, straight: 0 shows nothing. None: opaque, or nobody has asked."""

    def __repr__(self) -> str:
        return f"Frame({self.index}, pts={self.pts}, rgb={self.rgb.dtype}{list(self.rgb.shape)})"


def rgb_to_tensor(rgb_HWC: "np.ndarray", *, device: "torch.device | str" = "cpu") -> "Tensor":
    """Convert a frame's picture to what the model takes.

    Args:
        rgb_HWC: (H, W, 3), uint8 or uint16, full range, any strides.
        device: of the result; the integers are moved first and widened there.

    Returns:
        (3, H, W) float32 in [-1, 1], contiguous.
    """
    return widened(host_tensor(rgb_HWC).to(device))


def host_tensor(rgb_HWC: "np.ndarray") -> "Tensor":
    """The array as a tensor; copied only where torch cannot share its memory.

    It lies in memory pixel by pixel, or plane by plane if it is of 16 bits and does so already.
    """
    import numpy as np
    import torch

    planes_CHW = rgb_HWC.transpose(2, 0, 1)
    if rgb_HWC.dtype == np.uint16 and planes_CHW.flags.c_contiguous and rgb_HWC.flags.writeable:
        return torch.from_numpy(planes_CHW).permute(1, 2, 0)
    return torch.from_numpy(np.require(rgb_HWC, requirements=["C", "W"]))


def widened(integers_HWC: "Tensor") -> "Tensor":
    """`rgb_to_tensor` of a picture that is a tensor, on its device."""
    white = _WHITE[str(integers_HWC.dtype).removeprefix("torch.")]
    return integers_HWC.permute(2, 0, 1).float().mul_(2 / white).sub_(1).contiguous()


def tensor_to_rgb(picture_CHW: "Tensor", dtype: Literal["uint8", "uint16"]) -> "np.ndarray":
    """Inverse of `rgb_to_tensor`: (3, H, W) is clamped to [-1, 1] and rounded to (H, W, 3)."""
    return rounded(picture_CHW, dtype).cpu().numpy()


def rounded(picture_CHW: "Tensor", dtype: Literal["uint8", "uint16"]) -> "Tensor":
    """`tensor_to_rgb` without leaving the device."""
    import torch

    scaled = picture_CHW.float().clamp(-1, 1).add_(1).mul_(_WHITE[dtype] / 2).round_()
    return scaled.permute(1, 2, 0).to(getattr(torch, dtype)).contiguous()


def resize(picture_CHW: "Tensor", size: tuple[int, int]) -> "Tensor":
    """Bicubic resize with antialiasing to (height, width), clamped to [-1, 1].

    Args:
        picture_CHW: float32 (3, H, W) or (T, 3, H, W).
        size: (height, width) of the result; a picture of that size is returned as it is.
    """
    import torch

    if picture_CHW.shape[-2:] == size:
        return picture_CHW
    resized = torch.nn.functional.interpolate(
        picture_CHW.reshape(-1, *picture_CHW.shape[-3:]),
        size=size,
        mode="bicubic",
        align_corners=False,
        antialias=True,
    )
    return resized.clamp_(-1, 1).view(*picture_CHW.shape[:-2], *size)


def padded_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) at which the model works on a picture of height x width.

    1080p runs at 1104 x 1920, 720p at 752 x 1280, 2k at 1472 x 2560, 4k at 2192 x 3840.
    """
    rows = _round_up(height + MIN_REFLECTED_ROWS + BLACK_ROWS)
    return rows, _round_up(width)


def pad(picture_CHW: "Tensor") -> "Tensor":
    """Pad (..., 3, H, W) to `padded_size`: right by reflection, below by reflection and black.

    Where a picture is too small to be reflected, its outermost reflected line is repeated.
    """
    import torch

    height, width = picture_CHW.shape[-2:]
    padded_height, padded_width = padded_size(height, width)
    rows_H = _reflected(height, padded_height - BLACK_ROWS, picture_CHW.device)
    columns_W = _reflected(width, padded_width, picture_CHW.device)
    reflected = picture_CHW.index_select(-2, rows_H).index_select(-1, columns_W)
    return torch.nn.functional.pad(reflected, (0, 0, 0, BLACK_ROWS), value=_BLACK)


def crop(picture_CHW: "Tensor", size: tuple[int, int]) -> "Tensor":
    """Undo `pad`: the upper left (height, width) of (..., H, W), a view."""
    height, width = size
    return picture_CHW[..., :height, :width]


def _round_up(length: int) -> int:
    return -(-length // SIZE_MULTIPLE) * SIZE_MULTIPLE


def _reflected(length: int, padded: int, device: "torch.device") -> "Tensor":
    """Source index of each of `padded` lines: 0..length-1, then back toward 0, then 0 again."""
    import torch

    places = torch.arange(padded, device=device)
    return torch.where(places < length, places, 2 * (length - 1) - places).clamp_(min=0)
