"""Where tensors lie in their file."""

import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seedvr2_core.weights.reader import parse_header, tensor_span

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Of the names that .safetensors has for them."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and the lengths of name and extra field, of a record in a zip file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """Where a tensor's bytes are, and what they are."""

    start: int
    """First byte in the file."""
    num_bytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def safetensors_spans(path: Path) -> dict[str, TensorPlace]:
    """Places of all tensors of a .safetensors file, whose header has been checked."""
    with path.open("rb") as stream:
        header, data = parse_header(path, stream, path.stat().st_size)
    header.pop("__metadata__", None)
    spans: dict[str, TensorPlace] = {}
    for name, entry in header.items():
        first, last, info = tensor_span(path, name, entry)
        spans[name] = TensorPlace(
            start=data + first, num_bytes=last - first, dtype=DTYPES[info.dtype], shape=info.shape
        )
    return spans


def torch_spans(path: Path, state: Mapping[str, Tensor]) -> dict[str, TensorPlace]:
    """Places of tensors in a zip file of torch.save.

    What torch tells of places is compared with the file's own table of contents; a tensor for which
    they differ, or that is not contiguous in the file, is left out.

    Args:
        path: the file.
        state: its tensors as loaded with `map_location="meta"`.
    """
    records = _stored_records(path)
    spans: dict[str, TensorPlace] = {}
    for name, tensor in state.items():
        storage: Any = tensor.untyped_storage()
        place: int | None = getattr(storage, "_checkpoint_offset", None)
        if place is None or records.get(place) != storage.nbytes() or not tensor.is_contiguous():
            continue
        spans[name] = TensorPlace(
            start=place + int(tensor.storage_offset()) * tensor.element_size(),
            num_bytes=tensor.numel() * tensor.element_size(),
            dtype=tensor.dtype,
            shape=tuple(tensor.shape),
        )
    return spans


def _stored_records(path: Path) -> dict[int, int]:
    """First byte and length of each record of a zip file that is not compressed."""
    found: dict[int, int] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        for record in archive.infolist():
            if record.compress_type != zipfile.ZIP_STORED:
                continue
            head = os.pread(stream.fileno(), _LOCAL_HEADER.size, record.header_offset)
            if len(head) < _LOCAL_HEADER.size:
                continue
            _, name, extra = _LOCAL_HEADER.unpack(head)
            found[record.header_offset + _LOCAL_HEADER.size + name + extra] = record.file_size
    return found
