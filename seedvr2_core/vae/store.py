"""Keeps the caches of a VAE's convolutions in host memory, and brings each to its layer in time.

A cache is needed for one moment of a slice: just before its layer runs, whose buffer it is copied
into. So on a small card it lies in page-locked memory. It comes to the device while the layer
before it runs, and what the layer leaves goes back while the next one does, on streams of their
own, one each way. Three blocks, made once, are all that the device gives for it: two for what comes
(`SLOTS_UP`) and one for what goes. They are as large as the largest cache, or smaller. What is
larger than a block goes straight: from host memory into the layer's buffer, which waits for it, and
out of the buffer while the layer reads it. Moving a cache changes no bit.

Which layer comes next is what came next the last time. Where that is wrong, as in a shot's first
slices, the layer waits for its cache.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seedvr2_core.kernels.devices import on_gpu

if TYPE_CHECKING:
    from seedvr2_core.vae.causal_conv import ConvState

SLOTS_UP = 2
SLOTS_DOWN = 1


def page_locked(x: Tensor) -> Tensor:
    """An empty tensor of x's shape in host memory, channels innermost."""
    return torch.empty(
        x.shape,
        dtype=x.dtype,
        device="cpu",
        pin_memory=on_gpu(x.device),
        memory_format=torch.channels_last_3d,
    )


class CacheStore:
    """Host memory for the states of one encoder or decoder; used by one thread."""

    def __init__(
        self,
        device: torch.device,
        *,
        block_bytes: int | None = None,
        host_like: Callable[[Tensor], Tensor] = page_locked,
        always: bool = False,
    ) -> None:
        """Nothing is allocated yet.

        Args:
            device: where the layers run. On a CPU the caches are where they are needed.
            block_bytes: larger caches go straight; 0: all do, None: none does.
            host_like: makes an empty tensor like another in host memory.
            always: move them on a CPU too; tests do.
        """
        self._device, self._host_like = device, host_like
        self._block_bytes = block_bytes
        self._moves = always or device.type != "cpu"
        self._follower: dict[int, ConvState] = {}
        """Which state came after one, the last time."""
        self._last: ConvState | None = None
        self._ahead: dict[int, _Lane] = {}
        self._up: list[_Lane] = []
        self._down: list[_Lane] = []
        self._streams: tuple[Any, Any] = (None, None)
        self._stored: dict[int, Any] = {}
        """Of a state: the event behind its last way to the host."""
        self._leaving: Any = None
        """The event behind what goes straight out of a layer's buffer."""
        if on_gpu(device):
            self._streams = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def fill(self, state: "ConvState", out_BCTHW: Tensor) -> None:
        """Write the state's frames into a part of its layer's buffer; begin to bring the next.

        Args:
            state: holds frames.
            out_BCTHW: of their shape, on the device.
        """
        frames = state.frames
        assert frames is not None
        if not self._moves:
            out_BCTHW.copy_(frames)
            return
        lane = self._ahead.pop(id(state), None)
        if lane is None and self._by_block(frames):
            lane = self._bring(state)
        if lane is None:
            self._wait_here(self._stored.get(id(state)))
            out_BCTHW.copy_(frames, non_blocking=True)
        self._ahead = {}
        follower = self._follower_of(state)
        if follower is not None:
            self._ahead[id(follower)] = self._bring(follower, beside=lane)
        if lane is not None:
            out_BCTHW.copy_(lane.ready_on_device())

    def put(self, state: "ConvState", frames_BCTHW: Tensor) -> Tensor:
        """Begin to move frames to the host; before they are overwritten, call `let_go`.

        Returns:
            The host's tensor, which `fill` reads.
        """
        host = state.frames
        if host is None or host.shape != frames_BCTHW.shape:
            host = self._host_like(frames_BCTHW)
        if not self._moves:
            return host.copy_(frames_BCTHW)
        if self._by_block(frames_BCTHW):
            lane = self._lane(self._down, SLOTS_DOWN, 1, beside=None)
            self._stored[id(state)] = lane.move_to_host(frames_BCTHW, host)
            return host
        event = _copy_on(self._streams[1], self._device, frames_BCTHW, host)
        self._stored[id(state)] = self._leaving = event
        return host

    def place(self, like_BCTHW: Tensor) -> Tensor:
        """Empty host memory for frames of that shape."""
        return self._host_like(like_BCTHW)

    def fill_rows(self, state: "ConvState", rows: slice, out_BCTHW: Tensor) -> None:
        """Write some rows of the state's frames into a band, which waits for them."""
        assert state.frames is not None
        self._wait_here(self._stored.get(id(state)))
        # Rows of one frame are a block of memory on both sides.
        for host, out in zip(state.frames.split(1, dim=2), out_BCTHW.split(1, dim=2), strict=True):
            out.copy_(host[..., rows, :], non_blocking=True)

    def put_rows(self, state: "ConvState", rows: slice, frames_BCTHW: Tensor) -> None:
        """Begin to move some rows of a band to the state's frames; before they are overwritten,
        call `let_go`."""
        assert state.frames is not None
        pairs = zip(state.frames.split(1, dim=2), frames_BCTHW.split(1, dim=2), strict=True)
        for host, frame in pairs:
            event = _copy_on(self._streams[1], self._device, frame, host[..., rows, :])
            self._stored[id(state)] = self._leaving = event

    def let_go(self) -> None:
        """What was put may be overwritten by what is asked of the device from now on."""
        self._wait_here(self._leaving)
        self._leaving = None

    def rest(self) -> None:
        """Wait until all that was put is in host memory, and give the device's memory back."""
        for lane in (*self._up, *self._down):
            lane.wait()
        if self._streams[1] is not None:
            self._streams[1].synchronize()
        self._up, self._down, self._ahead = [], [], {}

    def _by_block(self, frames: Tensor) -> bool:
        return self._block_bytes is None or frames.nbytes <= self._block_bytes

    def _follower_of(self, state: "ConvState") -> "ConvState | None":
        """The state that comes next, if it is brought ahead; and remember that this one came."""
        if self._last is not None:
            self._follower[id(self._last)] = state
        self._last = state
        follower = self._follower.get(id(state))
        if follower is None or follower is state or follower.frames is None:
            return None
        return follower if self._by_block(follower.frames) else None

    def _wait_here(self, event: Any) -> None:
        """The stream that computes waits for it."""
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)

    def _bring(self, state: "ConvState", *, beside: "_Lane | None" = None) -> "_Lane":
        assert state.frames is not None
        lane = self._lane(self._up, SLOTS_UP, 0, beside=beside)
        lane.move_to_device(state.frames, after=self._stored.get(id(state)))
        return lane

    def _lane(
        self, lanes: "list[_Lane]", count: int, stream: int, *, beside: "_Lane | None"
    ) -> "_Lane":
        """The lane that was used longest ago, and is not `beside`."""
        if len(lanes) < count:
            lanes.append(_Lane(self._device, self._streams[stream]))
            return lanes[-1]
        lane = next(lane for lane in lanes if lane is not beside)
        lanes.remove(lane)
        lanes.append(lane)
        return lane


