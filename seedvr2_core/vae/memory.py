"""How many bytes the VAE needs, for the memory plan: weights, caches, working sets.

Arithmetic without torch. Working sets follow encoder.py, decoder.py and blocks.py operator by
operator; tests compare them with the live bytes of real calls.

A level is numbered by how often the picture is halved: 0 is full size, in the decoder too.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from seedvr2_core.config import VAEConfig
from seedvr2_core.vae import budget
from seedvr2_core.vae.bands import strips

# Figures of modules that import torch; a test compares them.
NORM_ELEMENTS = 1 << 25
"""norm.CHUNK_ELEMENTS."""
SCORE_BYTES = 1 << 28
"""attention.SCORE_BYTES."""
FOLD_CHANNELS = 8
"""fold.EXTRA_CHANNELS."""
RING_PIXELS = 1 << 16
"""ring.RING_PIXELS."""
_LATER = 1 << 20
"""A frame behind a shot's first slice."""
UPSAMPLED_PLAIN_FRAMES = 2
"""blocks.UPSAMPLED_PLAIN_FRAMES."""
STORE_BLOCKS = 3
"""store.SLOTS_UP + store.SLOTS_DOWN."""
_FLOAT32 = 4
_TAPS = 3
"""Frames that a causal 3x3x3 conv reads for one of its outputs."""


def weight_bytes(config: VAEConfig, itemsize: int) -> int:
    """Weights in bytes, the up-samplers plain and folded."""
    encoder, decoder = budget.encoder_convs(config), budget.decoder_convs(config)
    numbers = sum(_conv_numbers(spec) for spec in (*encoder, *decoder))
    for before in decoder:
        if before.path.endswith("upscale_conv"):
            z, width = before.time_growth, before.in_channels
            numbers += 4 * z * width * (width + FOLD_CHANNELS) * (4 - z) * 4 + width
    # One norm in front of every 3x3x3 conv of a residual block and of conv_out.
    normed = (s for s in (*encoder, *decoder) if ".resnets." in s.path or "conv_out" in s.path)
    numbers += sum(2 * spec.in_channels for spec in normed if spec.kernel[0] > 1)
    channels = config.block_out_channels[-1]
    numbers += 2 * (4 * channels * (channels + 1) + 2 * channels)
    return numbers * itemsize


def _conv_numbers(spec: budget.ConvSpec) -> int:
    return (math.prod(spec.kernel) * spec.in_channels + 1) * spec.out_channels


def ring_bytes(specs: list[budget.ConvSpec], height: int, width: int, itemsize: int) -> int:
    """All of an encoder's or a folded decoder's state at work, large frames in rings (ring.py)."""
    total = 0
    for before, spec in itertools.pairwise([specs[0], *specs]):
        if before.path.endswith("upscale_conv"):
            continue
        kept, slots = spec.kept_frames, spec.kernel[0]
        if spec.path.endswith("upscale_conv"):
            kept, slots = 3 - spec.time_growth, 4 - spec.time_growth
        rows, columns = height // spec.shrink, width // spec.shrink
        in_ring = kept and rows * columns >= RING_PIXELS
        if in_ring and spec.space_stride == 1:
            rows += 2 * _takes_rows_first(spec.in_channels, slots, rows, columns)
        total += (slots if in_ring else kept) * rows * columns * spec.in_channels * itemsize
    return total


def _takes_rows_first(channels: int, slots: int, height: int, width: int) -> bool:
    """ring.takes_rows_first."""
    return channels * slots * (height + 3) * width > strips.CONV_ELEMENTS


