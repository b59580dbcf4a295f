"""Lanczos resize: properties of the filter, and agreement with Pillow's."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seedvr2_core.engines import lanczos
from seedvr2_core.engines.lanczos import lanczos_resize, resize_rgb
from seedvr2_core.engines.per_frame import rgb_to_unit, unit_to_rgb
from seedvr2_core.engines.table import load_engine
from seedvr2_core.frames import Frame
from seedvr2_core.planning.plan import Piece, Shot

SIZES = [
    pytest.param((45, 80), (67, 121), id="grow"),
    pytest.param((67, 121), (45, 80), id="shrink"),
    pytest.param((200, 150), (31, 17), id="shrink-much"),
    pytest.param((36, 44), (36, 48), id="anamorphic"),
    pytest.param((60, 20), (40, 50), id="shrink-and-grow"),
    pytest.param((3, 2), (41, 70), id="tiny-source"),
    pytest.param((40, 70), (1, 2), id="tiny-target"),
]


def make_picture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 with soft waves, hard edges and a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 128 + 70 * np.sin(x / 5.0) * np.cos(y / 7.0)
    edges = 50.0 * ((x // 9 + y // 11) % 2)
    noise = np.random.default_rng(5).normal(0, 4, (height, width, 3))
    picture = np.stack([waves, waves[::-1], 255 - waves], 2) + edges[..., None] - 25 + noise
    return picture.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_constant_stays_constant(source: tuple[int, int], target: tuple[int, int]):
    resized = lanczos_resize(torch.full((3, *source), 0.7), *target)
    assert resized.shape == (3, *target)
    torch.testing.assert_close(resized, torch.full_like(resized, 0.7))


@pytest.mark.parametrize("white", [0, 1, 254, 255], ids=str)
def test_constant_pictures_keep_their_level(white: int):
    for dtype in (np.uint8, np.uint16):
        level = white if dtype == np.uint8 else white * 257
        resized = resize_rgb(np.full((20, 30, 3), level, dtype), height=33, width=71)
        assert resized.dtype == dtype
        assert (resized == level).all()


def test_same_size_is_the_input():
    x_CHW = torch.rand(3, 11, 13)
    assert torch.equal(lanczos_resize(x_CHW, 11, 13), x_CHW)
    rgb = make_picture(11, 13)
    assert resize_rgb(rgb, height=11, width=13) is rgb


def test_deep_pictures_take_one_thread_and_keep_their_bits(monkeypatch: pytest.MonkeyPatch):
    """Threads that wait for each other spin, and burn the cores that an encoder beside them has."""
    seen: list[int] = []

    def noted(x_BCHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return lanczos_resize(x_BCHW, height, width)

    monkeypatch.setattr(lanczos, "lanczos_resize", noted)
    deep = make_picture(97, 131).astype(np.uint16) * 257
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        resized = resize_rgb(deep, height=200, width=270)
        assert (seen, torch.get_num_threads()) == ([1], 2)
        x_BCHW = rgb_to_unit(deep, "cpu")
        on_two = unit_to_rgb(lanczos_resize(x_BCHW, 200, 270), deep.dtype)
    finally:
        torch.set_num_threads(before)
    assert (resized == on_two).all()


def test_pictures_may_lie_plane_by_plane():
    deep = make_picture(45, 80).astype(np.uint16) * 257
    planes_HWC = np.ascontiguousarray(deep.transpose(2, 0, 1)).transpose(1, 2, 0)
    resized = [resize_rgb(rgb, height=67, width=121) for rgb in (deep, planes_HWC)]
    assert (resized[0] == resized[1]).all()
    assert resized[0].transpose(2, 0, 1).flags.c_contiguous


def test_leading_axes_do_not_matter():
    x_BCHW = torch.rand(2, 3, 20, 24)
    resized = lanczos_resize(x_BCHW, 31, 17)
    assert resized.shape == (2, 3, 31, 17)
    torch.testing.assert_close(resized[1, 2], lanczos_resize(x_BCHW[1, 2], 31, 17))
    channels_last = x_BCHW.to(memory_format=torch.channels_last)
    torch.testing.assert_close(lanczos_resize(channels_last, 31, 17), resized)


def test_mirrored_input_gives_mirrored_output():
    x_CHW = torch.rand(3, 40, 33)
    mirrored = lanczos_resize(x_CHW.flip(1, 2), 57, 90)
    torch.testing.assert_close(mirrored, lanczos_resize(x_CHW, 57, 90).flip(1, 2))


@pytest.mark.parametrize("width", [150, 160, 40], ids=["x1.5", "x1.6", "x0.4"])
def test_ramp_stays_a_ramp_inside(width: int):
    x_CHW = torch.arange(100.0).expand(1, 10, 100)
    centers = (torch.arange(width) + 0.5) * 100 / width - 0.5
    inside = (centers > 10) & (centers < 89)
    error = lanczos_resize(x_CHW, 10, width)[0, 0] - centers
    assert error[inside].abs().max() < 0.05


def test_shrinking_is_antialiased():
    y, x = np.mgrid[0:80, 0:80]
    checkers = torch.from_numpy(((x + y) % 2).astype(np.float32))
    inside = lanczos_resize(checkers, 30, 30)[5:-5, 5:-5]
    assert (inside - 0.5).abs().max() < 0.01


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["uint8", "uint16"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_matches_pillow(dtype: type, source: tuple[int, int], target: tuple[int, int]):
    picture = make_picture(*source)
    size = target[1], target[0]
    expected = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    scale = 1 if dtype == np.uint8 else 257
    resized = resize_rgb(picture.astype(dtype) * dtype(scale), height=target[0], width=target[1])
    assert resized.dtype == dtype
    error = resized / scale - expected.astype(float)
    assert np.abs(error).max() <= 2
    assert np.sqrt((error**2).mean()) < 0.55  # Pillow rounds to 8 bits between its passes


def test_integer_and_float_paths_agree():
    picture = make_picture(120, 160)
    wide = resize_rgb(picture.astype(np.uint16) * np.uint16(257), height=180, width=320) / 257
    error = resize_rgb(picture, height=180, width=320) - wide
    assert np.abs(error).max() <= 2
    assert np.abs(error.mean()) < 0.05


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["uint8", "uint16"])
def test_engine_session_resizes_to_the_plan(dtype: type):
    plan: Any = SimpleNamespace(height=24, width=44)
    session = load_engine("lanczos").open_session(plan, device="cpu", beat=lambda *_: None)
    shot, piece = Shot(index=0, start=0, stop=4), Piece(shot=0, start=1, stop=3)
    rgb = np.rot90(make_picture(22, 16)).astype(dtype)
    frames = iter([Frame(rgb, 40, 1), Frame(rgb, 90, 2)])
    state = session.begin(frames, shot=shot, piece=piece)
    restored = list(session.restore(frames, shot=shot, piece=piece, state=state))
    assert [(f.index, f.pts, f.rgb.shape, f.rgb.dtype) for f in restored] == [
        (1, 40, (24, 44, 3), dtype),
        (2, 90, (24, 44, 3), dtype),
    ]
    np.testing.assert_array_equal(restored[0].rgb, restored[1].rgb)
