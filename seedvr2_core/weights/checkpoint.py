"""Checkpoints: recognises a file by its content, opens it strictly, reads it tensor by tensor.

A file holds one *part* of a model: a transformer (dit-3b, dit-7b, dit-1.4b), the VAE (vae) or the
positive text embedding (pos_emb). A transformer's file may bring the text embedding too. The sharp
7B has the names and shapes of the 7B; folder.py tells them apart. matching.py says what fits.
Importing this module loads no torch.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seedvr2_core.errors import CheckpointError
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.weights.layouts import POSITIVE, Layout, Layouts, base_part, public_layouts
from seedvr2_core.weights.matching import (
    NOTHING_QUANTIZED,
    QUANTIZED_DTYPES,
    Differences,
    QuantizedSize,
    match_layout,
    quantized_size,
)
from seedvr2_core.weights.reader import (
    CheckpointReader,
    Format,
    open_reader,
)
from seedvr2_core.weights.table import TEXT

if TYPE_CHECKING:
    import torch
    from torch import Tensor


CHECKED_AT_ONCE = 128
"""Tensors of a GPU whose values are checked together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a file turned out to be."""

    part: str
    """dit-3b, dit-7b (sharp or not), dit-1.4b, vae, pos_emb, neg_emb."""
    format: Format
    dtypes: tuple[str, ...]
    """Dtypes of the tensors that are read, the most common first."""
    has_text: bool = False
    """Whether a transformer's file brings the positive text embedding."""
    quantized: QuantizedSize = field(default=NOTHING_QUANTIZED, compare=False)
    """What of it stays quantised in memory."""


