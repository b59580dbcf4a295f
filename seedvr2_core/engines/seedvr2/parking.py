"""Keeps what one phase needs out of the device's memory while another phase runs.

VAE caches and transformer weights wait in host memory. Moving them changes no bit. On the CPU they
are already where they are needed, and nothing moves.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from seedvr2_core.vae.stream import StreamState

State = TypeVar("State", bound=StreamState)
Module = TypeVar("Module", bound=nn.Module)


_ALIGNMENT = 512
"""Of the tensors in an arena, in bytes."""


class Arena:
    """One block of host memory that holds many tensors, for as long as it lives.

    torch rounds page-locked tensors up to powers of two and keeps them, which nearly doubles them.
    A large block is as large as it is asked for, where the allocator is set up for it
    (`PYTORCH_ALLOC_CONF`), but to lock its pages takes a second for every few GB. So it is made
    once, and used again and again.
    """

    def __init__(self, device: torch.device, block: Tensor | None = None) -> None:
        """Nothing is allocated yet, or a block is taken over; page-locked for a GPU."""
        self._pin = device.type == "cuda"
        self._block = torch.empty(0, dtype=torch.uint8) if block is None else block

    @classmethod
    def left_by(cls, device: torch.device, tensors: Sequence[Tensor]) -> "Arena | None":
        """The arena of these tensors, which are not needed any more; None if they have no common
        one."""
        storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        if len(tensors) < 2 or len(storages) != 1 or tensors[0].device.type != "cpu":
            return None
        storage = tensors[0].untyped_storage()
        return cls(device, torch.empty(0, dtype=torch.uint8).set_(storage))

    def places(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Empty tensors like these (dense ones), in the block; what was in it is lost."""
        sizes = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in tensors]
        if self._block.numel() < sum(sizes):
            self._block = torch.empty(0, dtype=torch.uint8)  # first back, then anew
            self._block = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=self._pin)
        starts = itertools.accumulate(sizes, initial=0)
        return [
            self._block[start : start + tensor.nbytes]
            .view(tensor.dtype)
            .as_strided(tensor.shape, tensor.stride())
            for start, tensor in zip(starts, tensors, strict=False)
        ]


class Parking:
    """Host memory where one phase's caches wait while another phase runs."""

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self._device = device
        self._enabled = enabled
        self._arenas: dict[type[StreamState], Arena] = {}
        """Of each kind of state: what the one that was fetched last has left."""

    def park(self, state: State) -> State:
        """The state in host memory, page-locked if the device is a GPU."""
        state.settle()
        if not self._enabled:
            return state
        arena = self._arenas.pop(type(state), None) or Arena(self._device)
        packed = state.packed()
        given = [tensor for _, tensor in packed.named_tensors()]
        places = iter(arena.places(given))
        parked = packed.mapped(lambda tensor: next(places).copy_(tensor))
        give_back(self._device)
        return parked

    def fetch(self, state: State) -> State:
        """The state on the device; the host's memory is used for the next one that is parked."""
        if not self._enabled:
            return state
        fetched = state.mapped(lambda tensor: tensor.to(self._device, copy=True))
        arena = Arena.left_by(self._device, [tensor for _, tensor in state.named_tensors()])
        if arena is not None:
            self._arenas[type(state)] = arena
        return fetched


class GuestModule(Generic[Module]):
    """A module whose weights are on the device all the time, or only while it runs."""

    def __init__(self, module: Module, device: torch.device, *, resident: bool) -> None:
        """Take the module over.

        Args:
            module: without gradients, on any device.
            device: where it runs.
            resident: whether its weights stay on the device between runs.
        """
        self.module = module
        self._device = device
        self._host: dict[str, Tensor] = {}
        if resident:
            module.to(device)
            return
        given = module.state_dict()
        self._arena = Arena(device)
        places = self._arena.places(list(given.values()))
        for (name, tensor), place in zip(given.items(), places, strict=True):
            self._host[name] = place.copy_(tensor)
        self._leave()

    @contextmanager
    def on_device(self) -> Iterator[Module]:
        """The module, ready to run."""
        try:
            self.module.to(self._device)
            yield self.module
        finally:
            if self._host:
                self._leave()

    def _leave(self) -> None:
        """Point the module at the host's copy. That never changes, so nothing is copied back."""
        self.module.load_state_dict(self._host, assign=True)
        give_back(self._device)


def give_back(device: torch.device) -> None:
    """Return cached blocks to the device: the next phase needs blocks of other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
