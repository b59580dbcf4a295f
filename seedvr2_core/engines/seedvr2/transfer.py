"""Copies between host and device that neither side waits for.

Copies have streams of their own, one each way, and page-locked memory of torch's caching allocator,
which takes a block back when its last frame is encoded and hands it out again. The host runs one
slice ahead of the device and waits once for each slice, for the event behind its copy. On a CPU
nothing is copied and nothing is late.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.kernels.switches import switches, takes_gpu_path

T = TypeVar("T")
R = TypeVar("R")


class Landing:
    """Tensors on their way to the host."""

    def __init__(self, host: Sequence[Tensor], device: Sequence[Tensor], event: Any) -> None:
        self._host = host
        self._device: Sequence[Tensor] = device
        """Not freed before the copy is done."""
        self._event = event

    def wait(self) -> Sequence[Tensor]:
        """The tensors in host memory, once all are there."""
        if self._event is not None:
            self._event.synchronize()
            self._event, self._device = None, ()
        return self._host


class Lanes:
    """The ways to a device and back."""

    def __init__(self, device: torch.device) -> None:
        """No stream is made on a CPU."""
        self._device = device
        self._up: Any = None
        self._down: Any = None
        if on_gpu(device):
            self._up, self._down = torch.cuda.Stream(device), torch.cuda.Stream(device)

    @property
    def ahead(self) -> int:
        """How many slices the host may run ahead of the device."""
        return 1 if switches().overlap and takes_gpu_path(self._device) else 0

    def upload(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors on the device; the current stream waits for them, the host does not.

        Those that are there already stay as they are.
        """
        on_host = all(tensor.device.type == "cpu" for tensor in tensors)
        if self._up is None or not on_host or not switches().overlap:
            return [tensor.to(self._device) for tensor in tensors]
        here = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._up):
            moved = [pinned(x).to(self._device, non_blocking=True) for x in tensors]
        here.wait_stream(self._up)
        for tensor in moved:
            tensor.record_stream(here)
        return moved

    def download(self, tensors: Sequence[Tensor]) -> Landing:
        """Begin to copy what the current stream makes."""
        if self._down is None or not switches().overlap:
            return Landing([tensor.cpu() for tensor in tensors], (), None)
        self._down.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._down):
            host = [torch.empty_like(x, device="cpu", pin_memory=True) for x in tensors]
            for to, tensor in zip(host, tensors, strict=True):
                to.copy_(tensor, non_blocking=True)
            # Blocking: who waits sleeps, and leaves the core to the video's encoder.
            event = torch.cuda.Event(blocking=True)
            event.record(self._down)
        return Landing(host, tensors, event)


class Begun(Generic[T, R]):
    """Work that was asked of the device; it is finished as late as allowed."""

    def __init__(self, ahead: int, finish: Callable[[T], R]) -> None:
        """Finish items by `finish`, which may wait for the device, once more than `ahead` wait."""
        self._ahead, self._finish = ahead, finish
        self._waiting: deque[T] = deque()

    def put(self, item: T) -> list[R]:
        """Add one; what finishing others gave."""
        self._waiting.append(item)
        return self._down_to(self._ahead)

    def rest(self) -> list[R]:
        """Finish all that wait."""
        return self._down_to(0)

    def _down_to(self, count: int) -> list[R]:
        return [self._finish(self._waiting.popleft()) for _ in range(len(self._waiting) - count)]


def pinned(tensor: Tensor) -> Tensor:
    """A copy in page-locked memory, or the tensor itself if it lies there."""
    return tensor if tensor.is_pinned() else tensor.pin_memory()
