"""Read the weights of an ncnn model from its two files: .param (the graph) and .bin (the numbers).

The .param file is text with one layer a line. The .bin file has no names: it holds the numbers of
the layers in the order of those lines. A Convolution or Deconvolution has a tag, its weights in
float16 (padded to 4 bytes) and its bias in float32; a MemoryData has its float32 values. All is
little endian. What a layer computes beside its weights (stride, padding, an activation that is part
of it) stands in its options, which `read_ncnn_layers` gives to whoever builds the network.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seedvr2_core.errors import CheckpointError

PARAM_MAGIC = "7767517"
FP16_TAG = 0x01306B47
WITH_WEIGHTS = frozenset(("Convolution", "Deconvolution", "MemoryData"))
WEIGHTLESS = frozenset(("Input", "BinaryOp", "Split", "Swish", "Sigmoid", "Concat", "PixelShuffle"))


class _BinReader:
    """Reads a .bin file from start to end; errors name the layer where the file does not fit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        self._at = 0

    def take(self, layer: str, dtype: str, count: int) -> np.ndarray:
        """Read the next `count` values of the dtype and skip the padding to 4 bytes."""
        length = count * np.dtype(dtype).itemsize
        if self._at + length > len(self._data):
            raise CheckpointError(
                f"{self.path}: layer {layer} needs {length} bytes at offset {self._at}, the file "
                f"has {len(self._data)}; it is truncated or belongs to another .param"
            )
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += -(-length // 4) * 4
        return values

    def check_end(self) -> None:
        """Refuse a file of which not every byte was read."""
        if self._at != len(self._data):
            raise CheckpointError(
                f"{self.path}: {len(self._data)} bytes, its layers need {self._at}; "
                "the file belongs to another .param"
            )


def read_ncnn_weights(param_path: Path, bin_path: Path) -> dict[str, Tensor]:
    """Read all weights of a model by name; every byte of the file must belong to one of them.

    Returns:
        "<layer>.weight" [out, in, kernel H, kernel W] and "<layer>.bias" [out] for convolutions
        and deconvolutions (torch wants the latter's weights as [in, out, ...]), "<layer>"
        [C, H, W] for constants; float32 on the CPU.

    Raises:
        CheckpointError: a file is missing, truncated or belongs to another one, a layer or number
            format is not known, or a weight is not finite. The message names file and layer.
    """
    for path in (param_path, bin_path):
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; reinstall the package that brings it")
    reader = _BinReader(bin_path)
    weights: dict[str, Tensor] = {}
    for kind, name, options in read_ncnn_layers(param_path):
        try:
            read = _read_layer(kind, name, options, reader)
        except CheckpointError:
            raise
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{param_path}: layer {name} ({kind}) lacks or garbles an option: {error}"
            ) from error
        for key, values in read.items():
            if not np.isfinite(values).all():
                raise CheckpointError(f"{bin_path}: layer {name} holds non-finite weights")
            weights[key] = torch.from_numpy(values.astype(np.float32))
    reader.check_end()
    return weights


def read_ncnn_layers(path: Path) -> Iterator[tuple[str, str, dict[int, str]]]:
    """(kind, name, options by number) of every layer of a .param file.

    Raises:
        CheckpointError: the file is no .param file, or has a kind of layer that is not known.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if lines[:1] != [PARAM_MAGIC]:
        raise CheckpointError(
            f"{path}: begins with {''.join(lines[:1])!r}, expected {PARAM_MAGIC}; "
            "it is not an ncnn .param file"
        )
    layers = [line.split() for line in lines[2:] if line.strip()]
    if len(lines) < 2 or lines[1].split()[:1] != [str(len(layers))]:
        raise CheckpointError(f"{path}: {len(layers)} layers, but line 2 says another number")
    for words in layers:
        try:
            kind, name, num_inputs, num_outputs = *words[:2], int(words[2]), int(words[3])
            pairs = [word.split("=", 1) for word in words[4 + num_inputs + num_outputs :]]
            options = {int(number): value for number, value in pairs}
        except (ValueError, IndexError) as error:
            raise CheckpointError(f"{path}: line {' '.join(words)!r} is not a layer") from error
        if kind not in WITH_WEIGHTS | WEIGHTLESS:
            raise CheckpointError(
                f"{path}: layer {name} is a {kind}, which this reader does not know"
            )
        yield kind, name, options


def _read_layer(
    kind: str, name: str, options: dict[int, str], reader: _BinReader
) -> dict[str, np.ndarray]:
    """The weights of one layer, by name; empty for kinds of layers that have none."""
    if kind in WEIGHTLESS:
        return {}
    if kind == "MemoryData":  # options: 0 width, 1 height, 2 channels
        shape = tuple(int(options[number]) for number in (2, 1, 0))
        return {name: reader.take(name, "<f4", math.prod(shape)).reshape(shape)}
    # options: 0 outputs, 1 kernel width, 11 kernel height, 5 has bias, 6 number of weights
    outputs, kernel_w = int(options[0]), int(options[1])
    kernel_h, count = int(options.get(11, kernel_w)), int(options[6])
    tag = int(reader.take(name, "<u4", 1)[0])
    if tag != FP16_TAG:
        raise CheckpointError(
            f"{reader.path}: layer {name} has the weight tag 0x{tag:08X}, expected "
            f"0x{FP16_TAG:08X} (float16)"
        )
    weight = reader.take(name, "<f2", count).reshape(outputs, -1, kernel_h, kernel_w)
    bias = reader.take(name, "<f4", outputs) if options.get(5) == "1" else np.zeros(outputs)
    return {f"{name}.weight": weight, f"{name}.bias": bias}
