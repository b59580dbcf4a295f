"""Causal 3-D convolution and the typed state that lets it run slice by slice.

A causal conv with a temporal kernel of 3 reads the current frame and the two before it. What a
slice leaves for the next is held by a `ConvState`, passed in with every call and updated by it;
modules hold weights only. A shot's first frame stands in for the frames before it (replicated,
not zeros). Everything runs in the channels_last_3d layout, which is kept by every helper here.

Legend: B batch, C channels, T frames, H W pixels of the level at hand.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_core.kernels.norm import add_bias
from seedvr2_core.kernels.switches import switches, takes_gpu_path
from seedvr2_core.vae.bands.rows import FrameRows, RowsPrologue
from seedvr2_core.vae.conv import LAYOUT, band_rows, conv3d, convolve_strips
from seedvr2_core.vae.ring import RING_PIXELS, FrameRing
from seedvr2_core.vae.store import CacheStore
from seedvr2_core.vae.stream import StreamState


@dataclass(slots=True)
class ConvState(StreamState):
    """The input frames that a causal conv still needs."""

    lead: int = 2
    """How often the first frame is repeated in front of itself where nothing came before."""
    frames: Tensor | None = None
    """[B, C, 1 or 2, H, W], the input's dtype, before spatial padding; None before the start."""
    rings: bool = False
    """Whether large frames are kept in a ring, one at a time, so that none is copied again."""
    seen: int = 0
    """With rings: frames of the shot before the next one."""
    ring: FrameRing | None = None
    """In the place of `frames`, while the state is at work."""
    held: int = 0
    """Frames of the ring that later outputs read."""
    store: CacheStore | None = None
    """Keeps `frames` in host memory; None: they stay on the device."""
    bands: bool = False
    """Whether large frames are worked in bands of rows, of which alone `frames` are read."""

    def use_rings(self, seen: int) -> None:
        """See `StreamState.use_rings`."""
        self.rings, self.seen = True, seen

    def use_store(self, store: CacheStore) -> None:
        """See `StreamState.use_store`."""
        self.store = store

    def use_bands(self) -> None:
        """See `StreamState.use_bands`."""
        self.bands = True

    def settle(self) -> None:
        """See `StreamState.settle`."""
        if self.store is not None:
            self.store.rest()

    @contextmanager
    def keeping(self, frames_BCTHW: Tensor) -> Iterator[None]:
        """Keep these frames for later outputs; they may be a part of a larger tensor.

        The code inside only reads them: with a store they are on their way meanwhile.
        """
        if self.store is None:
            yield
            self.frames = frames_BCTHW.clone(memory_format=LAYOUT)
            return
        self.frames = self.store.put(self, frames_BCTHW)
        yield
        self.store.let_go()

    def make_room(self, like_BCTHW: Tensor) -> None:
        """Let `frames` be an empty tensor of that shape, whose rows are written one by one."""
        if self.store is not None:
            self.frames = self.store.place(like_BCTHW)
        else:
            self.frames = torch.empty_like(like_BCTHW, memory_format=LAYOUT)

    def read_rows(self, rows: slice, out_BCTHW: Tensor) -> None:
        """Copy some rows of all frames that are kept."""
        assert self.frames is not None
        if self.store is not None:
            self.store.fill_rows(self, rows, out_BCTHW)
        else:
            out_BCTHW.copy_(self.frames[..., rows, :])

    def keep_rows(self, rows: slice, frames_BCTHW: Tensor) -> None:
        """Keep some rows of the frames that later outputs read; before they are overwritten, call
        `let_go`."""
        assert self.frames is not None
        if self.store is not None:
            self.store.put_rows(self, rows, frames_BCTHW)
        else:
            self.frames[..., rows, :].copy_(frames_BCTHW)

    def let_go(self) -> None:
        """See `keep_rows`."""
        if self.store is not None:
            self.store.let_go()

    def takes_ring(self, x_BCTHW: Tensor) -> bool:
        """Whether frames like these are kept in a ring."""
        return self.rings and x_BCTHW.shape[3] * x_BCTHW.shape[4] >= RING_PIXELS

    def packed(self, places: Iterator[Tensor] | None = None) -> Self:
        """With the frames that later outputs read, and without the ring.

        Frame by frame: a second copy of all rings would not fit beside them.
        """
        if self.frames is None and self.ring is None:
            return self
        if self.ring is None and places is None:
            return self
        parts = self.kept_frames()
        if places is None:
            (like,) = self.packed_like()
            frames_BCTHW = torch.empty_like(like, device=parts[0].device)
        else:
            frames_BCTHW = next(places)
        for index, part in enumerate(parts):
            frames_BCTHW[:, :, index : index + 1].copy_(part)
        return dataclasses.replace(self, frames=frames_BCTHW, ring=None)

    def packed_like(self) -> Iterator[Tensor]:
        """See `StreamState.packed_like`."""
        if parts := self.kept_frames():
            batch, channels, _, height, width = parts[0].shape
            yield torch.empty(
                (batch, channels, len(parts), height, width),
                dtype=parts[0].dtype,
                device="meta",
                memory_format=LAYOUT,
            )

    def kept_frames(self) -> Sequence[Tensor]:
        """Views of the frames that later outputs read, [B, C, 1, H, W] each."""
        if self.ring is not None:
            return [self.ring.place(n) for n in range(self.seen - self.held, self.seen)]
        return () if self.frames is None else self.frames.split(1, dim=2)


