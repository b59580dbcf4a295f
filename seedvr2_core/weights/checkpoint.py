"""Checkpoints: recognises a file by its content, opens it strictly, reads it tensor by tensor.

A file holds one *part* of a model: a transformer (dit-3b, dit-7b), the VAE (vae) or the positive
text embedding (pos_emb). The sharp 7B has the names and shapes of the 7B; folder.py tells them
apart. Tensor names may share a prefix, and the VAE may use its old attention names; beyond that,
names and shapes must be exactly the model's. Importing this module loads no torch.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from seedvr2_core.config import DIT_3B, DIT_7B, VAE_PRODUCTION, DiTConfig, VAEConfig
from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights.reader import CheckpointReader, Format, TensorInfo, name_some, open_reader
from seedvr2_core.weights.table import NEGATIVE_TEXT, SHARP, TEXT, VAE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TEXT_SHAPE = (58, 5120)
NEGATIVE_TEXT_SHAPE = (64, 5120)
READABLE_DTYPES = ("F32", "F16", "BF16", "F8_E4M3")
"""Dtypes that are read. fp8 tensors have to be plain casts, without scales."""

CHECKED_AT_ONCE = 128
"""Tensors of a GPU whose values are checked together."""

_OLD_ATTENTION = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a file of one part must hold."""

    shapes: Mapping[str, tuple[int, ...]]
    """Name -> shape of what is read."""
    unread: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Tensors that a public file holds too (all of them or none) and that are never read: the rope
    buffers. They lose too much in half precision, so they are computed anew."""
    old_names: tuple[tuple[str, str], ...] = ()
    """Replacements that turn an older convention's names into today's."""
    any_name: bool = False
    """The file holds one tensor, which may have any name."""


Layouts = Callable[[], Mapping[str, Layout]]
"""Gives the layout of each part. A function, because building layouts takes torch and a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a file turned out to be."""

    part: str
    """dit-3b, dit-7b (sharp or not), vae, pos_emb, neg_emb."""
    format: Format
    dtypes: tuple[str, ...]
    """Dtypes of the tensors that are read, the most common first."""


@functools.cache
def public_layouts() -> Mapping[str, Layout]:
    """Layouts of the parts that have public weights."""
    return {
        "dit-3b": dit_layout(DIT_3B),
        "dit-7b": dit_layout(DIT_7B),
        VAE: vae_layout(VAE_PRODUCTION),
        TEXT: text_layout(TEXT_SHAPE),
        NEGATIVE_TEXT: text_layout(NEGATIVE_TEXT_SHAPE),
    }


def dit_layout(config: DiTConfig) -> Layout:
    """Names and shapes of a transformer's tensors."""
    from seedvr2_core.dit.model import ROPE_BUFFER, expected_keys

    shapes = expected_keys(config)
    unread = {name: shape for name, shape in shapes.items() if name.endswith(ROPE_BUFFER)}
    return Layout(shapes={n: s for n, s in shapes.items() if n not in unread}, unread=unread)


def vae_layout(config: VAEConfig) -> Layout:
    """Names and shapes of the VAE's tensors."""
    import torch

    from seedvr2_core.vae.model import VideoVAE

    with torch.device("meta"):
        state = VideoVAE(config).state_dict()
    return Layout(
        shapes={name: tuple(t.shape) for name, t in state.items()}, old_names=_OLD_ATTENTION
    )


def text_layout(shape: tuple[int, int]) -> Layout:
    """A text embedding: one tensor."""
    return Layout(shapes={TEXT: shape}, any_name=True)


def base_part(part: str) -> str:
    """The part whose layout a file of that part has: dit-7b for dit-7b-sharp."""
    return part.removesuffix(SHARP)


def identify(path: Path, *, layouts: Layouts = public_layouts) -> Identity:
    """Recognise a file by the names and shapes of its tensors, without reading values.

    Args:
        path: a .safetensors or torch file, under any name.
        layouts: the parts it may be.

    Raises:
        CheckpointError: it is none of them; the message says what differs from the nearest part.
    """
    reader = open_reader(path)
    try:
        return _identify(path, reader, layouts())
    finally:
        reader.close()


def open_checkpoint(
    path: Path,
    part: str,
    *,
    layouts: Layouts = public_layouts,
    device: "torch.device | str" = "cpu",
    dtype: "torch.dtype | None" = None,
) -> "Checkpoint":
    """Open a file that has to be the given part, and check every name, shape and dtype.

    Args:
        path: the file.
        part: dit-3b, dit-7b, dit-7b-sharp, vae or pos_emb.
        layouts: the known parts.
        device: where tensors are moved when they are read, then checked and cast.
        dtype: what they are cast to; None keeps the file's.

    Raises:
        CheckpointError: it is another part, or tensors are wrong; the message names them.
    """
    known = layouts()
    reader = open_reader(path)
    names, differences = _match(reader.tensors, known[base_part(part)])
    if differences.count:
        reader.close()
        raise CheckpointError(_not_the_part(path, part, reader, differences, known))
    return Checkpoint(path, reader, names, device=device, dtype=dtype)


def load_text_embedding(path: Path, *, layouts: Layouts = public_layouts) -> "Tensor":
    """The positive text embedding, (58, 5120), as stored.

    Raises:
        CheckpointError: not one tensor of that shape, or not finite.
    """
    with open_checkpoint(path, TEXT, layouts=layouts) as checkpoint:
        return checkpoint[TEXT].clone()


