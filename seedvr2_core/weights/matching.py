"""Compares what a file holds with what a part must hold, tensor by tensor.

Tensor names may share a prefix, and the VAE may use its old attention names; beyond that, names and
shapes must be exactly the part's. Importing this module loads no torch.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seedvr2_core.weights.layouts import Layout
from seedvr2_core.weights.reader import BLOCK_BYTES, TensorInfo, name_some

PLAIN_DTYPES = ("F32", "F16", "BF16")
QUANTIZED_DTYPES = ("F8_E4M3", "F8_E4M3+scale", "I8+scale", "I8+convrot", *BLOCK_BYTES)
"""Dtypes that may stay as they are in memory; fp8 without a scale is a plain cast."""
READABLE_DTYPES = (*PLAIN_DTYPES, *QUANTIZED_DTYPES)
FACTOR_BYTES = 4
"""Of a number of the vector that folding multiplies a weight by."""
TEXT_DTYPES = PLAIN_DTYPES
"""Dtypes of a text embedding beside a transformer."""


@dataclass(slots=True)
class Differences:
    """Names of the tensors in which a file differs from a layout."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shape: list[str] = field(default_factory=list)
    dtype: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(map(len, self._by_kind().values()))

    def _by_kind(self) -> dict[str, list[str]]:
        return {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.shape,
            "of a dtype that is not read": self.dtype,
            "there twice": self.twice,
        }

    def __str__(self) -> str:
        return "; ".join(
            f"{len(names)} {kind}: {name_some(names)}"
            for kind, names in self._by_kind().items()
            if names
        )


def match_layout(
    tensors: Mapping[str, TensorInfo], layout: Layout
) -> tuple[dict[str, str], Differences]:
    """Find a layout's tensors in a file.

    Returns:
        The layout's names of what is read -> the file's names, and in what the file differs.
    """
    candidates = [_renamed(tensors, "", layout)]
    if prefix := _common_prefix([name for name in tensors if name not in layout.texts]):
        candidates.append(_renamed(tensors, prefix, layout))
    results = [(names, _compare(tensors, names, layout)) for names in candidates]
    names, differences = min(results, key=lambda result: result[1].count)
    return {name: names[name][0] for name in layout.shapes if name in names}, differences


def _common_prefix(names: Sequence[str]) -> str:
    """The dotted part that all names begin with."""
    if len(names) < 2:
        return ""
    levels = zip(*(name.split(".") for name in names), strict=False)
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    return "".join(f"{level[0]}." for level in shared)


def _renamed(names: Mapping[str, TensorInfo], prefix: str, layout: Layout) -> dict[str, list[str]]:
    """The model's names -> what the file has under each of them."""
    if layout.any_name and len(names) == 1:
        return {next(iter(layout.shapes)): list(names)}
    renamed: dict[str, list[str]] = {}
    for stored in names:
        name = stored.removeprefix(prefix)
        for old, new in layout.old_names:
            name = name.replace(old, new)
        renamed.setdefault(name, []).append(stored)
    return renamed


def _compare(
    tensors: Mapping[str, TensorInfo], names: Mapping[str, list[str]], layout: Layout
) -> Differences:
    has_unread = any(name in names for name in layout.unread)
    expected = {**layout.shapes, **(layout.unread if has_unread else {})}
    texts = {name: shape for name, shape in layout.texts.items() if name in names}
    result = Differences(missing=[name for name in expected if name not in names])
    for name, stored in names.items():
        info = tensors[stored[0]]
        wanted = expected.get(name) or texts.get(name)
        shape = without_leading_ones(info.shape) if name in texts else info.shape
        if wanted is None:
            result.unexpected.append(stored[0])
        elif len(stored) > 1:
            result.twice.append(f"{name} (as {' and '.join(stored)})")
        elif shape != wanted:
            result.shape.append(f"{name} ({list(info.shape)}, expected {list(wanted)})")
        elif info.dtype not in (TEXT_DTYPES if name in texts else READABLE_DTYPES):
            result.dtype.append(f"{name} ({info.dtype})")
    return result


def without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of length 1 before a matrix."""
    ones = itertools.takewhile(lambda length: length == 1, shape[:-2])
    return shape[sum(ones) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedSize:
    """What the weights that stay quantised take in a folded model; all others are not counted."""

    layers: tuple[tuple[int, int], ...] = ()
    """Of each layer how many numbers they stand for, and their bytes with scales and what folding
    adds; () where nothing is quantised."""
    largest: int = 0
    """Numbers of the largest."""

    @property
    def values(self) -> int:
        """Numbers that they all stand for."""
        return sum(values for values, _ in self.layers)

    @property
    def num_bytes(self) -> int:
        """Bytes of them all."""
        return sum(num_bytes for _, num_bytes in self.layers)


NOTHING_QUANTIZED = QuantizedSize()


def quantized_size(
    tensors: Mapping[str, TensorInfo], names: Mapping[str, str], layout: Layout
) -> QuantizedSize:
    """What the weights that stay quantised take.

    Args:
        tensors: of the file.
        names: from `match_layout`.
        layout: of the part.
    """
    sizes: dict[int, tuple[int, int]] = {}
    largest = 0
    for name, copies in layout.quantizable.items():
        layer = int(name.split(".")[1])
        values, num_bytes = sizes.setdefault(layer, (0, 0))
        info = tensors[names[name]]
        if info.dtype not in QUANTIZED_DTYPES:
            continue
        rows, columns = info.shape
        factor = FACTOR_BYTES * (rows if ".proj_out." in name else columns)
        added = copies * (info.num_bytes + factor)
        sizes[layer] = (values + copies * rows * columns, num_bytes + added)
        largest = max(largest, rows * columns)
    layers = tuple(sizes[layer] for layer in sorted(sizes))
    return QuantizedSize(layers=layers if largest else (), largest=largest)
