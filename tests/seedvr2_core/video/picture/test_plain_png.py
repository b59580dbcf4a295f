"""Plain PNGs are what everybody reads, and their size is known from that of the picture."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.video.picture.plain_png import plain_png


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 5), (640, 40), (300, 220)])
def test_pillow_reads_the_same_pixels(width: int, height: int, channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)
    content = plain_png(pixels, {b"sRGB": b"\0"})
    with Image.open(io.BytesIO(content)) as picture:
        assert (np.asarray(picture) == pixels).all()
    with Image.open(io.BytesIO(content)) as picture:
        picture.verify()
    assert len(content) == len(plain_png(np.zeros_like(pixels), {b"sRGB": b"\0"}))


def test_sixteen_bits_are_stored_as_they_are() -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (50, 300, 3), np.uint16)
    content = plain_png(pixels, {})
    start = content.index(b"IDAT") + 4
    lines = zlib.decompress(content[start:-16])
    stored = np.frombuffer(lines, np.uint8).reshape(50, -1)
    assert not stored[:, 0].any()
    assert (stored[:, 1:].copy().view(">u2").reshape(50, 300, 3) == pixels).all()
