"""Keeps what one phase needs out of the device's memory while another phase runs.

VAE caches and transformer weights wait in host memory. Moving them changes no bit. On the CPU they
are already where they are needed, and nothing moves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.vae.causal_conv import StreamState

State = TypeVar("State", bound=StreamState)
Module = TypeVar("Module", bound=nn.Module)


class Parking:
    """Host memory where one phase's caches wait while another phase runs."""

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self._device = device
        self._enabled = enabled

    def park(self, state: State) -> State:
        """The state in host memory, page-locked if the device is a GPU."""
        if not self._enabled:
            return state
        parked = state.to("cpu", pin_memory=on_gpu(self._device))
        give_back(self._device)
        return parked

    def fetch(self, state: State) -> State:
        """The state on the device."""
        return state.to(self._device)


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
        pin_memory = on_gpu(device)
        for name, tensor in module.state_dict().items():
            self._host[name] = _in_host_memory(tensor, pin_memory=pin_memory)
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
    if on_gpu(device):
        torch.cuda.empty_cache()


def _in_host_memory(tensor: Tensor, *, pin_memory: bool) -> Tensor:
    if not pin_memory:
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)
