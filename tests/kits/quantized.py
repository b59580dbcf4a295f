"""Small transformers in every quantised form, written by the packages' own writers.

Each writer also gives the numbers that the file stands for, from a formula that shares nothing with
the code: a matrix product with the written-out rotation, or the `gguf` package's dequantisation.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import quants
from safetensors.torch import save_file
from torch import Tensor

from seedvr2_core.config import DIT_TINY_3B, DIT_TINY_7B, DiTConfig, alternating_windows
from seedvr2_core.dit.model import expected_keys
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.weights.layouts import Layout, dit_layout

State = dict[str, Tensor]
TEXT_SHAPE, NEGATIVE_TEXT_SHAPE = (6, 48), (7, 48)
_SHARED: dict[str, Any] = {"width": 256, "num_heads": 8, "head_dim": 32}
WIDE_3B = dataclasses.replace(
    DIT_TINY_3B, **_SHARED, mlp_hidden=768, shifted=alternating_windows(2), num_separate_layers=1
)
WIDE_7B = dataclasses.replace(
    DIT_TINY_7B, **_SHARED, mlp_hidden=1024, shifted=alternating_windows(2), num_separate_layers=2
)
"""Wide enough for blocks of 256 values."""
CONFIGS: Mapping[str, DiTConfig] = {"dit-3b": WIDE_3B, "dit-7b": WIDE_7B}
GROUP = 64


def wide_layouts() -> Mapping[str, Layout]:
    return {
        part: dit_layout(config, text=TEXT_SHAPE, negative=NEGATIVE_TEXT_SHAPE)
        for part, config in CONFIGS.items()
    }


def wide_state(part: str) -> State:
    """Random float32 weights, without rope buffers."""
    return pcg64_v1(expected_keys(CONFIGS[part]), seed=3)


def matrices(state: State) -> list[str]:
    """The weights that writers quantise: matrices of the blocks, and two others."""
    also = ("txt_in.weight", "emb_in.proj_hid.weight")
    return [n for n, t in state.items() if t.ndim == 2 and (n.startswith("blocks.") or n in also)]


def marker(**config: object) -> Tensor:
    """The tensor that names a format."""
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


def scaled_fp8(state: State, *, by_row: bool = False) -> tuple[State, State]:
    """(file, numbers): weights in fp8 with one scale, or one for each row; the rest in float16."""
    stored, numbers = _in_half(state)
    for name in matrices(state):
        weight = state[name]
        peak = weight.abs().amax(dim=1, keepdim=True) if by_row else weight.abs().max()
        scale = peak / 448
        stored[name] = (weight / scale).to(torch.float8_e4m3fn)
        stored[name + "_scale"] = scale
        numbers[name] = (stored[name].double() * scale.double()).float()
    return stored, numbers


def scaled_int8(state: State, *, group: int = 0) -> tuple[State, State]:
    """(file, numbers): int8 with a scale for each row, rotated in groups of columns or not."""
    stored, numbers = _in_half(state)
    rotation = hadamard(group) if group else None
    config = {"convrot": True, "convrot_groupsize": group} if group else {}
    for name in matrices(state):
        if group and state[name].shape[1] % group:
            continue
        weight = state[name].double()
        if rotation is not None:
            weight = (weight.unflatten(1, (-1, group)) @ rotation).flatten(1)
        scale = (weight.abs().amax(dim=1, keepdim=True) / 127).float()
        stored[name] = (weight / scale).round().clamp(-127, 127).to(torch.int8)
        stored[name + "_scale"] = scale
        place = name.removesuffix(".weight")
        stored[place + ".comfy_quant"] = marker(format="int8_tensorwise", **config)
        back = stored[name].double() * scale.double()
        if rotation is not None:
            back = (back.unflatten(1, (-1, group)) @ rotation.T).flatten(1)
        numbers[name] = back.float()
    return stored, numbers


def hadamard(group: int) -> Tensor:
    """The regular Hadamard matrix of a power of 4, normed, float64."""
    four = torch.tensor(
        [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64
    )
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < group:
        matrix = torch.kron(four / 2, matrix)
    return matrix


def write_gguf(
    path: Path,
    state: State,
    form: str,
    *,
    prefix: str = "",
    more: Callable[[Any], None] | None = None,
) -> State:
    """Write matrices of the blocks in a block format, F16 or BF16, the rest in F32.

    Returns:
        The numbers that the file stands for.
    """
    kind = gguf.GGMLQuantizationType[form]
    writer = gguf.GGUFWriter(path, "seedvr2")
    if more is not None:
        more(writer)
    numbers: State = {}
    quantised = matrices(state)
    for name, tensor in state.items():
        array = tensor.numpy()
        if name not in quantised or tensor.shape[1] % gguf.GGML_QUANT_SIZES[kind][0]:
            writer.add_tensor(prefix + name, array)
            numbers[name] = tensor
            continue
        packed = _packed(array, kind)
        writer.add_tensor(prefix + name, packed, raw_dtype=kind)
        numbers[name] = torch.from_numpy(quants.dequantize(packed, kind)).float()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


def _packed(array: Any, kind: gguf.GGMLQuantizationType) -> Any:
    """Quantised by the package, or random blocks of a format that it only reads."""
    if kind.name in ("Q8_0", "F16", "BF16"):
        return quants.quantize(array, kind)
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(array.size)
    blocks = rng.integers(0, 256, (array.size // values, size), dtype=np.uint8)
    scales = rng.uniform(1e-5, 4e-5, (len(blocks), 2)).astype(np.float16).view(np.uint8)
    if kind.name == "Q6_K":
        blocks[:, 208:] = scales[:, :2]
    else:
        blocks[:, :4] = scales
    return blocks.reshape(len(array), -1)


def _in_half(state: State) -> tuple[State, State]:
    stored = {name: tensor.half() for name, tensor in state.items()}
    return stored, {name: tensor.float() for name, tensor in stored.items()}


def write(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: t.contiguous() for name, t in state.items()}, path, metadata)
    return path
