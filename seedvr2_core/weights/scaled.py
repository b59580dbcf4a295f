"""Quantised weights of .safetensors files, where one weight is several tensors.

Beside `x.weight` in fp8 or int8 lie `x.weight_scale` and, in newer files, `x.comfy_quant`: JSON in
bytes that names the format. Older files say that for all weights in the header's metadata. Here
these tensors become one, with a dtype of its own; whatever does not fit is refused by name.

| format | weight | scale | dtype here |
|---|---|---|---|
| float8_e4m3fn | F8_E4M3 | one number, or one for each row | F8_E4M3+scale |
| int8_tensorwise | I8 | one number, or one for each row | I8+scale |
| int8_tensorwise, "convrot" | I8, groups of columns rotated | the same | I8+convrot |

Any other format keeps its name as the dtype, which is then refused as one that is not read. An int8
weight that does not say its format is refused too: it could be rotated.
Sources: QUANTIZATION.md of ComfyUI (tensors, metadata, value = stored * scale) and
docs/int8_convrot.md of stable-diffusion.cpp (the rotation). Importing this module loads no torch.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights.reader import CheckpointReader, Format, TensorInfo, parse_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from seedvr2_core.weights.quantized import QuantizedWeight

WEIGHT, SCALE, CONFIG = ".weight", ".weight_scale", ".comfy_quant"
UNUSED = ".input_scale"
"""Of activations that are quantised too, which ours are not."""
MAX_CONFIG_BYTES = 4096
_METADATA = "_quantization_metadata"
_STORED = {"float8_e4m3fn": "F8_E4M3", "int8_tensorwise": "I8"}
"""Format -> dtype of the weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """How a weight is stored."""

    info: TensorInfo
    """What it is as one tensor."""
    group: int = 0
    """Columns that were rotated together; 0: none."""


class _ScaledFile:
    """A file of which some weights have scales (a `CheckpointReader`)."""

    def __init__(
        self, path: Path, inner: CheckpointReader, recipes: Mapping[str, _Recipe], used: set[str]
    ) -> None:
        self._path = path
        self._inner = inner
        self._recipes = recipes
        self.format: Format = inner.format
        self.tensors: Mapping[str, TensorInfo] = {
            **{name: info for name, info in inner.tensors.items() if name not in used},
            **{name: recipe.info for name, recipe in recipes.items()},
        }

    def read(self, name: str) -> "Tensor | QuantizedWeight":
        """One tensor or quantised weight."""
        if name not in self._recipes:
            return self._inner.read(name)
        from seedvr2_core.weights.quantized import QuantizedWeight

        recipe = self._recipes[name]
        data, scale = self._inner.read(name), self._inner.read(_of(name, SCALE))
        assert not isinstance(data, QuantizedWeight)
        assert not isinstance(scale, QuantizedWeight)
        return QuantizedWeight(
            form=recipe.info.dtype,
            shape=recipe.info.shape,
            data=data,
            scale=scale.float().reshape(-1, 1),
            group=recipe.group,
        )

    def stage(self, device: "torch.device | str") -> None:
        """Tensors and scales come to a device."""
        self._inner.stage(device)

    def expect(self, names: Sequence[str]) -> None:
        """Read ahead; a quantised weight is its numbers and then their scale."""
        scaled = self._recipes
        parts = [(name, _of(name, SCALE)) if name in scaled else (name,) for name in names]
        self._inner.expect([part for pair in parts for part in pair])

    def close(self) -> None:
        """Close the file."""
        self._inner.close()


def with_scales(path: Path, inner: CheckpointReader) -> CheckpointReader:
    """The file with each quantised weight and what belongs to it as one tensor.

    Raises:
        CheckpointError: a scale or a format does not fit its weight; the message names the tensor.
    """
    metadata = _metadata_formats(path)
    ends = (SCALE, CONFIG, UNUSED)
    stems = {n.removesuffix(end) for n in inner.tensors for end in ends if n.endswith(end)}
    stems |= {stem for stem in metadata if stem + WEIGHT in inner.tensors}
    recipes: dict[str, _Recipe] = {}
    used: set[str] = set()
    for stem in sorted(stems):
        if stem + WEIGHT not in inner.tensors:
            continue  # what is left over is refused as unexpected, by its name
        config = _config(path, inner, stem, metadata)
        recipes[stem + WEIGHT] = _recipe(path, inner.tensors, stem, config)
        used |= {stem + end for end in ends}
    return _ScaledFile(path, inner, recipes, used) if recipes else inner