class Prologue(Protocol):
    """Writes its function of x into out, which has x's shape; lets a norm fill a conv's input."""

    def __call__(self, x_BCTHW: Tensor, *, out_BCTHW: Tensor) -> object: ...

    def by_rows(self, x_BCTHW: Tensor) -> RowsPrologue:
        """What writes its function of any rows of x, bit by bit what the call writes."""
        ...


def split_frames(x_BCTHW: Tensor, max_frames: int | None) -> Sequence[Tensor]:
    """Views of at most `max_frames` frames (None: all at once)."""
    if max_frames is None or x_BCTHW.shape[2] <= max_frames:
        return (x_BCTHW,)
    return x_BCTHW.split(max_frames, dim=2)


def join_frames(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate in time; parts without frames are fine, a single part is not copied."""
    filled = [part for part in parts if part.shape[2]] or [parts[0]]
    return filled[0] if len(filled) == 1 else torch.cat(filled, dim=2)


def extend_frames(
    x_BCTHW: Tensor,
    state: ConvState,
    *,
    extra_channels: int = 0,
    prologue: Prologue | None = None,
) -> Tensor:
    """A fresh buffer with the frames that the state held, followed by x; empties the state.

    Args:
        x_BCTHW: new frames, T >= 1.
        state: emptied, so that its frames are not on the device twice.
        extra_channels: uninitialised channels to add behind x's.
        prologue: applied to x on the way in.

    Returns:
        [B, C + extra_channels, held + T, H, W] in channels_last_3d.
    """
    batch, channels, frames, height, width = x_BCTHW.shape
    lead = state.lead if state.frames is None else state.frames.shape[2]
    buffer_BCTHW = torch.empty(
        (batch, channels + extra_channels, lead + frames, height, width),
        dtype=x_BCTHW.dtype,
        device=x_BCTHW.device,
        memory_format=LAYOUT,
    )
    old_BCTHW, new_BCTHW = buffer_BCTHW[:, :channels].split([lead, frames], dim=2)
    if prologue is None:
        new_BCTHW.copy_(x_BCTHW)
    else:
        prologue(x_BCTHW, out_BCTHW=new_BCTHW)
    if state.frames is None:
        old_BCTHW.copy_(new_BCTHW[:, :, :1].expand_as(old_BCTHW))
    else:
        assert state.frames.dtype == x_BCTHW.dtype, "a state never crosses a change of dtype"
        if state.store is not None:
            state.store.fill(state, old_BCTHW)
            return buffer_BCTHW
        old_BCTHW.copy_(state.frames)
        state.frames = None
    return buffer_BCTHW


def put_frame(
    x_BC1HW: Tensor,
    state: ConvState,
    *,
    taps: int,
    step: int = 1,
    padding: int,
    constant_channels: int = 0,
    prologue: Prologue | None = None,
) -> FrameRing:
    """Put the next frame into the state's ring, in the place of the oldest.

    Args:
        x_BC1HW: the frame.
        state: its ring is made where there is none.
        taps: frames that an output reads.
        step: frames from output to output.
        padding: see `FrameRing.empty`.
        constant_channels: likewise.
        prologue: applied to x on the way in.
    """
    is_first = state.ring is None and state.frames is None
    ring, number = state.ring, state.seen
    if ring is None:
        ring = FrameRing.empty(x_BC1HW, taps, padding=padding, constant_channels=constant_channels)
        for back, frame in enumerate(reversed(state.kept_frames()), start=1):
            assert frame.dtype == x_BC1HW.dtype, "a state never crosses a change of dtype"
            ring.place(number - back).copy_(frame)
        state.ring, state.frames = ring, None
    assert ring.memory.dtype == x_BC1HW.dtype, "a state never crosses a change of dtype"
    place = ring.place(number)
    if prologue is None:
        place.copy_(x_BC1HW)
    else:
        prologue(x_BC1HW, out_BCTHW=place)
    if is_first:
        for before in range(1, taps):
            ring.place(number - before).copy_(place)
    state.seen += 1
    state.held = taps - 1 - (-state.seen) % step
    return ring


class CausalConv3d(nn.Module):
    """Conv3d that sees the current and earlier frames only.

    In space: zero padding of kernel // 2, or one row below and one column at the right with a
    spatial stride (the down-sampler's rule). In time: see the module's docstring.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(
        self,
        x_BCTHW: Tensor,
        state: ConvState,
        prologue: Prologue | None = None,
        *,
        with_bias: bool = True,
    ) -> Tensor:
        """Convolve the next frames of a stream.

        Args:
            x_BCTHW: any number of frames >= 1.
            state: updated. With temporal stride s it keeps all frames that a later output reads.
            prologue: applied to x first (norm and activation, written straight into the buffer).
            with_bias: False where what reads the result adds the bias.

        Returns:
            The output frames that are complete: T of them at stride 1; with a temporal stride as
            many as the frames so far allow, possibly none.
        """
        taps, step = self.kernel[0], self.stride[0]
        if taps == 1 and prologue is None:
            return self._convolve(x_BCTHW, self.weight, with_bias=with_bias)
        if state.takes_ring(x_BCTHW):
            return self._forward_in_ring(x_BCTHW, state, prologue, with_bias=with_bias)
        rows = band_rows(x_BCTHW, self.weight) if state.bands and self.stride == (1, 1, 1) else 0
        if rows:
            return self._forward_in_bands(x_BCTHW, state, prologue, rows, with_bias=with_bias)
        buffer_BCTHW = extend_frames(x_BCTHW, state, prologue=prologue)
        outputs = max(0, (buffer_BCTHW.shape[2] - taps) // step + 1)
        with state.keeping(buffer_BCTHW[:, :, outputs * step :]):
            return (
                self._convolve(buffer_BCTHW, self.weight, with_bias=with_bias)
                if outputs
                else self._no_frames(buffer_BCTHW)
            )

    def _forward_in_ring(
        self, x_BCTHW: Tensor, state: ConvState, prologue: Prologue | None, *, with_bias: bool
    ) -> Tensor:
        """The same, frame by frame, with nothing copied."""
        taps, step = self.kernel[0], self.stride[0]
        padding = 0 if self.stride[1] > 1 else self.kernel[1] // 2
        parts: list[Tensor] = []
        for x_BC1HW in x_BCTHW.split(1, dim=2):
            ring = put_frame(
                x_BC1HW, state, taps=taps, step=step, padding=padding, prologue=prologue
            )
            newest = state.seen - 1
            if newest % step:
                continue
            weight = ring.turned(self.weight, newest)
            if self.stride[1] > 1:
                parts.append(self._convolve(ring.memory, weight, with_bias=with_bias))
            else:
                bias_C = self.bias if with_bias else None
                parts.append(ring.convolve(weight, bias_C, padding=(padding, padding)))
        return join_frames(parts) if parts else self._no_frames(x_BCTHW)

    def _forward_in_bands(
        self,
        x_BCTHW: Tensor,
        state: ConvState,
        prologue: Prologue | None,
        rows: int,
        *,
        with_bias: bool,
    ) -> Tensor:
        """The same, so many rows at a time."""
        write = None if prologue is None else prologue.by_rows(x_BCTHW)
        bands = FrameRows(
            x_BCTHW, state, kept=self.kernel[0] - 1, kernel=self.kernel[1], write=write
        )
        y_BCTHW = torch.empty(
            (x_BCTHW.shape[0], self.weight.shape[0], *x_BCTHW.shape[2:]),
            dtype=x_BCTHW.dtype,
            device=x_BCTHW.device,
            memory_format=LAYOUT,
        )
        bias_C = self.bias if with_bias else None
        padding = (self.kernel[1] // 2, self.kernel[2] // 2)
        convolve_strips(y_BCTHW, bands.cut, self.weight, bias_C, padding=padding, rows=rows)
        return y_BCTHW

    def _convolve(self, x_BCTHW: Tensor, weight: Tensor, *, with_bias: bool) -> Tensor:
        bias_C = self.bias if with_bias else None
        padding = (self.kernel[1] // 2, self.kernel[2] // 2)
        if self.stride[1] > 1:
            if switches().inner_padding and takes_gpu_path(x_BCTHW.device):
                return self._convolve_below_right(x_BCTHW, weight)
            x_BCTHW, padding = F.pad(x_BCTHW, (0, 1, 0, 1)), (0, 0)
        return conv3d(x_BCTHW, weight, bias_C, stride=self.stride, padding=padding)

    def _convolve_below_right(self, x_BCTHW: Tensor, weight: Tensor) -> Tensor:
        """Zeros below and at the right only, without a padded copy.

        Two rows of zeros at each side put the wanted rows after the first: with stride 2, output
        row r + 1 reads input rows 2r, 2r + 1, 2r + 2. The bias is added as these are taken out.
        """
        height, width = (size // 2 for size in x_BCTHW.shape[3:])
        wide_BCTHW = conv3d(x_BCTHW, weight, None, stride=self.stride, padding=(2, 2))
        wanted_BCTHW = wide_BCTHW[..., 1 : 1 + height, 1 : 1 + width]
        y_BCTHW = torch.empty_like(wanted_BCTHW, memory_format=LAYOUT)
        add_bias(wanted_BCTHW, self.bias, out_BCTHW=y_BCTHW)
        return y_BCTHW

    def _no_frames(self, x_BCTHW: Tensor) -> Tensor:
        batch, _, _, height, width = x_BCTHW.shape
        size = (height // self.stride[1], width // self.stride[2])
        return x_BCTHW.new_empty((batch, self.bias.shape[0], 0, *size))