def identify(path: Path, *, layouts: Layouts = public_layouts) -> Identity:
    """Recognise a file by the names and shapes of its tensors, without reading values.

    Args:
        path: a .safetensors, GGUF or torch file, under any name.
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
    keep_quantized: bool = False,
) -> "Checkpoint":
    """Open a file that has to be the given part, and check every name, shape and dtype.

    Args:
        path: the file.
        part: dit-3b, dit-7b, dit-7b-sharp, dit-1.4b, vae or pos_emb.
        layouts: the known parts.
        device: where tensors are moved when they are read, then checked and cast.
        dtype: what they are cast to; None keeps the file's, and float32 for quantised weights.
        keep_quantized: give the layout's quantizable weights as `QuantizedWeight`, where they are.

    Raises:
        CheckpointError: it is another part, or tensors are wrong; the message names them.
    """
    known = layouts()
    reader = open_reader(path)
    names, differences = match_layout(reader.tensors, known[base_part(part)])
    if differences.count:
        reader.close()
        raise CheckpointError(_not_the_part(path, part, reader, differences, known))
    reader.stage(device)
    kept = known[base_part(part)].quantizable if keep_quantized else ()
    return Checkpoint(path, reader, names, device=device, dtype=dtype, kept=kept)


def load_text_embedding(path: Path, *, layouts: Layouts = public_layouts) -> "Tensor":
    """The positive text embedding, (58, 5120), as stored.

    Args:
        path: a file of its own, or that of a transformer that brings one.
        layouts: the known parts.

    Raises:
        CheckpointError: no tensor of that shape, or its values cannot be an embedding.
    """
    identity = identify(path, layouts=layouts)
    if not identity.has_text:
        with open_checkpoint(path, TEXT, layouts=layouts) as checkpoint:
            return checkpoint[TEXT].clone()
    reader = open_reader(path)
    try:
        name = next(name for name in reader.tensors if name.endswith(POSITIVE))
        text: Any = reader.read(name)
        text_LX = text.reshape(text.shape[-2:]).clone()
    finally:
        reader.close()
    _check_text(path, name, text_LX)
    return text_LX


def _check_text(path: Path, name: str, text_LX: "Tensor") -> None:
    """Refuse what cannot be an embedding: not finite, or rows that say nothing."""
    wide_LX = text_LX.float()
    if not wide_LX.isfinite().all():
        raise CheckpointError(_told(path, name, text_LX))
    if not wide_LX.any(dim=1).all():
        raise CheckpointError(
            f"{path}: {name} has tokens that are all zero, so it is no text embedding; download "
            "the file again, or use one without it"
        )


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
        kept: Collection[str] = (),
    ) -> None:
        """See `open_checkpoint`.

        Args:
            path: the file.
            reader: the open file.
            names: the model's names -> the file's.
            device: where tensors are moved.
            dtype: what they are cast to.
            kept: names of weights that stay quantised if they are.
        """
        self.path = path
        self._reader = reader
        self._names = names
        self._device = device
        self._dtype = dtype
        self._kept = kept
        self._at_once = CHECKED_AT_ONCE if on_gpu(device) else 1
        self._unchecked: list[tuple[str, Tensor]] = []
        """Names, and the least and the greatest value of each."""

    def __getitem__(self, name: str) -> "Tensor":
        stored: Any = self._reader.read(self._names[name]).to(self._device)
        tensor = _expanded(stored)
        self._unchecked.append((name, _extremes(tensor)))
        if len(self._unchecked) >= self._at_once:
            self._check_finite()
        dtype = self._reader.tensors[self._names[name]].dtype
        if name in self._kept and dtype in QUANTIZED_DTYPES:
            return _quantized(stored, dtype)
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

    def expect(self, names: Iterable[str]) -> None:
        """Read ahead: these tensors will be asked for next, in this order.

        Another order, or another tensor, is only slower.
        """
        self._reader.expect([self._names[name] for name in names if name in self._names])

    def check_values(self) -> None:
        """Read every tensor once to check its values.

        Raises:
            CheckpointError: values are NaN or infinite; the message names the tensor.
        """
        self.expect(self)
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
                bad = _expanded(self._reader.read(self._names[name]))
                raise CheckpointError(_told(self.path, name, bad))

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def _expanded(stored: Any) -> "Tensor":
    """A tensor, or the numbers of a quantised weight in float32."""
    import torch

    return stored if isinstance(stored, torch.Tensor) else stored.expand()


def _quantized(stored: Any, dtype: str) -> Any:
    """A weight of a quantised dtype as a `QuantizedWeight`; plain fp8 has no scale.

    The type is not told: folding multiplies it, moves it and casts it as it does with a tensor.
    """
    import torch

    from seedvr2_core.weights.quantized import QuantizedWeight

    if not isinstance(stored, torch.Tensor):
        return stored
    return QuantizedWeight(form=dtype, shape=tuple(stored.shape), data=stored)


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


def _identify(path: Path, reader: CheckpointReader, layouts: Mapping[str, Layout]) -> Identity:
    found = {part: match_layout(reader.tensors, layout) for part, layout in layouts.items()}
    part = min(found, key=lambda name: _distance(*found[name]))
    names, differences = found[part]
    if differences.count:
        raise CheckpointError(
            f"{path} is none of {', '.join(layouts)}; nearest is {part}: {differences}; "
            "download it again if that is what it should be"
        )
    dtypes = [reader.tensors[stored].dtype for stored in names.values()]
    by_count = sorted(set(dtypes), key=lambda tag: (-dtypes.count(tag), tag))
    return Identity(
        part=part,
        format=reader.format,
        dtypes=tuple(by_count),
        has_text=bool(layouts[part].texts) and any(n.endswith(POSITIVE) for n in reader.tensors),
        quantized=quantized_size(reader.tensors, names, layouts[part]),
    )


def _distance(names: Mapping[str, str], differences: Differences) -> tuple[bool, int, int]:
    """Sort key of layouts: those that match first, then by how many names they share."""
    return differences.count > 0, -len(names), differences.count


def _not_the_part(
    path: Path,
    part: str,
    reader: CheckpointReader,
    differences: Differences,
    layouts: Mapping[str, Layout],
) -> str:
    """Why a file cannot be opened as that part, and what it is instead."""
    others = [
        name
        for name, layout in layouts.items()
        if name != base_part(part) and not match_layout(reader.tensors, layout)[1].count
    ]
    held = f"holds {others[0]}, not {part}" if others else f"is not {part}"
    return f"{path} {held}: {differences}; use the file that belongs to this model"