def _of(weight: str, end: str) -> str:
    return weight.removesuffix(WEIGHT) + end


def _metadata_formats(path: Path) -> dict[str, Any]:
    """What the header's metadata say of the layers, by the name of the layer."""
    with path.open("rb") as stream:
        header, _ = parse_header(path, stream, path.stat().st_size)
    metadata = header.get("__metadata__")
    text = metadata.get(_METADATA) if isinstance(metadata, dict) else None
    if text is None:
        return {}
    try:
        layers = json.loads(text)["layers"]
        return {str(name): dict(config) for name, config in layers.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its metadata {_METADATA} cannot be read; convert it again"
        ) from error


def _config(
    path: Path, inner: CheckpointReader, stem: str, metadata: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What the file says of a layer's format; None if it says nothing."""
    name = stem + CONFIG
    info = inner.tensors.get(name)
    if info is None:
        return metadata.get(stem)
    if info.dtype != "U8" or len(info.shape) != 1 or info.shape[0] > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{path}: {name} is {info.dtype} {list(info.shape)}, expected text")
    stored: Any = inner.read(name)
    try:
        return dict(json.loads(bytes(stored.tolist())))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: {name} is no JSON object; convert it again") from error


def _recipe(
    path: Path, tensors: Mapping[str, TensorInfo], stem: str, config: dict[str, Any] | None
) -> _Recipe:
    info = tensors[stem + WEIGHT]
    if config is None and info.dtype != _STORED["float8_e4m3fn"]:
        told = f"{info.dtype}, no {CONFIG[1:]}"
        return _Recipe(info=TensorInfo(told, info.shape))
    found = config or {"format": "float8_e4m3fn"}
    kind = found.get("format")
    if kind not in _STORED:
        return _Recipe(info=TensorInfo(f"format {str(kind)[:40]!r}", info.shape))
    if info.dtype != _STORED[kind] or len(info.shape) != 2:
        raise CheckpointError(
            f"{path}: {stem}{WEIGHT} is {info.dtype} {list(info.shape)}, expected a matrix in "
            f"{_STORED[kind]} for {kind}"
        )
    _check_scale(path, tensors, stem)
    group = _group(path, stem, found, info.shape[1]) if found.get("convrot") else 0
    dtype = f"{info.dtype}+{'convrot' if group else 'scale'}"
    scale_bytes = 4 * math.prod(tensors[stem + SCALE].shape)
    return _Recipe(info=TensorInfo(dtype, info.shape, scale_bytes), group=group)


def _check_scale(path: Path, tensors: Mapping[str, TensorInfo], stem: str) -> None:
    rows = tensors[stem + WEIGHT].shape[0]
    shapes = ((), (1,), (1, 1), (rows,), (rows, 1))
    scale = tensors.get(stem + SCALE)
    if scale is None:
        raise CheckpointError(f"{path}: {stem}{WEIGHT} is quantised and {stem}{SCALE} is missing")
    if scale.shape not in shapes or scale.dtype not in ("F32", "F16", "BF16"):
        raise CheckpointError(
            f"{path}: {stem}{SCALE} is {scale.dtype} {list(scale.shape)}, expected one number or "
            f"[{rows}, 1] in F32"
        )


def _group(path: Path, stem: str, config: Mapping[str, Any], columns: int) -> int:
    """Columns that were rotated together: a power of 4 that divides their number."""
    group = config.get("convrot_groupsize")
    power = isinstance(group, int) and group >= 4 and group & (group - 1) == 0
    if not isinstance(group, int) or not power or group.bit_length() % 2 == 0 or columns % group:
        raise CheckpointError(
            f"{path}: {stem}{CONFIG} has convrot_groupsize {str(group)[:40]}, expected a power of "
            f"4 that divides {columns}"
        )
    return group
