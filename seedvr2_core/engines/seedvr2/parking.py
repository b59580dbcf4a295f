"""Keeps what one phase needs out of the device's memory while another phase runs.

VAE caches and transformer weights wait in host memory. Moving them changes no bit. On the CPU they
are already where they are needed, and nothing moves.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from seedvr2_core.dit.model import FoldedDiT
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.encoder import EncoderState
from seedvr2_core.vae.model import VideoVAE
from seedvr2_core.vae.store import CacheStore
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
        self._pin = on_gpu(device)
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
        size = sum(_aligned(tensor.nbytes) for tensor in tensors)
        if self._block.numel() < size:
            self._block = torch.empty(0, dtype=torch.uint8)  # first back, then anew
            self._block = torch.empty(size, dtype=torch.uint8, pin_memory=self._pin)
        return _views(self._block, tensors)


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
        parked = state.packed(iter(arena.places(list(state.packed_like()))))
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

    def __init__(
        self,
        module: Module,
        device: torch.device,
        *,
        resident: bool,
        streamed: Sequence[nn.Module] = (),
    ) -> None:
        """Take the module over.

        Args:
            module: without gradients, on any device.
            device: where it runs.
            resident: whether its weights stay on the device between runs.
            streamed: blocks of it, in the order in which they run, that are brought to the device
                one after the other while it runs, and are nowhere else than in host memory.
        """
        self.module = module
        self._device = device
        inside = {
            f"{place}.{name}"
            for place, part in module.named_modules()
            if any(part is block for block in streamed)
            for name in part.state_dict()
        }
        own = {k: v for k, v in module.state_dict().items() if k not in inside}
        self._blocks = BlockStream(streamed, device) if streamed else None
        self._host: dict[str, Tensor] = {}
        if resident:
            self._point_at({name: tensor.to(device) for name, tensor in own.items()})
        else:
            places = Arena(device).places(list(own.values()))
            self._host = {
                name: place.copy_(own[name]) for name, place in zip(own, places, strict=True)
            }
            self._point_at(self._host)
        del own  # the last references to what was on the device
        give_back(device)

    @contextmanager
    def on_device(self) -> Iterator[Module]:
        """The module, ready to run."""
        try:
            self._point_at({name: x.to(self._device) for name, x in self._host.items()})
            with self._blocks.running() if self._blocks else nullcontext():
                yield self.module
        finally:
            if self._host:
                # The host's copy never changes, so nothing is copied back.
                self._point_at(self._host)
                give_back(self._device)

    def _point_at(self, tensors: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(dict(tensors), strict=False, assign=True)


class BlockStream:
    """Brings blocks of a module to the device, each while the one before it runs.

    Two slots of the largest block's size take them in turn. Their weights lie in host memory and
    never change.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        """Move the blocks' weights to host memory."""
        self._blocks, self._device = list(blocks), device
        self._stream: Any = torch.cuda.Stream(device) if on_gpu(device) else None
        self._slots: list[_Slot] = []
        self._host: list[dict[str, Tensor]] = []
        for block in self._blocks:
            # One arena for each, so that what a block had is given back before the next one.
            state = block.state_dict()
            places = Arena(device).places(list(state.values()))
            pairs = zip(state.items(), places, strict=True)
            self._host.append({name: place.copy_(x) for (name, x), place in pairs})
            del state, pairs
            block.load_state_dict(self._host[-1], assign=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block of code in which the blocks may run, in their order, again and again."""
        self._slots = [_Slot(self._host, self._device) for _ in range(2)]
        hooks = [
            block.register_forward_pre_hook(functools.partial(self._before, index))
            for index, block in enumerate(self._blocks)
        ]
        try:
            self._bring(0, self._slots[0])
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._leave()
            if self._stream is not None:
                # A copy is still on its way into memory that is given back here.
                torch.cuda.current_stream(self._device).wait_stream(self._stream)
            self._slots = []

    def _before(self, index: int, *_: object) -> None:
        """Block `index` runs next."""
        slot = next((slot for slot in self._slots if slot.holds == index), None)
        if slot is None:  # not the one that was expected
            slot = self._slots[0]
            self._bring(index, slot)
        if slot.event is not None:
            torch.cuda.current_stream(self._device).wait_event(slot.event)
        self._blocks[index].load_state_dict(slot.views[index], assign=True)
        other = next(other for other in self._slots if other is not slot)
        self._bring((index + 1) % len(self._blocks), other)

    def _bring(self, index: int, slot: "_Slot") -> None:
        if slot.holds == index:
            return
        slot.holds = index
        if self._stream is None:
            slot.fill(self._host[index])
            return
        # The block that the slot held may still be at work.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            slot.fill(self._host[index])
            slot.event = torch.cuda.Event()
            slot.event.record(self._stream)

    def _leave(self) -> None:
        for block, host in zip(self._blocks, self._host, strict=True):
            block.load_state_dict(host, assign=True)


class _Slot:
    """Room on the device for any one of some blocks."""

    def __init__(self, blocks: Sequence[Mapping[str, Tensor]], device: torch.device) -> None:
        sizes = [sum(_aligned(x.nbytes) for x in block.values()) for block in blocks]
        memory = torch.empty(max(sizes), dtype=torch.uint8, device=device)
        self.views = [
            dict(zip(block, _views(memory, list(block.values())), strict=True)) for block in blocks
        ]
        self.holds = -1
        self.event: Any = None
        """Behind the copy."""

    def fill(self, host: Mapping[str, Tensor]) -> None:
        """Begin to copy the block that it holds."""
        for name, view in self.views[self.holds].items():
            view.copy_(host[name], non_blocking=True)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _views(memory: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like these (dense ones), one behind the other in some memory."""
    starts = itertools.accumulate((_aligned(x.nbytes) for x in tensors), initial=0)
    return [
        memory[start : start + x.nbytes].view(x.dtype).as_strided(x.shape, x.stride())
        for start, x in zip(starts, tensors, strict=False)
    ]


def guest_of(dit: FoldedDiT, memory: MemoryPlan, device: torch.device) -> GuestModule[FoldedDiT]:
    """The transformer, with its weights where a plan says."""
    streamed = list(dit.blocks)[-memory.streamed_layers :] if memory.streamed_layers else []
    return GuestModule(dit, device, resident=memory.weights_resident, streamed=streamed)


def start_encoder(
    vae: VideoVAE, memory: MemoryPlan, first_latent: int, device: torch.device
) -> EncoderState:
    """A fresh state whose caches will be where a plan says."""
    state = vae.start_encoder(first_latent, rings=memory.encoder_rings)
    if memory.encoder_bands:
        state.use_bands()
    if memory.stream_caches:
        state.use_store(CacheStore(device, block_bytes=memory.encoder_block_bytes))
    return state


def start_decoder(
    vae: VideoVAE, memory: MemoryPlan, first_latent: int, device: torch.device
) -> DecoderState:
    """The same for the decoder."""
    state = vae.start_decoder(first_latent, rings=memory.decoder_rings)
    if memory.decoder_bands:
        state.use_bands()
    if memory.stream_caches:
        state.use_store(CacheStore(device, block_bytes=memory.decoder_block_bytes))
    return state


def give_back(device: torch.device) -> None:
    """Return cached blocks to the device: the next phase needs blocks of other sizes."""
    if on_gpu(device):
        torch.cuda.empty_cache()
