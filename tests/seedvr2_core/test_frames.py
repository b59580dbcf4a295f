"""Pictures as tensors: exact round trips, exact sizes, padding that can be undone."""

import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
import torch

from seedvr2_core.frames import (
    Frame,
    crop,
    host_tensor,
    pad,
    padded_size,
    resize,
    rgb_to_tensor,
    tensor_to_rgb,
)
from tests.golden.reference_rules import pad_frames, padded_num_frames


def _all_levels(dtype: str) -> np.ndarray:
    levels = np.arange(256 if dtype == "uint8" else 65536, dtype=dtype)
    return np.stack([levels, levels[::-1], np.roll(levels, 99)], axis=-1).reshape(16, -1, 3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_level_survives_the_round_trip(dtype: Literal["uint8", "uint16"]) -> None:
    rgb = _all_levels(dtype)
    picture = rgb_to_tensor(rgb)
    assert picture.dtype == torch.float32
    assert picture.shape == (3, *rgb.shape[:2])
    assert float(picture.min()) == -1.0
    assert float(picture.max()) == pytest.approx(1.0, abs=1e-6)
    back = tensor_to_rgb(picture, dtype)
    assert back.dtype == rgb.dtype
    assert np.array_equal(back, rgb)


@pytest.mark.parametrize("view", ["flipped", "transposed", "read-only", "padded rows"])
def test_any_strides(view: str) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    strange = {
        "flipped": rgb[::-1, ::-1],
        "transposed": rgb.transpose(1, 0, 2),
        "read-only": rgb.copy(),
        "padded rows": rgb[:, :7],
    }[view]
    if view == "read-only":
        strange.flags.writeable = False
    assert np.array_equal(tensor_to_rgb(rgb_to_tensor(strange), "uint8"), strange)


def test_deep_planes_are_shared_not_copied() -> None:
    planes = np.random.default_rng(1).integers(0, 65536, (3, 6, 10)).astype(np.uint16)
    tensor = host_tensor(planes.transpose(1, 2, 0))
    assert tensor.shape == (6, 10, 3)
    assert tensor.data_ptr() == planes.ctypes.data
    assert np.array_equal(
        rgb_to_tensor(planes.transpose(1, 2, 0)),
        rgb_to_tensor(np.ascontiguousarray(planes.transpose(1, 2, 0))),
    )


def test_values_are_rounded_and_clamped() -> None:
    levels = torch.tensor([0.4, 0.6, 254.6, -7.0, 300.0])
    picture = (levels / 127.5 - 1).expand(3, 1, -1)
    assert tensor_to_rgb(picture, "uint8")[0, :, 0].tolist() == [0, 1, 255, 0, 255]


@pytest.mark.parametrize("shape", [(3, 20, 30), (2, 3, 20, 30)], ids=str)
def test_resize_to_the_same_size_is_the_identity(shape: tuple[int, ...]) -> None:
    picture = torch.rand(shape) * 2 - 1
    assert resize(picture, (20, 30)) is picture
    assert resize(picture, (40, 64)).shape == (*shape[:-2], 40, 64)


@pytest.mark.parametrize("size", [(33, 47), (10, 9)], ids=["up", "down"])
def test_resize_keeps_flat_pictures_and_the_range(size: tuple[int, int]) -> None:
    flat = torch.full((3, 20, 30), 0.3)
    torch.testing.assert_close(resize(flat, size), torch.full((3, *size), 0.3))
    edge = torch.ones(3, 20, 30)
    edge[..., :15] = -1
    sharp = resize(edge, size)
    assert float(sharp.min()) >= -1
    assert float(sharp.max()) <= 1


def test_downsizing_is_antialiased() -> None:
    stripes = torch.ones(3, 8, 64)
    stripes[..., ::2] = -1
    assert float(resize(stripes, (8, 16)).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((720, 1280), (752, 1280)),
        ((1080, 1920), (1104, 1920)),
        ((1440, 2560), (1472, 2560)),
        ((2160, 3840), (2192, 3840)),
        ((712, 1278), (736, 1280)),
        ((2, 2), (32, 16)),
    ],
    ids=str,
)
def test_sizes_at_which_the_model_runs(size: tuple[int, int], padded: tuple[int, int]) -> None:
    assert padded_size(*size) == padded


