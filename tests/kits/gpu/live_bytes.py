"""Count the bytes that tensors hold while code runs, on any device, "meta" included."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts, inside its `with` block, the bytes of all storages that operators returned.

    `live` is the sum over the storages that still exist, `peak` its largest value so far.
    """

    def __init__(
        self,
        *,
        beside: Iterable[torch.Tensor] = (),
        most: int | None = None,
        device: str | None = None,
    ) -> None:
        """Count nothing yet.

        Args:
            beside: tensors that are not counted, nor are views of them: the weights.
            most: bytes of the device that this stands for; for more its own error is raised.
            device: count tensors of this kind of device alone; None: of all.
        """
        super().__init__()
        self._device = device
        self._most = most
        self.live = self.peak = 0
        self._outside: list[torch.Tensor] = []
        self._seen: set[int] = set()
        self.leave_out(*beside)

    def leave_out(self, *tensors: torch.Tensor) -> None:
        """Do not count these from now on, nor views of them; they must live as long as this."""
        self._outside += tensors
        self._seen |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def outside(self, x: torch.Tensor) -> torch.Tensor:
        """An empty tensor like x that is not counted: it stands for host memory."""
        with _disable_current_modes():
            made = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        self.leave_out(made)
        return made

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and self._device in (None, tensor.device.type):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        if self._most is not None and self.live + size > self._most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size
