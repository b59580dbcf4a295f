"""What the VAE needs (bytes, operations) and how far it sees, from the config alone.

The convolutions are listed once, in the order they run; context, cache bytes and operations are
sums over that list. Sizes are of the padded picture: height and width divisible by 8.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from seedvr2_core.config import VAEConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvSpec:
    """One convolution and where it stands."""

    path: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int, int] = (3, 3, 3)
    time_stride: int = 1
    space_stride: int = 1
    time_growth: int = 1
    """Frames that follow from one of its outputs (depth to space-time)."""
    shrink: int
    """Pixels of a side that one of its input's cells stands for: 1, 2, 4, 8."""
    rate: int
    """Input frames of a latent after a shot's first: 1, 2, 4."""

    @property
    def kept_frames(self) -> int:
        """Input frames that a stream keeps between slices."""
        return self.kernel[0] - self.time_stride if self.kernel[0] > 1 else 0


def _resnets(path: str, widths: list[int], *, shrink: int, rate: int) -> Iterator[ConvSpec]:
    """`widths` has one entry more than there are residual blocks."""
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        base = ConvSpec(
            path=f"{path}.{index}.conv1",
            in_channels=before,
            out_channels=after,
            shrink=shrink,
            rate=rate,
        )
        yield base
        yield replace(base, path=f"{path}.{index}.conv2", in_channels=after)
        if before != after:
            yield replace(base, path=f"{path}.{index}.conv_shortcut", kernel=(1, 1, 1))


def encoder_convs(config: VAEConfig) -> list[ConvSpec]:
    """The encoder's convolutions in order."""
    widths, last = config.block_out_channels, config.num_levels - 1
    shrink, rate = 1, config.temporal_factor
    specs = [
        ConvSpec(
            path="encoder.conv_in",
            in_channels=config.in_channels,
            out_channels=widths[0],
            shrink=shrink,
            rate=rate,
        )
    ]
    for level, width in enumerate(widths):
        path = f"encoder.down_blocks.{level}"
        row = [widths[max(level - 1, 0)], *[width] * config.layers_per_block]
        specs += _resnets(f"{path}.resnets", row, shrink=shrink, rate=rate)
        if level == last:
            break
        stride = config.encoder_time_stride(level)
        specs.append(
            ConvSpec(
                path=f"{path}.downsamplers.0.conv",
                in_channels=width,
                out_channels=width,
                kernel=(2 * stride - 1, 3, 3),
                time_stride=stride,
                space_stride=2,
                shrink=shrink,
                rate=rate,
            )
        )
        shrink, rate = 2 * shrink, rate // stride
    specs += _resnets("encoder.mid_block.resnets", [widths[-1]] * 3, shrink=shrink, rate=rate)
    final = replace(specs[-1], path="encoder.conv_out", out_channels=2 * config.latent_channels)
    return [*specs, final]


def decoder_convs(config: VAEConfig) -> list[ConvSpec]:
    """The decoder's convolutions in order, up-samplers as trained (not folded)."""
    widths, last = config.block_out_channels[::-1], config.num_levels - 1
    shrink, rate = config.spatial_factor, 1
    conv_in = ConvSpec(
        path="decoder.conv_in",
        in_channels=config.latent_channels,
        out_channels=widths[0],
        shrink=shrink,
        rate=rate,
    )
    specs = [conv_in]
    specs += _resnets("decoder.mid_block.resnets", [widths[0]] * 3, shrink=shrink, rate=rate)
    for level, width in enumerate(widths):
        path = f"decoder.up_blocks.{level}"
        row = [widths[max(level - 1, 0)], *[width] * (config.layers_per_block + 1)]
        specs += _resnets(f"{path}.resnets", row, shrink=shrink, rate=rate)
        if level == last:
            break
        growth = config.decoder_time_stride(level)
        upscale = ConvSpec(
            path=f"{path}.upsamplers.0.upscale_conv",
            in_channels=width,
            out_channels=4 * growth * width,
            kernel=(1, 1, 1),
            time_growth=growth,
            shrink=shrink,
            rate=rate,
        )
        shrink, rate = shrink // 2, rate * growth
        conv = ConvSpec(
            path=f"{path}.upsamplers.0.conv",
            in_channels=width,
            out_channels=width,
            shrink=shrink,
            rate=rate,
        )
        specs += [upscale, conv]
    final = replace(specs[-1], path="decoder.conv_out", out_channels=config.out_channels)
    return [*specs, final]