def test_model_height_is_the_smallest_that_holds_reflection_and_black() -> None:
    for height in range(1, 100):
        rows, columns = padded_size(height, height)
        assert rows % 16 == columns % 16 == 0
        assert height + 24 <= rows < height + 24 + 16
        assert height <= columns < height + 16


@pytest.mark.parametrize("size", [(40, 50), (33, 64), (3, 5), (1, 1)], ids=str)
def test_padding_reflects_then_ends_in_black_and_crop_undoes_it(size: tuple[int, int]) -> None:
    height, width = size
    picture = torch.rand(2, 3, *size) * 2 - 1
    padded = pad(picture)
    assert padded.shape[-2:] == padded_size(*size)
    assert torch.equal(crop(padded, size), picture)
    assert torch.equal(padded[..., -16:, :], torch.full_like(padded[..., -16:, :], -1.0))
    for row in range(height, padded.shape[-2] - 16):
        source = max(0, 2 * (height - 1) - row)
        assert torch.equal(padded[..., row, :width], picture[..., source, :])
    for column in range(width, padded.shape[-1]):
        source = max(0, 2 * (width - 1) - column)
        assert torch.equal(padded[..., :height, column], picture[..., :, source])


@pytest.mark.parametrize(
    ("count", "padded"), [(1, 1), (2, 5), (4, 5), (5, 5), (6, 9), (99, 101), (100, 101), (101, 101)]
)
def test_frame_counts(count: int, padded: int) -> None:
    assert padded_num_frames(count) == padded
    longer = pad_frames(count, "repeat_last")
    assert len(longer) == padded
    assert longer[:count] == list(range(count))
    assert set(longer[count:]) <= {count - 1}


def test_frame_shows_its_shape_not_its_data() -> None:
    frame = Frame(rgb=np.zeros((4, 6, 3), np.uint8), pts=7, index=2)
    assert repr(frame) == "Frame(2, pts=7, rgb=uint8[4, 6, 3])"


def test_importing_frames_and_windows_loads_no_torch() -> None:
    modules = "sys, seedvr2_core.frames, seedvr2_core.planning.windows"
    code = f"import {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_value_becomes_the_nearest_level(dtype: Literal["uint8", "uint16"]) -> None:
    """Rounded, never truncated: the error is at most half a level and has no bias."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(3, 64, 64, generator=generator) * 2 - 1
    white = 255 if dtype == "uint8" else 65535
    exact = (picture.double() + 1) * (white / 2)
    error = torch.from_numpy(tensor_to_rgb(picture, dtype).astype(float)).permute(2, 0, 1) - exact
    assert float(error.abs().max()) <= 0.5 + 1e-2
    assert abs(float(error.mean())) < 0.02


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_brighter_never_becomes_darker(dtype: Literal["uint8", "uint16"]) -> None:
    rising = torch.linspace(-1.2, 1.2, 4096).expand(3, 1, -1)
    levels = tensor_to_rgb(rising, dtype)[0].astype(int)
    assert (np.diff(levels, axis=0) >= 0).all()
    assert (levels[0] == 0).all()
    assert (levels[-1] == levels.max()).all()


def test_both_depths_show_the_same_picture() -> None:
    """255 and 65535 are the same white, so 257 times a level is the same level."""
    rgb = _all_levels("uint8")
    torch.testing.assert_close(
        rgb_to_tensor(rgb.astype(np.uint16) * 257), rgb_to_tensor(rgb), rtol=0, atol=1e-6
    )


def test_padding_keeps_every_pixel_of_every_size() -> None:
    for height in range(1, 36):
        width = 71 - 2 * height
        picture = torch.arange(3 * height * width, dtype=torch.float32).view(3, height, width)
        padded = pad(picture)
        assert torch.equal(crop(padded, (height, width)), picture)
        assert set(padded[..., :-16, :].unique().tolist()) <= set(picture.unique().tolist())
