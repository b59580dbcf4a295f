"""Pictures inside of a page, which then needs no other file."""

import base64
import io

import numpy as np
from PIL import Image


def jpeg(rgb: np.ndarray, *, quality: int) -> bytes:
    """A picture as JPEG.

    Args:
        rgb: (H, W, 3) uint8.
        quality: 1 to 95, as Pillow has it.
    """
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def inside(content: bytes) -> str:
    """The address of a JPEG that stands in the page itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
