"""Alpha planes as numbers."""

from typing import Any

import numpy as np
import pytest
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from seedvr2_core.video.alpha.colours import filled, flattened, shown
from seedvr2_core.video.alpha.planes import alpha_of, rescaled, to_bits, write_plane

BYTE, WORD = np.dtype(np.uint8), np.dtype(np.uint16)
RNG = np.random.default_rng(7)


def picture(pix_fmt: str, bits: int) -> tuple[VideoFrame, np.ndarray]:
    """A picture whose alpha is noise, and the alpha."""
    deep = bits > 8
    levels = RNG.integers(0, 2**bits, (12, 20)).astype(np.uint16 if deep else np.uint8)
    if VideoFormat(pix_fmt).components[-1].plane == 3:
        frame = VideoFrame(20, 12, pix_fmt)
        order = ">u2" if pix_fmt.endswith("be") else "<u2"
        write_plane(frame.planes[3], levels.astype(order if deep else np.uint8))
        return frame, levels
    # libav reads packed samples, and moves them to other places of the same depth.
    packed: Any = np.full((12, 20, 4), 128, levels.dtype)
    packed[..., 3] = levels
    frame = VideoFrame.from_ndarray(packed, format="rgba64le" if deep else "rgba")
    return frame.reformat(format=pix_fmt), levels


@pytest.mark.parametrize(
    ("pix_fmt", "bits"),
    [
        *[("rgba", 8), ("bgra", 8), ("argb", 8), ("abgr", 8), ("gbrap", 8), ("yuva420p", 8)],
        *[("yuva444p", 8), ("ya8", 8), ("ya16le", 16), ("ya16be", 16), ("rgba64le", 16)],
        *[("rgba64be", 16), ("gbrap16le", 16), ("gbrap16be", 16), ("yuva444p16le", 16)],
        *[("gbrap12le", 12), ("yuva444p12le", 12), ("yuva422p10le", 10), ("gbrap10le", 10)],
    ],
)
def test_alpha_comes_out_of_every_form(pix_fmt: str, bits: int) -> None:
    frame, levels = picture(pix_fmt, bits)
    for kind in (BYTE, WORD):
        alpha = alpha_of(frame, kind)
        assert alpha is not None
        assert alpha.dtype == kind
        wanted = levels / (2**bits - 1) * np.iinfo(kind).max
        # libav itself rounds grey with alpha of 8 bits, on its way into this picture.
        most = 0.5001 if pix_fmt != "ya8" else np.iinfo(kind).max / 255
        assert np.abs(alpha - wanted).max() <= most


def test_a_palette_has_the_alpha_of_its_colours() -> None:
    palette = np.full((256, 4), 255, np.uint8)
    palette[3, 0] = 40  # PyAV's order is alpha first
    pixels = np.zeros((4, 6), np.uint8)
    pixels[1, 2] = 3
    indexed: Any = (pixels, palette)
    alpha = alpha_of(VideoFrame.from_ndarray(indexed, format="pal8"), BYTE)
    assert alpha is not None
    assert alpha[1, 2] == 40
    assert (np.delete(alpha.ravel(), 8) == 255).all()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "rgb24", "gray", "bgr0"])
def test_other_forms_have_none(pix_fmt: str) -> None:
    assert alpha_of(VideoFrame(16, 16, pix_fmt), BYTE) is None


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_levels_come_back_from_fewer_bits(bits: int) -> None:
    levels = np.arange(2**bits, dtype=np.uint32).astype(np.uint16).reshape(1, -1)
    deep = rescaled(levels, bits, WORD)
    assert (deep[0, 0], deep[0, -1]) == (0, 65535)
    assert (to_bits(deep, bits) == levels).all()
    byte = np.arange(256, dtype=np.uint8)
    assert (to_bits(rescaled(to_bits(rescaled(byte, 8, WORD), bits), bits, WORD), 8) == byte).all()


@pytest.mark.parametrize("kind", [BYTE, WORD])
def test_a_picture_on_a_colour(kind: np.dtype) -> None:
    white = np.iinfo(kind).max
    rgb = RNG.integers(0, white, (9, 7, 3), endpoint=True).astype(kind)
    alpha = RNG.integers(0, white, (9, 7), endpoint=True).astype(kind)
    alpha[0], alpha[1] = 0, white
    made = flattened(rgb, alpha, "#ff8000")
    share = alpha[..., None] / white
    wanted = rgb * share + np.array([255, 128, 0]) / 255 * white * (1 - share)
    assert np.abs(made - wanted).max() <= 0.5001
    assert (made[1] == rgb[1]).all()
    assert (made[0] == np.array([white, 128 * (white // 255), 0])).all()
    squares = shown(rgb, alpha)
    assert (squares[1] == rgb[1]).all()
    assert set(np.unique(squares[0] // (white // 255))) <= {153, 204}


@pytest.mark.parametrize("kind", [BYTE, WORD])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (33, 50), (64, 64)])
def test_hidden_colours_are_those_around(kind: np.dtype, shape: tuple[int, int]) -> None:
    white = np.iinfo(kind).max
    rgb = np.zeros((*shape, 3), kind)
    alpha = np.zeros(shape, kind)
    rgb[0, 0], alpha[0, 0] = (white, white // 2, 10), white
    assert (filled(rgb, alpha) == rgb[0, 0]).all()
    assert filled(rgb, np.zeros_like(alpha)) is rgb
    assert filled(rgb, np.full_like(alpha, white)) is rgb


def test_visible_colours_stay_to_the_bit() -> None:
    rgb = RNG.integers(0, 255, (40, 61, 3), endpoint=True).astype(np.uint8)
    alpha = RNG.integers(0, 255, (40, 61), endpoint=True).astype(np.uint8)
    alpha[:, 30:] = 0
    before = rgb.copy()
    made = filled(rgb[:, ::-1], alpha[:, ::-1])[:, ::-1]
    assert (rgb == before).all()
    assert (made[alpha >= 8] == rgb[alpha >= 8]).all()
    assert (made[alpha == 0] != rgb[alpha == 0]).any()
    near = made[:, 30:32].astype(int)
    seen = rgb[:, 20:30].astype(int)
    assert abs(near.mean() - seen.mean()) < 25


def test_filling_has_no_edges_of_its_own() -> None:
    """Two colours that are far apart: between them the fill goes over from one to the other."""
    rgb = np.zeros((32, 128, 3), np.uint8)
    alpha = np.zeros((32, 128), np.uint8)
    rgb[:, :8], alpha[:, :8] = (250, 20, 20), 255
    rgb[:, -8:], alpha[:, -8:] = (20, 20, 250), 255
    made = filled(rgb, alpha).astype(int)
    assert np.abs(np.diff(made, axis=1)).max() <= 40
    assert np.abs(made[:, 8] - (250, 20, 20)).max() <= 12
