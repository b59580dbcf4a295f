"""What a kernel of our own is: a torch reference, the same in Triton, and what it costs.

A kernel writes into tensors that its caller made and returns nothing. `NAME.py` holds the reference
and the cost; `NAME_triton.py` holds a function of the same name and signature that launches Triton
kernels. It is imported at the first call on a GPU, so nothing else needs Triton. Where Triton is
missing the reference runs.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec

import torch
from torch import Tensor

from seedvr2_core.kernels.devices import ability_of, on_gpu
from seedvr2_core.kernels.switches import switches

P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one call moves and calculates, from shapes alone."""

    read: int
    """Bytes read from the device's memory."""
    written: int
    """Bytes written to it."""
    flops: int = 0
    """Operations of matrix products, 2 per multiply-add. Element-wise work is not counted."""
    launches: int = 1
    """Kernels started."""


Observer = Callable[[str, Cost], None]
"""Is told of each call: the kernel's name and its cost."""

_observers: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tell `observer` of every kernel called inside the block, whatever runs it."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


class Kernel(Generic[P]):
    """A kernel that is called as its reference is."""

    def __init__(self, reference: Callable[P, None], *, cost: Callable[P, Cost]) -> None:
        """Nothing is imported yet.

        Args:
            reference: in torch, correct on every device and in every dtype.
            cost: of a call with the same arguments.
        """
        functools.update_wrapper(self, reference)
        self.name = reference.__name__.lstrip("_")
        self.reference = reference
        self.cost = cost
        self._module = f"{reference.__module__}_triton"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run it: in Triton on a GPU, by the reference elsewhere, and not at all on "meta"."""
        for observer in _observers:
            observer(self.name, self.cost(*args, **kwargs))
        device = _device_of((*args, *kwargs.values()))
        if device.type == "meta":
            return
        if not uses_triton(device):
            self.reference(*args, **kwargs)
            return
        # Triton launches on the current GPU, whichever has the tensors.
        with torch.cuda.device(device) if on_gpu(device) else nullcontext():
            self.in_triton(*args, **kwargs)

    @property
    def in_triton(self) -> Callable[P, None]:
        """The same in Triton.

        Raises:
            ImportError: Triton cannot be loaded here.
        """
        return getattr(importlib.import_module(self._module), self.name)


def uses_triton(device: torch.device) -> bool:
    """Whether kernels of our own run in Triton on tensors of that device."""
    if device.type == "meta":
        return switches().triton  # nothing runs there
    if device.type == "cpu":
        return switches().interpret and has_triton()
    return switches().triton and has_triton() and _runs_triton(device)


@functools.cache
def _runs_triton(device: torch.device) -> bool:
    """Asked once for each device: the answer takes a call of the driver."""
    return ability_of(device).triton


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def num_bytes(*tensors: Tensor | None) -> int:
    """Bytes that the elements of some tensors have; those repeated by `expand` count once."""
    return sum(_num_bytes(tensor) for tensor in tensors if tensor is not None)


def _num_bytes(x: Tensor) -> int:
    numel = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        numel *= size if stride else min(size, 1)
    return numel * x.element_size()


def _device_of(values: tuple[Any, ...]) -> torch.device:
    return next(value.device for value in values if isinstance(value, Tensor))
