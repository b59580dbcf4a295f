"""GGUF files: the header, read within bounds, and one tensor at a time.

The reader of the `gguf` package walks a header as its counts say, so a few hostile bytes make it
loop or allocate without end (an array that claims 2^60 numbers). Here nothing is read, counted or
allocated that the rest of the file could not hold. The layout is that of the public GGUF
specification, versions 2 and 3, little-endian: counts, metadata, tensor entries, padding, data.
Importing this module loads no torch.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights.reader import BLOCK_BYTES, Format, TensorInfo, damaged, name_some

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from seedvr2_core.weights.quantized import QuantizedWeight
    from seedvr2_core.weights.staging.ring import StagedFile

VERSIONS = (2, 3)
MAX_HEADER_BYTES = 16 * 2**20
"""Of counts, metadata and entries together: those of a language model with its vocabulary have some
MB, ours some hundred KB."""
MAX_NAME_BYTES = 1 << 16
MAX_DIMENSIONS = 8
_MAX_DEPTH = 2
"""Arrays of arrays."""
_ALIGNMENT_KEY = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_SHAPE_KEY = "comfy.gguf.orig_shape."
"""Metadata of converters for image models: a tensor's shape before it was flattened."""
_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, str] = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"},
    **{10: "Q", 11: "q", 12: "d"},
}
"""struct formats of metadata types."""
_TYPES: Mapping[int, str] = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1"},
    **{10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS"},
    **{17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S"},
    **{23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M"},
    **{30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
}
"""Names of ggml's tensor types, for messages too."""
_SIZES: Mapping[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    **BLOCK_BYTES,
}
"""Types that are read: values and bytes of a block."""


class GGUFFile:
    """An open GGUF file (a `CheckpointReader`)."""

    format: Format = "gguf"

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CheckpointError: truncated, or a header that contradicts itself.
        """
        self._path = path
        with path.open("rb") as stream:
            size = path.stat().st_size
            entries, start = _read_header(_Cursor(path, stream, size))
        self._entries = entries
        self._start = start
        self._staged: StagedFile | None = None
        _check_places(path, entries, size - start)
        self.tensors: Mapping[str, TensorInfo] = {n: e.info for n, e in entries.items()}

    def read(self, name: str) -> "Tensor | QuantizedWeight":
        """One tensor, on the CPU or where `stage` has said.

        Raises:
            CheckpointError: of a type that is not read; or the file cannot be read, or it has
                become shorter.
        """
        import torch

        from seedvr2_core.weights.quantized import QuantizedWeight

        entry = self._entries[name]
        if entry.info.dtype not in _SIZES:
            raise CheckpointError(f"{self._path}: {name} is {entry.info.dtype}, which is not read")
        data = self._bytes(name, entry) if self._staged is None else self._staged.read(name)
        kind, shape = entry.info.dtype, entry.info.shape
        if kind in BLOCK_BYTES:
            blocks = data.view(-1, BLOCK_BYTES[kind][1])
            return QuantizedWeight(form=kind, shape=shape, data=blocks)
        dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        return data.view(dtypes[kind]).view(shape)

    def stage(self, device: "torch.device | str") -> None:
        """Tensors come to a device."""
        import torch

        from seedvr2_core.weights.staging.ring import StagedFile
        from seedvr2_core.weights.staging.spans import TensorPlace

        spans = {
            name: TensorPlace(
                start=self._start + entry.offset,
                num_bytes=entry.num_bytes,
                dtype=torch.uint8,
                shape=(entry.num_bytes,),
            )
            for name, entry in self._entries.items()
        }
        self._staged = StagedFile(self._path, spans, device=device)

    def expect(self, names: Sequence[str]) -> None:
        """Read ahead, if the file is staged."""
        if self._staged is not None:
            self._staged.expect(names)

    def _bytes(self, name: str, entry: "_TensorEntry") -> "Tensor":
        """A tensor's bytes, uint8 on the CPU."""
        import torch

        try:
            with self._path.open("rb") as stream:
                stream.seek(self._start + entry.offset)
                data = torch.empty(entry.num_bytes, dtype=torch.uint8)
                content: Any = data.numpy()
                count = stream.readinto(memoryview(content))
        except OSError as error:
            raise CheckpointError(f"{self._path}: {name} cannot be read: {error}") from error
        if count != entry.num_bytes:
            raise CheckpointError(f"{self._path} is truncated in {name}; download it again")
        return data

    def close(self) -> None:
        """Close the file, if it was staged."""
        if self._staged is not None:
            self._staged.close()


class _TensorEntry:
    """A tensor's entry."""

    __slots__ = ("info", "num_bytes", "offset")

    def __init__(self, info: TensorInfo, offset: int, num_bytes: int) -> None:
        self.info = info
        self.offset = offset
        """In the data."""
        self.num_bytes = num_bytes
        """0 for types that are not read."""


class _Cursor:
    """Reads a header from front to back and never beyond it."""

    def __init__(self, path: Path, stream: BinaryIO, size: int) -> None:
        self.path = path
        self.place = 0
        self._stream = stream
        self._size = size
        self._limit = min(size, MAX_HEADER_BYTES)

    @property
    def left(self) -> int:
        """Bytes that the header may still have."""
        return self._limit - self.place

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._claim(count)
        return self._stream.read(count)

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        self._claim(count)
        self._stream.seek(count, 1)

    def number(self, kind: str) -> int:
        """The next number of a struct format."""
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def count(self, least_bytes: int, what: str) -> int:
        """How many things follow, of which each takes so many bytes at the least."""
        count = self.number("Q")
        if count * least_bytes > self.left:
            raise damaged(self.path, f"its header claims {count} {what}")
        return count

    def text(self, what: str) -> str:
        """The next string."""
        length = self.number("Q")
        if length > MAX_NAME_BYTES:
            raise damaged(self.path, f"{what} claims to have {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"{what} is no text") from error

    def _claim(self, count: int) -> None:
        if count > self.left and self._limit < self._size:
            raise damaged(self.path, f"its header has more than {MAX_HEADER_BYTES} bytes")
        if count > self.left:
            raise CheckpointError(
                f"{self.path} is truncated: its header goes on after its {self._size} bytes; "
                "download it again"
            )
        self.place += count


def _read_header(cursor: _Cursor) -> tuple[dict[str, _TensorEntry], int]:
    """The entries, and where the data begin."""
    cursor.skip(4)
    version = cursor.number("I")
    if version not in VERSIONS:
        raise CheckpointError(
            f"{cursor.path} is GGUF of version {version}, and versions 2 and 3 in little-endian "
            "order are read; convert it again"
        )
    num_tensors, num_keys = cursor.number("Q"), cursor.count(12, "metadata")
    if num_tensors * 24 > cursor.left:
        raise damaged(cursor.path, f"its header claims {num_tensors} tensors")
    alignment, shapes = _read_metadata(cursor, num_keys)
    entries: dict[str, _TensorEntry] = {}
    for _ in range(num_tensors):
        name, entry = _read_entry(cursor, alignment, shapes)
        if name in entries:
            raise damaged(cursor.path, f"named twice: {name}")
        entries[name] = entry
    return entries, -(-cursor.place // alignment) * alignment


def _read_metadata(cursor: _Cursor, num_keys: int) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Alignment of the data and the shapes that converters have noted."""
    alignment, shapes = _DEFAULT_ALIGNMENT, {}
    for _ in range(num_keys):
        key = cursor.text("a metadata key")
        kind = cursor.number("I")
        if key == _ALIGNMENT_KEY:
            alignment = cursor.number("I") if kind == 4 else 0
            if not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
                raise damaged(cursor.path, f"{key} is no power of two")
        elif key.startswith(_SHAPE_KEY) and kind == _ARRAY:
            shapes[key.removeprefix(_SHAPE_KEY)] = _read_shape(cursor, key)
        else:
            _skip_value(cursor, key, kind, 0)
    return alignment, shapes


def _read_shape(cursor: _Cursor, key: str) -> tuple[int, ...]:
    kind = _SCALARS.get(cursor.number("I"), "f")
    if kind in "fd?" or (count := cursor.number("Q")) > MAX_DIMENSIONS:
        raise damaged(cursor.path, f"{key} is no shape")
    return tuple(cursor.number(kind) for _ in range(count))


def _skip_value(cursor: _Cursor, key: str, kind: int, depth: int) -> None:
    """Pass over a metadata value."""
    if kind in _SCALARS:
        cursor.skip(struct.calcsize(f"<{_SCALARS[kind]}"))
    elif kind == _STRING:
        cursor.skip(cursor.number("Q"))
    elif kind == _ARRAY and depth < _MAX_DEPTH:
        _skip_array(cursor, key, depth)
    else:
        raise damaged(cursor.path, f"metadata {key[:80]!r} has the unknown type {kind}")


def _skip_array(cursor: _Cursor, key: str, depth: int) -> None:
    kind = cursor.number("I")
    if kind in _SCALARS:
        cursor.skip(cursor.number("Q") * struct.calcsize(f"<{_SCALARS[kind]}"))
        return
    for _ in range(cursor.count(8, f"values of {key[:80]!r}")):
        _skip_value(cursor, key, kind, depth + 1)


def _read_entry(
    cursor: _Cursor, alignment: int, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, _TensorEntry]:
    """A tensor's name and entry. GGUF counts dimensions from the one that varies fastest."""
    name = cursor.text("the name of a tensor")
    num_dimensions = cursor.number("I")
    if num_dimensions > MAX_DIMENSIONS:
        raise damaged(cursor.path, f"{name} has {num_dimensions} dimensions")
    stored = tuple(cursor.number("Q") for _ in range(num_dimensions))
    number, offset = cursor.number("I"), cursor.number("Q")
    kind = _TYPES.get(number, f"type {number}")
    shape = shapes.get(name, stored[::-1])
    if min(shape, default=0) < 0 or math.prod(shape) != math.prod(stored):
        raise damaged(cursor.path, f"{name} is noted as {list(shape)} but is {list(stored[::-1])}")
    if offset % alignment:
        raise damaged(cursor.path, f"{name} begins at byte {offset}, no multiple of {alignment}")
    values, num_bytes = _SIZES.get(kind, (1, 0))
    if stored and stored[0] % values:
        raise damaged(cursor.path, f"{name} has {stored[0]} columns, {kind} packs {values}")
    info = TensorInfo(kind, shape)
    return name, _TensorEntry(info, offset, math.prod(stored) // values * num_bytes)


def _check_places(path: Path, entries: Mapping[str, _TensorEntry], held: int) -> None:
    """Refuse tensors that lie outside of the file or in each other."""
    cut = [name for name, entry in entries.items() if entry.offset + entry.num_bytes > held]
    if cut:
        raise CheckpointError(
            f"{path} is truncated, and with it {len(cut)} of {len(entries)} tensors: "
            f"{name_some(cut)}; download it again"
        )
    end, before = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        if entry.offset < end and entry.num_bytes:
            raise damaged(path, f"{name} lies in {before}")
        end, before = max(end, entry.offset + entry.num_bytes), name
