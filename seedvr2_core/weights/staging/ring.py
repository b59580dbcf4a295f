"""Brings tensors from a file to a device through a small ring of buffers.

Several threads read pieces of the file into the buffers, in the order in which the tensors will be
asked for and as far ahead as buffers are free; from there each piece is copied to its place in the
tensor on the device. For a GPU the buffers are page-locked and the copies run on a stream of their
own, so reading, copying and what is calculated with earlier tensors go on at once. The host never
holds more of the file than the ring. On a CPU the same is done with plain buffers.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from seedvr2_core.errors import CheckpointError
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.weights.staging.spans import TensorPlace

PIECE_BYTES = 1 << 23
BUFFERS = 16
THREADS = 4
"""Reads under way at once: a fast disk wants several, and so does copying from the page cache."""


class Transfer(Protocol):
    """How pieces get from buffers to the device."""

    def buffer(self, num_bytes: int) -> Tensor:
        """A buffer on the host, uint8."""
        ...

    def place(self, num_bytes: int) -> Tensor:
        """Room for a tensor on the device, uint8."""
        ...

    def copy(self, place: Tensor, piece: Tensor) -> Any:
        """Begin to copy a piece to its place; gives what `wait` takes."""
        ...

    def wait(self, copied: Any) -> None:
        """Until the buffer that was copied from may be written again."""
        ...

    def hand_over(self, place: Tensor) -> None:
        """Whatever the caller does next with the tensor happens after its copies."""
        ...


class PlainTransfer:
    """To a device that the host writes to at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def buffer(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def place(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def copy(self, place: Tensor, piece: Tensor) -> None:
        place.copy_(piece)

    def wait(self, copied: Any) -> None:
        """Nothing is under way."""

    def hand_over(self, place: Tensor) -> None:
        """Everything is there."""


class StreamTransfer:
    """To a GPU: page-locked buffers and a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)

    def buffer(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def place(self, num_bytes: int) -> Tensor:
        # Of this stream's memory, so that copies wait for no calculation that had the block before.
        with torch.cuda.stream(self._stream):
            return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def copy(self, place: Tensor, piece: Tensor) -> Any:
        with torch.cuda.stream(self._stream):
            place.copy_(piece, non_blocking=True)
            event: Any = torch.cuda.Event()
            event.record(self._stream)
        return event

    def wait(self, copied: Any) -> None:
        copied.synchronize()

    def hand_over(self, place: Tensor) -> None:
        caller: Any = torch.cuda.current_stream(self._device)
        caller.wait_stream(self._stream)
        place.record_stream(caller)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A part of a tensor on its way into a buffer."""

    name: str
    offset: int
    """Of its first byte in the tensor."""
    num_bytes: int
    buffer: Tensor
    read: Future[None]


class StagedFile:
    """An open file whose tensors come to a device. For one thread at a time."""

    def __init__(
        self,
        path: Path,
        spans: Mapping[str, TensorPlace],
        *,
        device: torch.device | str,
        transfer: Transfer | None = None,
        piece_bytes: int = PIECE_BYTES,
        buffers: int = BUFFERS,
    ) -> None:
        """Open the file.

        Args:
            path: the file.
            spans: the tensors that may be asked for, and where they lie in it.
            device: where they go.
            transfer: how they get there; None: as the device wants it.
            piece_bytes: size of a buffer.
            buffers: how many there are at most.

        Raises:
            CheckpointError: it cannot be opened.
        """
        device = torch.device(device)
        self._path, self._spans = path, spans
        kind = StreamTransfer if on_gpu(device) else PlainTransfer
        self._transfer: Transfer = transfer or kind(device)
        self._piece_bytes, self._most = piece_bytes, buffers
        self._made = 0
        self._free: deque[tuple[Tensor, Any]] = deque()
        """Buffers, and the copy out of each that may still be under way, the oldest first."""
        self._coming: deque[_Piece] = deque()
        self._ahead: Iterator[tuple[str, int, int]] = iter(())
        self._expected: deque[str] = deque()
        """Tensors of which pieces are read already or will be next, the next one first."""
        try:
            self._handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="weights")

    def expect(self, names: Sequence[str]) -> None:
        """Read ahead: these tensors will be asked for next, in this order."""
        self._forget()
        names = [name for name in names if name in self._spans]
        self._expected = deque(names)
        self._ahead = self._pieces(names)
        self._read_ahead()

    def read(self, name: str) -> Tensor:
        """A tensor on the device.

        Raises:
            CheckpointError: the file cannot be read, or has become shorter.
        """
        if not self._expected or self._expected[0] != name:
            later = list(self._expected)
            self.expect([name, *(later[later.index(name) + 1 :] if name in later else later)])
        self._expected.popleft()
        span = self._spans[name]
        place = self._transfer.place(span.num_bytes)
        left = span.num_bytes
        while left:
            self._read_ahead()
            left -= self._copy_next(place)
        self._read_ahead()
        self._transfer.hand_over(place)
        return place.view(span.dtype).view(span.shape)

    def close(self) -> None:
        """Stop reading ahead, and close the file."""
        self._forget()
        for _, copied in self._free:
            if copied is not None:
                self._transfer.wait(copied)
        self._free.clear()
        self._pool.shutdown()
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def _copy_next(self, place: Tensor) -> int:
        """Copy the next piece as soon as it is read; its bytes."""
        piece = self._coming[0]
        piece.read.result()
        self._coming.popleft()
        target = place[piece.offset : piece.offset + piece.num_bytes]
        copied = self._transfer.copy(target, piece.buffer[: piece.num_bytes])
        self._free.append((piece.buffer, copied))
        return piece.num_bytes

    def _read_ahead(self) -> None:
        """Give every free buffer a piece to be filled with."""
        while self._free or self._made < self._most:
            following = next(self._ahead, None)
            if following is None:
                return
            name, offset, num_bytes = following
            buffer = self._free_buffer()
            start = self._spans[name].start + offset
            read = self._pool.submit(self._fill, name, buffer[:num_bytes], start)
            self._coming.append(
                _Piece(name=name, offset=offset, num_bytes=num_bytes, buffer=buffer, read=read)
            )

    def _free_buffer(self) -> Tensor:
        if self._made < self._most:
            self._made += 1
            return self._transfer.buffer(self._piece_bytes)
        buffer, copied = self._free.popleft()
        if copied is not None:
            self._transfer.wait(copied)
        return buffer

    def _fill(self, name: str, buffer: Tensor, start: int) -> None:
        content: Any = buffer.numpy()
        view, done = memoryview(content), 0
        while done < len(view):
            try:
                count = os.preadv(self._handle, [view[done:]], start + done)
            except OSError as error:
                raise CheckpointError(
                    f"{self._path}: {name} cannot be read: {error.strerror}"
                ) from error
            if not count:
                raise CheckpointError(f"{self._path} is truncated in {name}; download it again")
            done += count

    def _pieces(self, names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
        """(name, offset in the tensor, bytes) of all pieces of tensors."""
        for name in names:
            num_bytes = self._spans[name].num_bytes
            for offset in range(0, num_bytes, self._piece_bytes):
                yield name, offset, min(self._piece_bytes, num_bytes - offset)

    def _forget(self) -> None:
        """Give back the buffers of pieces that nobody will ask for."""
        self._expected.clear()
        self._ahead = iter(())
        while self._coming:
            piece = self._coming.popleft()
            piece.read.cancel()
            if not piece.read.cancelled():
                piece.read.exception()  # wait; what a piece could not read that nobody wants
            self._free.append((piece.buffer, None))