def encoder_warm_up_frames(config: VAEConfig) -> int:
    """Frames before a latent's first that its moments depend on, in whole latents (112)."""
    context = 0
    for spec in reversed(encoder_convs(config)):
        # A strided conv's output stands at the second frame of its pair: one more lies before.
        context = context * spec.time_stride + spec.kept_frames
    return -(-context // config.temporal_factor) * config.temporal_factor


def decoder_warm_up_latents(config: VAEConfig) -> int:
    """Latents before one that its frames depend on (37)."""
    context = 0
    for spec in reversed(decoder_convs(config)):
        context = -(-context // spec.time_growth) + spec.kept_frames
    return context


def encoder_cache_bytes(config: VAEConfig, height: int, width: int, itemsize: int) -> int:
    """Bytes of an `EncoderState` between slices, for one picture of that size."""
    return _cache_bytes(encoder_convs(config), height, width, itemsize)


def decoder_cache_bytes(
    config: VAEConfig, height: int, width: int, itemsize: int, *, folded: bool = False
) -> int:
    """Bytes of a `DecoderState` between slices, for one picture of that size."""
    specs = decoder_convs(config)
    if not folded:
        return _cache_bytes(specs, height, width, itemsize)
    total = _cache_bytes([s for s in specs if not _is_upsampler(s)], height, width, itemsize)
    for spec in specs:
        if spec.path.endswith("upscale_conv"):
            frames = 3 - spec.time_growth
            total += frames * _cells(spec, height, width) * spec.in_channels * itemsize
    return total


def cache_tensor_bytes(
    specs: Sequence[ConvSpec], height: int, width: int, itemsize: int
) -> tuple[int, ...]:
    """Each tensor of an encoder's or a folded decoder's state, after a shot's first slice."""
    sizes: list[int] = []
    for spec in specs:
        frames = spec.kept_frames
        if spec.path.endswith("upscale_conv"):
            frames = 3 - spec.time_growth
        elif ".upsamplers." in spec.path:
            frames = 0
        cells = (height // spec.shrink) * (width // spec.shrink)
        sizes.append(frames * cells * spec.in_channels * itemsize)
    return tuple(size for size in sizes if size)


def largest_layer(
    specs: Sequence[ConvSpec], height: int, width: int, itemsize: int, *, bands: bool = False
) -> tuple[str, int]:
    """The layer that needs most for one frame, its path and bytes: the frame and those before it
    that it reads, and its result; in bands of rows the frame and its result, but for up-samplers,
    which are worked whole, one phase after the other."""

    def size(spec: ConvSpec) -> int:
        kept = 0 if bands and spec.space_stride == 1 else spec.kept_frames
        made = spec.out_channels / spec.space_stride**2
        if spec.path.endswith("upscale_conv"):
            kept, made = 3 - spec.time_growth, made + spec.in_channels
        numbers = (kept + 1) * spec.in_channels + int(made)
        return _cells(spec, height, width) * numbers * itemsize

    named = {spec.path.removesuffix(".upscale_conv"): spec for spec in specs}
    for path in [path for path in named if ".upsamplers." in path]:
        if not bands or path.endswith(".conv"):
            del named[path]
    path, largest = max(named.items(), key=lambda item: size(item[1]))
    return path, size(largest)


class Streamed(NamedTuple):
    """Bytes of caches that come from host memory; as many go back."""

    passing: float
    """Through blocks, while other layers run."""
    straight: float
    """Into the buffers of layers that wait for them."""


def streamed_per_latent(
    specs: Sequence[ConvSpec],
    height: int,
    width: int,
    itemsize: int,
    *,
    latents: int,
    bounds: Sequence[int],
    block_bytes: int | None = None,
) -> Streamed:
    """What comes from host memory for each latent.

    Args:
        specs: of the encoder, or of the decoder.
        height: of the padded picture.
        width: likewise.
        itemsize: bytes of an element.
        latents: of a slice.
        bounds: most frames at once, full size first.
        block_bytes: as for `memory.streaming_bytes`.
    """
    passing = straight = 0.0
    for spec in specs:
        (num_bytes,) = cache_tensor_bytes([spec], height, width, itemsize) or (0,)
        at_once = min(spec.rate * latents, bounds[spec.shrink.bit_length() - 1])
        moved = num_bytes * spec.rate / at_once
        if block_bytes is None or num_bytes <= block_bytes:
            passing += moved
        else:
            straight += moved
    return Streamed(passing, straight)


def encoder_flops(config: VAEConfig, height: int, width: int, num_latents: int) -> int:
    """Operations (2 per multiply-add) to encode a shot of that many latents."""
    return _flops(config, encoder_convs(config), height, width, num_latents)


def decoder_flops(
    config: VAEConfig, height: int, width: int, num_latents: int, *, folded: bool = False
) -> int:
    """Operations (2 per multiply-add) to decode a shot of that many latents."""
    specs = decoder_convs(config)
    if folded:
        # All frames counted as folded; a shot's first two are not.
        pairs = itertools.pairwise([specs[0], *specs])
        specs = [_fold(*pair) for pair in pairs if not pair[1].path.endswith("upscale_conv")]
    return _flops(config, specs, height, width, num_latents)


def _fold(before: ConvSpec, spec: ConvSpec) -> ConvSpec:
    if not before.path.endswith("upscale_conv"):
        return spec
    return replace(spec, kernel=(4 - before.time_growth, 2, 2))


def _is_upsampler(spec: ConvSpec) -> bool:
    return ".upsamplers." in spec.path


def _cells(spec: ConvSpec, height: int, width: int) -> int:
    return (height // spec.shrink) * (width // spec.shrink)


def _cache_bytes(specs: list[ConvSpec], height: int, width: int, itemsize: int) -> int:
    return itemsize * sum(
        spec.kept_frames * spec.in_channels * _cells(spec, height, width) for spec in specs
    )


def _flops(
    config: VAEConfig, specs: list[ConvSpec], height: int, width: int, num_latents: int
) -> int:
    total = 0
    for spec in specs:
        frames = 1 + (num_latents - 1) * spec.rate // spec.time_stride
        cells = _cells(spec, height, width) // spec.space_stride**2
        taps = math.prod(spec.kernel) * spec.in_channels
        # Of a shot's first frame an up-sampler makes Z outputs and drops all but one.
        total += 2 * frames * cells * taps * spec.out_channels
    channels = config.block_out_channels[-1]
    tokens = (height // config.spatial_factor) * (width // config.spatial_factor)
    attention = 2 * tokens * channels * (4 * channels + 2 * tokens)
    return total + num_latents * attention
