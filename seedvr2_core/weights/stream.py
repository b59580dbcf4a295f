"""Reads a file of tensors from front to back, fast: several threads read and hash ahead.

For files of our own (`fold_cache.py`), in the .safetensors format with the SHA-256 of every tensor
in the header. Tensors come in page-locked memory where they go on to a GPU. Torch's allocator takes
a block back when its copy is done, so few blocks serve a file of any size.
"""

import hashlib
import json
import os
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seedvr2_core.errors import CheckpointError
from seedvr2_core.files.durable import replace_file, sync_directory
from seedvr2_core.weights.reader import parse_header, tensor_span
from seedvr2_core.weights.staging.seconds import HASH_THREADS

AHEAD_BYTES = 1 << 29
"""Read and not yet taken."""
_PIECE_BYTES = 1 << 23
_HEX = 64
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TAGS = {dtype: tag for tag, dtype in _DTYPES.items()}
_DIGESTS, _ABOUT = "sha256", "about"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    num_bytes: int
    sha256: str


class StreamedFile:
    """An open file that `write_stream` has written."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CheckpointError: no such file, or not one of `write_stream`.
        """
        self.path = path
        try:
            with path.open("rb") as stream:
                header, data = parse_header(path, stream, path.stat().st_size)
            metadata = header.pop("__metadata__")
            digests: Mapping[str, str] = json.loads(metadata[_DIGESTS])
            self.about: Any = json.loads(metadata[_ABOUT])
            self._entries = [_entry(path, n, e, data, digests[n]) for n, e in header.items()]
            size = path.stat().st_size
        except (OSError, KeyError, ValueError, TypeError, struct.error) as error:
            raise CheckpointError(f"{path} is no file of folded weights: {error}") from error
        self._entries.sort(key=lambda entry: entry.start)
        self.num_bytes = sum(entry.num_bytes for entry in self._entries)
        if data + self.num_bytes != size:
            raise CheckpointError(f"{path} has {size} bytes, its header says {data}")

    def tensors(self, *, pin_memory: bool) -> Iterator[tuple[str, Tensor]]:
        """Every tensor on the host, in the order of the file.

        Raises:
            CheckpointError: bytes are not those that were written.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            with ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="weights") as pool:
                yield from self._ahead(pool, handle, pin_memory)
        finally:
            os.close(handle)

    def _ahead(
        self, pool: ThreadPoolExecutor, handle: int, pin_memory: bool
    ) -> Iterator[tuple[str, Tensor]]:
        waiting: deque[tuple[_Entry, Future[Tensor]]] = deque()
        entries, held = deque(self._entries), 0
        while entries or waiting:
            while entries and (not waiting or held + entries[0].num_bytes <= AHEAD_BYTES):
                entry = entries.popleft()
                waiting.append((entry, pool.submit(self._read, handle, entry, pin_memory)))
                held += entry.num_bytes
            entry, read = waiting.popleft()
            held -= entry.num_bytes
            yield entry.name, read.result()

    def _read(self, handle: int, entry: _Entry, pin_memory: bool) -> Tensor:
        buffer = torch.empty(entry.num_bytes, dtype=torch.uint8, pin_memory=pin_memory)
        view, digest, done = _bytes_of(buffer), hashlib.sha256(), 0
        while done < entry.num_bytes:
            piece = view[done : done + _PIECE_BYTES]
            count = os.preadv(handle, [piece], entry.start + done)
            if not count:
                raise CheckpointError(f"{self.path} is truncated in {entry.name}")
            digest.update(piece[:count])
            done += count
        if digest.hexdigest() != entry.sha256:
            raise CheckpointError(f"{self.path}: the bytes of {entry.name} changed on disk")
        return buffer.view(entry.dtype).view(entry.shape)


def write_stream(path: Path, state: Mapping[str, Tensor], about: Any) -> None:
    """Write tensors one after the other, complete or not at all.

    Args:
        path: replaced if it is there.
        state: on any device; asked for one tensor at a time, always of the same shape and dtype.
        about: plain data that `StreamedFile.about` gives back.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    digests = dict.fromkeys(state, "0" * _HEX)
    header = _header(state, digests, about)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            stream.write(header)
            for name in state:
                content = state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digests[name] = hashlib.sha256(_bytes_of(content)).hexdigest()
                stream.write(_bytes_of(content))
            stream.seek(0)
            stream.write(_header(state, digests, about))
            stream.flush()
            os.fsync(stream.fileno())
        replace_file(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)


def _bytes_of(buffer: Tensor) -> memoryview:
    array: Any = buffer.numpy()
    return memoryview(array)


def _header(state: Mapping[str, Tensor], digests: Mapping[str, str], about: Any) -> bytes:
    """As .safetensors has it; its length does not depend on the digests."""
    metadata = {_DIGESTS: json.dumps(digests), _ABOUT: json.dumps(about)}
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in state.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _TAGS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _entry(path: Path, name: str, entry: Any, data: int, sha256: str) -> _Entry:
    first, last, info = tensor_span(path, name, entry)
    return _Entry(
        name=name,
        dtype=_DTYPES[info.dtype],
        shape=info.shape,
        start=data + first,
        num_bytes=last - first,
        sha256=sha256,
    )