def _copy_on(stream: Any, device: torch.device, x: Tensor, host: Tensor) -> Any:
    """Copy to the host on a stream, once what computes x is done.

    Returns:
        The event behind the copy; None where there is no stream, and the copy is done.
    """
    if stream is None:
        host.copy_(x)
        return None
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        host.copy_(x, non_blocking=True)
        event = torch.cuda.Event()
        event.record(stream)
    return event


class _Lane:
    """A block of the device's memory through which caches pass, one at a time."""

    def __init__(self, device: torch.device, stream: Any) -> None:
        self._device, self._stream = device, stream
        self._block = torch.empty(0, dtype=torch.uint8, device=device)
        self._view: Tensor | None = None
        self._free: Any = None
        """Behind the last use of the block by the stream that computes, or by the copy out."""

    def move_to_device(self, host: Tensor, *, after: Any) -> None:
        """Begin to copy; `after` is the event behind the copy that the host's tensor came by."""
        view = self._view = self._like(host)
        if self._stream is None:
            view.copy_(host)
            return
        here = torch.cuda.current_stream(self._device)
        # The block may still be read by what was asked of the device before.
        self._stream.wait_stream(here)
        if after is not None:
            self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            view.copy_(host, non_blocking=True)
            self._free = torch.cuda.Event()
            self._free.record(self._stream)

    def ready_on_device(self) -> Tensor:
        """What was copied; the stream that computes waits for it."""
        assert self._view is not None
        if self._free is not None:
            torch.cuda.current_stream(self._device).wait_event(self._free)
        return self._view

    def move_to_host(self, x_BCTHW: Tensor, host: Tensor) -> Any:
        """Copy into the block, then begin to copy to the host.

        Returns:
            The event behind the copy.
        """
        if self._stream is None:
            self._like(x_BCTHW).copy_(x_BCTHW)
            host.copy_(x_BCTHW)
            return None
        here = torch.cuda.current_stream(self._device)
        if self._free is not None:
            here.wait_event(self._free)
        view = self._like(x_BCTHW)
        view.copy_(x_BCTHW)
        self._free = _copy_on(self._stream, self._device, view, host)
        return self._free

    def wait(self) -> None:
        """Until the last copy is done."""
        if self._free is not None:
            self._free.synchronize()

    def _like(self, x: Tensor) -> Tensor:
        """A part of the block for a tensor like x; the block grows where it is too small."""
        if self._block.numel() < x.nbytes:
            if self._stream is not None:
                torch.cuda.synchronize(self._device)
            self._block = torch.empty(0, dtype=torch.uint8, device=self._device)
            self._block = torch.empty(x.nbytes, dtype=torch.uint8, device=self._device)
        batch, channels, frames, height, width = x.shape
        part = self._block[: x.nbytes].view(x.dtype)
        return part.view(batch, frames, height, width, channels).permute(0, 4, 1, 2, 3)