class Checkpoint(Mapping[str, "Tensor"]):
    """An open file as name -> tensor, under the model's names, without the rope buffers.

    Each access reads from the file again and checks that all values are finite; on a GPU, which
    would have to be waited for each time, the checks of many tensors are looked at together, the
    last of them when the checkpoint is left. The caller may keep the tensor as long as the
    checkpoint is open.
    """

    def __init__(
        self,
        path: Path,
        reader: CheckpointReader,
        names: Mapping[str, str],
        *,
        device: "torch.device | str",
        dtype: "torch.dtype | None",
    ) -> None:
        """See `open_checkpoint`; `names` maps the model's names to the file's."""
        self.path = path
        self._reader = reader
        self._names = names
        self._device = device
        self._dtype = dtype
        self._at_once = CHECKED_AT_ONCE if str(device).startswith("cuda") else 1
        self._unchecked: list[tuple[str, Tensor]] = []
        """Names, and the least and the greatest value of each."""

    def __getitem__(self, name: str) -> "Tensor":
        tensor = self._reader.read(self._names[name]).to(self._device)
        self._unchecked.append((name, _extremes(tensor)))
        if len(self._unchecked) >= self._at_once:
            self._check_finite()
        return tensor if self._dtype is None else tensor.to(self._dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._check_finite()
        finally:
            self.close()

    def check_values(self) -> None:
        """Read every tensor once to check its values.

        Raises:
            CheckpointError: values are NaN or infinite; the message names the tensor.
        """
        for name in self:
            self[name]
        self._check_finite()

    def _check_finite(self) -> None:
        """Look at the values of the tensors that were read since the last time."""
        import torch

        unchecked, self._unchecked = self._unchecked, []
        if not unchecked:
            return
        extremes = torch.stack([pair for _, pair in unchecked]).tolist()
        for (name, _), pair in zip(unchecked, extremes, strict=True):
            if not all(map(math.isfinite, pair)):
                raise CheckpointError(_told(self.path, name, self._reader.read(self._names[name])))

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def _extremes(tensor: "Tensor") -> "Tensor":
    """Least and greatest value, float64 (2,); a NaN reaches both. Ten times as fast as isfinite."""
    import torch

    if tensor.dtype == torch.float8_e4m3fn:
        tensor = tensor.to(torch.float16)  # exact; the reduction knows no fp8
    return torch.stack(torch.aminmax(tensor)).double()


def _told(path: Path, name: str, tensor: "Tensor") -> str:
    import torch

    bad = int((~torch.isfinite(tensor.float())).sum())
    return (
        f"{path}: {name} has {bad} of {tensor.numel()} values that are NaN or infinite; "
        "download the file again"
    )


@dataclass(slots=True)
class _Differences:
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


def _identify(path: Path, reader: CheckpointReader, layouts: Mapping[str, Layout]) -> Identity:
    found = {part: _match(reader.tensors, layout) for part, layout in layouts.items()}
    part = min(found, key=lambda name: _distance(*found[name]))
    names, differences = found[part]
    if differences.count:
        raise CheckpointError(
            f"{path} is none of {', '.join(layouts)}; nearest is {part}: {differences}; "
            "download it again if that is what it should be"
        )
    dtypes = [reader.tensors[stored].dtype for stored in names.values()]
    by_count = sorted(set(dtypes), key=lambda tag: (-dtypes.count(tag), tag))
    return Identity(part=part, format=reader.format, dtypes=tuple(by_count))


def _distance(names: Mapping[str, str], differences: _Differences) -> tuple[bool, int, int]:
    """Sort key of layouts: those that match first, then by how many names they share."""
    return differences.count > 0, -len(names), differences.count


def _not_the_part(
    path: Path,
    part: str,
    reader: CheckpointReader,
    differences: _Differences,
    layouts: Mapping[str, Layout],
) -> str:
    """Why a file cannot be opened as that part, and what it is instead."""
    others = [
        name
        for name, layout in layouts.items()
        if name != base_part(part) and not _match(reader.tensors, layout)[1].count
    ]
    held = f"holds {others[0]}, not {part}" if others else f"is not {part}"
    return f"{path} {held}: {differences}; use the file that belongs to this model"


def _match(
    tensors: Mapping[str, TensorInfo], layout: Layout
) -> tuple[dict[str, str], _Differences]:
    """The model's names of what is read -> the file's names, and the differences."""
    candidates = [_renamed(tensors, "", layout)]
    if prefix := _common_prefix(tensors):
        candidates.append(_renamed(tensors, prefix, layout))
    results = [(names, _compare(tensors, names, layout)) for names in candidates]
    names, differences = min(results, key=lambda result: result[1].count)
    return {name: names[name][0] for name in layout.shapes if name in names}, differences


def _common_prefix(names: Mapping[str, TensorInfo]) -> str:
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
) -> _Differences:
    has_unread = any(name in names for name in layout.unread)
    expected = {**layout.shapes, **(layout.unread if has_unread else {})}
    result = _Differences(missing=[name for name in expected if name not in names])
    for name, stored in names.items():
        info = tensors[stored[0]]
        if name not in expected:
            result.unexpected.append(stored[0])
        elif len(stored) > 1:
            result.twice.append(f"{name} (as {' and '.join(stored)})")
        elif info.shape != expected[name]:
            result.shape.append(f"{name} ({list(info.shape)}, expected {list(expected[name])})")
        elif info.dtype not in READABLE_DTYPES:
            result.dtype.append(f"{name} ({info.dtype})")
    return result
