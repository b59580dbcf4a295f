"""Values that are not finite are noticed without waiting for the device.

The least and the greatest value of each frame or latent go to the host with the results, and are
looked at when they arrive.
"""

import torch
from torch import Tensor

from seedvr2_core.engines.seedvr2.shot import ShotGrid
from seedvr2_core.errors import NumericalError


def extremes(x: Tensor) -> Tensor:
    """(parts, 2) float32: the least and the greatest value of each part along the first axis.

    NaN spreads to both; an order faster than isfinite.
    """
    return torch.stack([torch.stack(torch.aminmax(part)) for part in x.unbind()]).float()


def check_finite(
    extremes_N2: Tensor,
    phase: str,
    dtype: torch.dtype | str,
    grid: ShotGrid,
    latents: range,
    *,
    frames: bool,
) -> None:
    """Refuse NaN and infinities.

    Args:
        extremes_N2: from `extremes`, on the host; of the latents, or of the frames of them.
        phase: for the message, as dtype.
        dtype: in which they were computed.
        grid: of the shot.
        latents: which they are.
        frames: whether the parts are frames, counted from the latents' first.

    Raises:
        NumericalError: names phase, dtype, shot, latent and frame.
    """
    finite_N = torch.isfinite(extremes_N2).all(dim=1)
    if bool(finite_N.all()):
        return
    place = finite_N.tolist().index(False)
    if frames:
        frame = min(grid.first_frame(latents.start) + place, grid.shot.stop - 1)
        where = f"frame {frame}"
    else:
        latent = latents.start + place
        where = f"latent {latent} (frame {grid.first_frame(latent)})"
    name = str(dtype).removeprefix("torch.")
    raise NumericalError(
        f"phase {phase} ({name}): values of shot {grid.shot.index} are not finite at {where}; "
        "if bfloat16 fails too, the weights are damaged: run seedvr2 weights verify"
    )
