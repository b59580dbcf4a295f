"""Reads weights files: names, dtypes and shapes at once, values one tensor at a time.

There are three formats, told apart by their first bytes: .safetensors, whose header describes all
tensors; the format of torch.save, read with `weights_only=True` so that no code in it is run; and
GGUF (gguf_file.py). A quantised weight that is several tensors in its file is one here (scaled.py).
Importing this module loads no torch.
"""

import json
import math
import pickle
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

from seedvr2_core.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from seedvr2_core.weights.quantized import QuantizedWeight
    from seedvr2_core.weights.staging.ring import StagedFile
    from seedvr2_core.weights.staging.spans import TensorPlace

Format = Literal["safetensors", "torch", "gguf"]

BLOCK_BYTES: Mapping[str, tuple[int, int]] = {
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""ggml's block formats that are read: values and bytes of a block."""

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "module", "params_ema", "params")
"""Keys under which training scripts put the weights."""

_ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
_TORCH_TAGS = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
}
_LOAD_ERRORS = (
    *(RuntimeError, EOFError, OSError, struct.error, AssertionError, zipfile.BadZipFile),
    *(ValueError, LookupError, TypeError, AttributeError),
)
"""What a damaged pickle can make torch.load raise."""
_MAX_HEADER_BYTES = 4 * 2**20
"""The largest public file has 0.5 MB. JSON of this size takes some ten times as much memory."""
_MAX_OFFSET = 2**62
_MAX_REASON = 300
"""Characters of a message: a header may name a tensor of a million dimensions."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """dtype and shape of a tensor.

    The dtype is as safetensors writes it (F32, F16, BF16, F8_E4M3 ...), a block format of ggml
    (Q8_0 ...), or what scaled.py makes of a weight and its scale (F8_E4M3+scale ...).
    """

    dtype: str
    shape: tuple[int, ...]
    scale_bytes: int = 0
    """Of what belongs to a quantised weight beside its numbers, as it is kept in memory."""

    @property
    def num_bytes(self) -> int:
        """Bytes in memory, of a dtype that is read."""
        values, block = BLOCK_BYTES.get(self.dtype, (1, 0))
        block = block or _ITEM_BYTES[self.dtype.partition("+")[0]]
        return math.prod(self.shape) // values * block + self.scale_bytes


class CheckpointReader(Protocol):
    """An open weights file."""

    format: Format
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> "Tensor | QuantizedWeight":
        """One tensor in the dtype of the file; on the CPU, or where `stage` has said."""
        ...

    def stage(self, device: "torch.device | str") -> None:
        """From now on tensors come through a ring of buffers to a device (staging/ring.py).

        A form of file that cannot do that may still give them on the CPU.
        """
        ...

    def expect(self, names: Sequence[str]) -> None:
        """Read ahead what will be asked for next, in this order, if the file is staged."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def name_some(names: Iterable[str]) -> str:
    """The first few names, sorted, and how many more there are."""
    found = sorted(names)
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def sniff_format(path: Path) -> Format | None:
    """The format that the first bytes announce; None if the file holds no weights.

    Raises:
        CheckpointError: no file, or not readable.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04"):
        return "torch"
    if len(start) == 9 and start[8:] == b"{":
        return "safetensors"
    return None


def open_reader(path: Path) -> CheckpointReader:
    """Open a file of any format.

    Raises:
        CheckpointError: missing, truncated, damaged, or not a weights file.
    """
    from seedvr2_core.weights.gguf_file import GGUFFile
    from seedvr2_core.weights.scaled import with_scales

    kind = sniff_format(path)
    if kind == "safetensors":
        return with_scales(path, _SafetensorsFile(path))
    if kind == "torch":
        return _TorchFile(path)
    if kind == "gguf":
        return GGUFFile(path)
    raise CheckpointError(
        f"{path} is no weights file: it begins like none of .safetensors, GGUF and torch's format"
    )


class _SafetensorsFile:
    format: Format = "safetensors"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tensors: Mapping[str, TensorInfo] = read_safetensors_header(path)
        self._open: Any = None
        self._staged: StagedFile | None = None

    def read(self, name: str) -> "Tensor":
        if self._staged is not None:
            return self._staged.read(name)
        from safetensors import SafetensorError, safe_open

        try:
            if self._open is None:
                self._open = safe_open(self._path, framework="pt", device="cpu")
            return self._open.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self._path}: {name} cannot be read: {error}") from error

    def stage(self, device: "torch.device | str") -> None:
        from seedvr2_core.weights.staging.ring import StagedFile
        from seedvr2_core.weights.staging.spans import safetensors_spans

        self._staged = StagedFile(self._path, safetensors_spans(self._path), device=device)

    def expect(self, names: Sequence[str]) -> None:
        if self._staged is not None:
            self._staged.expect(names)

    def close(self) -> None:
        self._open = None
        if self._staged is not None:
            self._staged.close()


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Names, dtypes and shapes; checks that the file has the length they need.

    Raises:
        CheckpointError: truncated, too long, or a header that contradicts itself.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        header, start = parse_header(path, stream, size)
    header.pop("__metadata__", None)
    spans = {name: tensor_span(path, name, entry) for name, entry in header.items()}
    end = 0
    for name, (first, last, _) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if first != end:
            raise damaged(path, f"{name} begins at byte {first} of the data, expected {end}")
        end = last
    held = size - start
    if held < end:
        cut = [name for name, (_, last, _) in spans.items() if last > held]
        raise CheckpointError(
            f"{path} is truncated: {end - held} of {end + start} bytes are missing, and with them "
            f"{len(cut)} of {len(spans)} tensors: {name_some(cut)}; download it again"
        )
    if held > end:
        raise damaged(path, f"{held - end} bytes follow the last tensor")
    return {name: info for name, (_, _, info) in spans.items()}


def parse_header(path: Path, stream: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header and the offset of the data."""
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > _MAX_HEADER_BYTES:
        raise damaged(path, f"its header claims {length} bytes")
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is truncated: its header alone has {length} bytes, the file {size}; "
            "download it again"
        )
    try:
        header = json.loads(stream.read(length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise damaged(path, "its header is no JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        twice = {name for name, count in Counter(name for name, _ in pairs).items() if count > 1}
        raise ValueError(f"named twice: {name_some(twice)}")
    return names


def tensor_span(path: Path, name: str, entry: Any) -> tuple[int, int, TensorInfo]:
    """First and last byte in the data, dtype and shape of a header's entry."""
    try:
        info = TensorInfo(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
        first, last = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, f"the entry of {name} cannot be read") from error
    if not -_MAX_OFFSET < first < _MAX_OFFSET or not -_MAX_OFFSET < last < _MAX_OFFSET:
        raise damaged(path, f"{name} lies outside of any file")
    item = _ITEM_BYTES.get(info.dtype)
    if item is None:
        raise damaged(path, f"{name} has the unknown dtype {info.dtype}")
    if min(info.shape, default=0) < 0 or last - first != item * math.prod(info.shape):
        raise damaged(
            path, f"{name} is {info.dtype} {list(info.shape)} but has {last - first} bytes"
        )
    return first, last, info


def damaged(path: Path, reason: str) -> CheckpointError:
    """The error for a file that contradicts itself."""
    shown = reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."
    return CheckpointError(f"{path} is damaged: {shown}; download it again")


class _TorchFile:
    format: Format = "torch"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _unwrap(path, _load_torch(path))
        self._staged: StagedFile | None = None
        self._places: Mapping[str, TensorPlace] = {}
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(_TORCH_TAGS.get(str(t.dtype), str(t.dtype)), tuple(t.shape))
            for name, t in self._state.items()
        }

    def read(self, name: str) -> "Tensor":
        if self._staged is not None and name in self._places:
            return self._staged.read(name)
        return self._state[name]

    def stage(self, device: "torch.device | str") -> None:
        from seedvr2_core.weights.staging.ring import StagedFile
        from seedvr2_core.weights.staging.spans import torch_spans

        if zipfile.is_zipfile(self._path):
            self._places = torch_spans(
                self._path, _unwrap(self._path, _load_torch(self._path, "meta"))
            )
            self._staged = StagedFile(self._path, self._places, device=device)

    def expect(self, names: Sequence[str]) -> None:
        if self._staged is not None:
            self._staged.expect(names)

    def close(self) -> None:
        self._state = {}
        if self._staged is not None:
            self._staged.close()


def _load_torch(path: Path, device: str = "cpu") -> object:
    """What torch.save wrote, mapped into memory if the format allows that."""
    import torch

    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
        # Opened by its handle, because torch.load guesses the format from a name's ending.
        handle = f"/proc/self/fd/{stream.fileno()}"
        try:
            if zipped and not zipfile.is_zipfile(path):
                raise EOFError("truncated: the table of contents at its end is missing")
            with warnings.catch_warnings():  # about pickle protocols: not the caller's choice
                warnings.simplefilter("ignore", UserWarning)
                return torch.load(handle, map_location=device, weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors and could run foreign code; it "
                "was not loaded: download it again, or use a .safetensors file"
            ) from error
        except _LOAD_ERRORS as error:
            first_line = str(error).partition("\n")[0].replace(handle, path.name)
            raise damaged(path, f"torch cannot read it ({first_line})") from error


def _unwrap(path: Path, found: object) -> dict[str, "Tensor"]:
    """The tensors in what was loaded, by name."""
    from torch import Tensor

    if isinstance(found, Tensor):
        return {"tensor": found}
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path} holds a {type(found).__name__}, expected named tensors")
    others = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if not others:
        return {str(name): value.detach() for name, value in found.items()}
    for wrapper in WRAPPERS:
        if isinstance(found.get(wrapper), Mapping):
            return _unwrap(path, found[wrapper])
    raise CheckpointError(
        f"{path} holds {len(others)} entries that are no tensors: {name_some(others)}; expected a "
        f"flat table of tensors, or one under {', '.join(WRAPPERS)}"
    )
