"""Between coded values and light, by the transfers of SDR (ITU-T H.273, IEC 61966-2-1).

EXR pictures hold light: twice the number is twice as much of it. Everything else here is coded, as
displays show it. Who only plans a job does not load numpy.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from av.video.frame import VideoFrame

LINEAR, SRGB = 8, 13
"""H.273 codes of transfers."""
_EXPONENTS: Mapping[int, float] = {4: 2.2, 5: 2.8, LINEAR: 1.0}
"""H.273 code -> exponent of a transfer that is a power. Displays show BT.709 and its like as they
show sRGB, so all others have the curve of that."""
_MOST = 65535


def transfer_name(transfer: int) -> str:
    """What people call the curve that is used for an H.273 transfer of SDR."""
    exponent = _EXPONENTS.get(transfer)
    return "of sRGB" if exponent is None else f"with gamma {exponent:g}"


def light_of(coded: "np.ndarray", transfer: int) -> "np.ndarray":
    """Light, float32 in [0, 1], of coded levels.

    Args:
        coded: uint8 or uint16 of any shape, whose most is white.
        transfer: H.273 code.
    """
    import numpy as np

    share = coded.astype(np.float32) / np.float32(np.iinfo(coded.dtype).max)
    if exponent := _EXPONENTS.get(transfer):
        return share**exponent
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def coded_of(light: "np.ndarray", transfer: int) -> "np.ndarray":
    """The inverse: uint16 levels of light; what is no number is black, what is too much white."""
    import numpy as np

    share = np.clip(np.nan_to_num(light, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    if exponent := _EXPONENTS.get(transfer):
        coded = share ** (1 / exponent)
    else:
        coded = np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055)
    return np.rint(coded * _MOST).astype(np.uint16)


def is_light(pix_fmt: str) -> bool:
    """Whether a picture's samples are floats, as libav decodes EXR."""
    return "f16" in pix_fmt or "f32" in pix_fmt


def planes_of_light(picture: "VideoFrame") -> "list[np.ndarray]":
    """Red, green and blue, or grey, and alpha if there is one: (height, width) float32 each."""
    import numpy as np

    kind = np.dtype(np.float16 if "f16" in picture.format.name else np.float32)
    planes = picture.planes
    order = [2, 0, 1, 3] if len(planes) >= 3 else [0, 1]  # libav's are green, blue, red
    found: list[np.ndarray] = []
    for index in order[: len(planes)]:
        rows = np.frombuffer(bytes(planes[index]), kind).reshape(
            -1, planes[index].line_size // kind.itemsize
        )
        found.append(rows[: picture.height, : picture.width].astype(np.float32))
    return found


def straight_light(light: "np.ndarray", alpha_HW: "np.ndarray") -> "np.ndarray":
    """Colours, (height, width, 3), that were multiplied by alpha, divided by it; black where it is
    nothing."""
    import numpy as np

    alpha = alpha_HW[:, :, None]
    return np.divide(light, alpha, out=np.zeros_like(light), where=alpha > 0)
