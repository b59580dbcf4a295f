"""A label for a picture: white letters on black."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def drawn_label(text: str, letters: int) -> np.ndarray:
    """A text on black, with as much black above the letters as below them.

    Args:
        text: one line.
        letters: height of the letters in pixels.

    Returns:
        (H, W, 3) uint8; half as high again as the letters, and their height wider than the text.
    """
    font = ImageFont.load_default(letters)
    canvas = Image.new("RGB", (round(font.getlength(text)) + letters, letters * 3 // 2), "black")
    place = (letters // 2, canvas.height / 2)
    ImageDraw.Draw(canvas).text(place, text, font=font, fill="white", anchor="lm")
    return np.asarray(canvas)