def streaming_bytes(
    specs: Sequence[budget.ConvSpec],
    height: int,
    width: int,
    itemsize: int,
    block_bytes: int | None = None,
) -> int:
    """What the device gives for caches that wait in host memory (store.py): the blocks that they
    pass through, as large as the largest of those that do.

    Args:
        specs: of the encoder, or of the decoder.
        height: of the padded picture.
        width: likewise.
        itemsize: bytes of an element.
        block_bytes: larger caches pass through no block; None: all do.
    """
    sizes = budget.cache_tensor_bytes(specs, height, width, itemsize)
    passing = (size for size in sizes if block_bytes is None or size <= block_bytes)
    return STORE_BLOCKS * max(passing, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingSet:
    """What encoder and decoder hold beside weights and (folded) caches, at their worst moment.

    The input buffer of a conv takes over its cached frames and gives them back to the state when it
    is dropped, so they are counted once more as long as the buffer lives. "Beside x" means that the
    caller counts the input.
    """

    config: VAEConfig
    height: int
    width: int
    itemsize: int
    on_cpu: bool = False
    rings: bool = False
    """Large frames pass one at a time, and the buffers of their convs are part of the state."""
    streamed: bool = False
    """Caches wait in host memory (store.py)."""
    bands: bool = False
    """Large frames are worked in bands of rows (bands/rows.py), and what is done goes at once."""

    def encoder(self, latents: int, bounds: Sequence[int]) -> int:
        """Peak of `encode` on a slice, its frames included.

        Args:
            latents: of the slice.
            bounds: most frames at once, full size first.
        """
        widths = self.config.block_out_channels
        # A shot's first slice is latents 0 and 1, 5 frames.
        frames = max(self.config.temporal_factor * latents, self.config.temporal_factor + 1)
        held = frames * self._frame(0, self.config.in_channels)
        peak = 0
        for level, width in enumerate(widths):
            before = widths[max(level - 1, 0)]
            n = min(frames, bounds[level])
            # Its input, or at full size what conv_in makes of a part of it.
            given = (n if level == 0 else frames) * self._frame(level, before)
            work = self._resnets(level, n, before, width, self.config.layers_per_block)
            if self.bands and level == 0:
                work, given = given + self._resnet(0, n, before, width), 0
                work = max(work, n * self._frame(0, width) + self._resnet(0, n, width, width))
            if level == len(widths) - 1:
                work = max(work, self._bottom(level, n, 2 * self.config.latent_channels))
                return max(peak, held + given + work)
            stride = self.config.encoder_time_stride(level)
            joined = frames > n
            frames = -(-frames // stride)
            out = frames * self._frame(level + 1, width)
            # While the last part is at work, those before it have come through.
            earlier = out - -(-n // stride) * self._frame(level + 1, width)
            work = max(work, self._downsampler(level, n, width, stride))
            peak = max(peak, held + given + earlier + work)
            # Then all are copied into one; at full size the input was of the last part alone.
            if joined:
                peak = max(peak, held + (given if level else 0) + 2 * out)
        return peak

    def decoder(self, latents: int, bounds: Sequence[int]) -> int:
        """Peak of `decode_latents` on a slice, its float32 frames included.

        Args:
            latents: of the slice.
            bounds: most frames at once, latent size first.
        """
        return _decoder(self, latents, tuple(bounds))

    def decode(self, latents: int, bounds: Sequence[int], *, first: bool) -> int:
        """Peak before the frames are joined, of a shot's first slice or of a later one."""
        cells, width = self._cells(len(bounds) - 1), self.config.block_out_channels[-1]
        scaled = self.latents(latents)
        peak = 0
        for part in _last_parts(latents, bounds[0]):
            held = scaled + part.start * self._pixels(0)
            mid = len(part) * cells * width * self.itemsize + self._mid(len(bounds) - 1, len(part))
            begins = part.start if first else _LATER
            below = self._up_block(0, len(part), bounds, held, begins)
            peak = max(peak, held + mid, below)
        return peak

    def latents(self, count: int) -> int:
        """Latents as they come, scaled, and in the VAE's dtype."""
        numbers = count * self._cells(self.config.num_levels - 1) * self.config.latent_channels
        return numbers * (2 * _FLOAT32 + self.itemsize)

    def _up_block(
        self, index: int, frames: int, bounds: Sequence[int], held: int, begins: int
    ) -> int:
        """Peak of a level and those behind it on some frames, beside what is held meanwhile.

        The first of them is frame `begins` of the shot at this level.

        What is not the last part waits until the part before has become pixels. So the peak is
        reached in the last part or in the one before, at each level.
        """
        widths = self.config.block_out_channels[::-1]
        level, width, before = len(widths) - 1 - index, widths[index], widths[max(index - 1, 0)]
        given, peak = frames * self._frame(level, before), 0
        for part in _last_parts(frames, bounds[index]):
            here = held + part.start * self._pixels(index)
            waiting = 0 if part.stop == frames else given
            out = len(part) * self._frame(level, width)
            if self.bands:
                # Parts are apart, and each goes with the first block.
                waiting = (frames - part.stop) * self._frame(level, before)
                one = len(part) * self._frame(level, before)
                work = one + self._resnet(level, len(part), before, width)
                work = max(work, out + self._resnet(level, len(part), width, width))
                peak = max(peak, here + waiting + work, here + 2 * given)
            else:
                blocks = self.config.layers_per_block + 1
                work = self._resnets(level, len(part), before, width, blocks)
                peak = max(peak, here + given + work)
            if level == 0:
                last = self._conv(0, len(part), width, self.config.out_channels)
                peak = max(peak, here + waiting + out + last)
                continue
            z = self.config.decoder_time_stride(index)
            for low in _last_parts(len(part), max(1, bounds[index + 1] // z)):
                at = begins + part.start + low.start
                now = here + waiting + low.start * self._pixels(index)
                if z > 1 and at < UPSAMPLED_PLAIN_FRAMES:
                    work = self._upsampler_plain(index, len(low), first=not at)
                else:
                    work = self._upsampler_folded(level, len(low), width, z)
                peak = max(peak, now + out + work)
                # A shot's first frame stays one.
                raised, begun = (
                    (z * len(low), z * (at - 1) + 1) if at else (z * len(low) - z + 1, 0)
                )
                kept = now + (0 if low.stop == len(part) else out)
                peak = max(peak, self._up_block(index + 1, raised, bounds, kept, begun))
        return peak

    def _pixels(self, index: int) -> int:
        """Bytes of the decoder's pixels of a frame at one of its levels."""
        strides = (self.config.decoder_time_stride(i) for i in range(self.config.num_levels - 1))
        growth = math.prod(itertools.islice(strides, index, None))
        return growth * self._frame(0, self.config.out_channels)

    def _in_ring(self, level: int) -> bool:
        return self.rings and self._cells(level) >= RING_PIXELS

    def _turned(self, before: int, after: int, taps: int) -> int:
        """Weights whose taps are turned, and once more with height as their first dimension."""
        return 2 * taps * before * after * self.itemsize

    def _cells(self, level: int) -> int:
        return (self.height >> level) * (self.width >> level)

    def _frame(self, level: int, channels: int) -> int:
        return self._cells(level) * channels * self.itemsize

    def _conv(
        self, level: int, frames: int, before: int, after: int, *, counted: bool = True
    ) -> int:
        """Input buffer and result of a causal 3x3x3 conv with a norm on the way in, beside x;
        `counted`: the frames that it caches are among the caches."""
        if self._in_ring(level):
            parts = 1 if frames == 1 else 2  # single frames, and all of them joined
            return parts * frames * self._frame(level, after) + self._turned(before, after, 27)
        if band := self._band(level, frames, before, after):
            return frames * self._frame(level, after) + max(band, self._norm(level, frames, before))
        kept = (_TAPS - 1) * self._frame(level, before)
        buffer = kept + frames * self._frame(level, before)
        out = frames * self._frame(level, after)
        passing = _TAPS * frames * self._frame(level, before) if self.on_cpu else 0
        passing += self._parts(buffer, out, frames + _TAPS - 1, frames)
        if counted and not self.streamed:
            # While the conv runs, the cached frames are in the buffer only.
            passing -= kept
        return buffer + max(out + max(0, passing), self._norm(level, frames, before))

    def _band(self, level: int, frames: int, before: int, after: int) -> int:
        """See `strips.band_bytes`."""
        if not self.bands:
            return 0
        size = (self.height >> level, self.width >> level)
        return strips.band_bytes((before, after), frames, size, self.itemsize, on_cpu=self.on_cpu)

    def _parts(
        self, given: int, out: int, frames: int, out_frames: int, *, taps: int = _TAPS
    ) -> int:
        """See `strips.part_bytes`."""
        how = {"height": self.height, "itemsize": self.itemsize, "on_cpu": self.on_cpu}
        return strips.part_bytes(given, out, frames, out_frames, taps=taps, **how)

    def _norm(self, level: int, frames: int, channels: int) -> int:
        """Two float32 copies of a chunk, which is whole groups of a frame at the least.

        A GPU's kernel keeps sums only; where it cannot run, they take what convolutions do not.
        """
        if not self.on_cpu:
            return 0
        elements = self._cells(level) * channels
        chunk = max(NORM_ELEMENTS, elements // self.config.norm_groups)
        return 2 * _FLOAT32 * min(frames * elements, chunk)

    def _resnets(self, level: int, frames: int, before: int, after: int, blocks: int) -> int:
        """A level's residual blocks, beside the first one's x."""
        first = self._resnet(level, frames, before, after)
        if blocks == 1:
            return first
        x = frames * self._frame(level, after)
        return max(first, x + self._resnet(level, frames, after, after))

    def _resnet(self, level: int, frames: int, before: int, after: int) -> int:
        h = frames * self._frame(level, after)
        first = self._conv(level, frames, before, after)
        return max(first, h + self._conv(level, frames, after, after), 2 * h)

    def _mid(self, level: int, frames: int) -> int:
        """Two residual blocks and the attention between them, beside x."""
        channels = self.config.block_out_channels[-1]
        x = frames * self._frame(level, channels)
        tokens = self._cells(level)
        # Scores and their softmax; keys and values of a frame in float32. A GPU stores none.
        scores = 2 * min(SCORE_BYTES, _FLOAT32 * tokens**2)
        scores = scores + 2 * _FLOAT32 * tokens * channels if self.on_cpu else 0
        attention = max(7 * x, 5 * x + scores)
        return x + max(attention, self._resnet(level, frames, channels, channels))

    def _bottom(self, level: int, frames: int, out_channels: int) -> int:
        """The encoder's mid block and last conv, beside the level's input."""
        channels = self.config.block_out_channels[-1]
        x = frames * self._frame(level, channels)
        return x + max(self._mid(level, frames), self._conv(level, frames, channels, out_channels))

    def _downsampler(self, level: int, frames: int, width: int, stride: int) -> int:
        """Beside the level's input: the residual blocks' result, buffer, padded copy, result."""
        one = self._frame(level, width)
        # In pairs, but a part may end with half of one.
        buffer = 0 if stride == 1 else (2 + frames) * one
        given = buffer or frames * one
        if self._in_ring(level):
            buffer, given = 0, 3 * one
        out_frames = -(-frames // stride)
        out = out_frames * self._frame(level + 1, width)
        parts = self._parts(given, out, given // one, out_frames, taps=2 * stride - 1)
        # On a GPU nothing is padded, but the result is taken out of a slightly larger one.
        return frames * one + buffer + (given if self.on_cpu else out) + out + parts

    def _upsampler_folded(self, level: int, frames: int, width: int, stride: int) -> int:
        """Buffer, result, and one phase of it, beside x."""
        given_frames = 3 - stride + frames
        constant = FOLD_CHANNELS if self.on_cpu else 0
        buffer = given_frames * self._frame(level, width + constant)
        out = stride * frames * self._frame(level - 1, width)
        phase = frames * self._frame(level, width)
        stacked = (4 - stride) * frames * self._frame(level, width) if self.on_cpu else 0
        if self._in_ring(level):
            return out + self._frame(level, width) + self._turned(width, width, 4 * (4 - stride))
        parts = self._parts(buffer, phase, given_frames, frames, taps=4 - stride)
        return buffer + out + phase + stacked + parts

    def _upsampler_plain(self, index: int, frames: int, *, first: bool) -> int:
        """The shuffled frames, then the conv's buffer and result, beside x; without the caches that
        are counted and not there yet: its own, folded one, and, on a shot's first frame, those
        behind it."""
        width = self.config.block_out_channels[-1 - index]
        z, level = self.config.decoder_time_stride(index), self.config.num_levels - 2 - index
        made = z * frames - (z - 1 if first else 0)
        total = made * self._frame(level, width)
        total += self._conv(level, made, width, width, counted=False)
        if self._in_ring(level):
            total += _TAPS * self._frame(level, width)
        if self.streamed:
            return total
        specs = budget.decoder_convs(self.config)
        own = next(i for i, s in enumerate(specs) if f"up_blocks.{index}.upsamplers" in s.path)
        return (
            total
            - self._cached(specs[own : own + 2])
            - (self._cached(specs[own + 2 :]) if first else 0)
        )

    def _cached(self, specs: list[budget.ConvSpec]) -> int:
        sizes = (self.height, self.width, self.itemsize)
        if self.rings:
            return ring_bytes(specs, *sizes)
        return sum(budget.cache_tensor_bytes(specs, *sizes))


@functools.lru_cache(maxsize=1024)
def _decoder(work: WorkingSet, latents: int, bounds: tuple[int, ...]) -> int:
    """See `WorkingSet.decoder`; a job that does not fit is planned many times."""
    joined = latents * work.config.temporal_factor * work.height * work.width
    return max(
        work.decode(2, bounds, first=True),
        work.decode(latents, bounds, first=False),
        joined * work.config.out_channels * (work.itemsize + _FLOAT32) + work.latents(latents),
    )


def _last_parts(frames: int, most: int) -> tuple[range, ...]:
    """The last two parts of at most so many frames, or the only one."""
    starts = range(0, frames, most)[-2:]
    return tuple(range(start, min(start + most, frames)) for start in starts)
