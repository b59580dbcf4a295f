"""Chooses how an engine with latents uses the memory of its device.

A segment runs in three phases: "encode" its frames, run the transformer ("dit") on each window,
"decode". For every phase this module predicts the peak memory from the sizes alone. It then goes
down a ladder, a list of settings (rungs) that need less and less memory, and takes the first rung
that fits. Slices are chosen first: the largest that fit when everything else has left the device.
Then as much as possible stays on the device beside them. So more memory never leads to smaller
slices.

These settings change results only by the order of sums. The transformer's window would change more:
it is what the request asks for, and one that does not fit is refused with the numbers.

Arithmetic without torch; nothing is allocated. Tests compare the sums over tensors with the live
bytes of real calls. The totals on a GPU have not been measured yet.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from seedvr2_core.config import DiTConfig, VAEConfig
from seedvr2_core.dit import memory as dit_memory
from seedvr2_core.errors import PlanError, ResourceError
from seedvr2_core.frames import FRAMES_PER_LATENT, padded_size
from seedvr2_core.planning.plan import MemoryPlan, Quantized
from seedvr2_core.vae import budget
from seedvr2_core.vae import memory as vae_memory

_Rung = TypeVar("_Rung")
_FLOAT32 = 4
_HALF = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Memory that cannot be computed from shapes; each figure names its source."""

    context: int = 1_000_000_000
    """CUDA context, loaded kernels, cuBLAS (32 MiB on Hopper, its manual) and cuDNN handles.
    Assumed, to be measured."""
    workspace: int = 2_000_000_000
    """Scratch memory of the largest convolution or matrix product. Assumed, to be measured."""
    fragmentation: float = 0.06
    """Share of everything but weights that the caching allocator holds and cannot use, with
    expandable segments. Assumed, to be measured."""
    picture_planes: int = 24
    """float32 planes of one frame while it is resized, coloured and rounded. Counted in frames.py
    and color.py (picture, source, differences, luma and chroma, padded and blurred), rounded up."""
    shot_copies: int = 8
    """float32 copies of a whole shot that colour method "lab" holds. Counted in color.py: content,
    source, split, Lab, and values and int64 ranks of a channel while it is sorted."""
    expanding: int = 80_000_000
    """Temporaries while a part of a quantised weight is expanded: of 4 Mi values at once
    (weights/quantized.py) the bytes, integers and float32 products, up to 19 bytes a value."""
    pinned_rounding: int = 2
    """torch rounds a pinned tensor up to a power of two (ATen/core/CachingHostAllocator.h, 2.13),
    so this bounds it; above `pinned_max_round_threshold_mb`, where that is set, it does not."""


CONSTANTS = Constants()
ITEMSIZE: Mapping[str, int] = {"float16": _HALF, "bfloat16": _HALF, "float32": _FLOAT32}

SLICES: tuple[tuple[int, int], ...] = ((8, 4), (8, 2), (8, 1), (4, 1), (2, 1), (1, 1))
"""Rungs of encoder and decoder: (latents of a slice, most frames at once at full size). A level
with half the height and width takes twice as many frames, which together have half the bytes."""
CHUNKS: tuple[int, ...] = (65_536, 16_384, 8_192)
"""Rungs of the transformer: how many tokens it takes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """What stays on the device while it is not needed; the rest waits in host memory."""

    weights: bool
    """Whether the transformer's weights stay while the VAE runs."""
    caches: bool
    """Whether the VAE's caches stay while another phase runs."""


RESIDENCIES: tuple[Residency, ...] = (
    Residency(weights=True, caches=True),
    Residency(weights=True, caches=False),
    Residency(weights=False, caches=False),
)
"""Rungs, the one that needs the least memory last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest:
    """Everything that the memory plan depends on."""

    dit_config: DiTConfig
    vae_config: VAEConfig
    width: int
    """Of the output picture in pixels, before padding."""
    height: int
    num_latents_in_window: int
    overlap: int
    """Latents that neighbouring windows share."""
    segment_latents: int
    """Latents of the longest segment, with those that it reads ahead."""
    source_frame_bytes: int
    """Bytes of one decoded source frame."""
    device_bytes: int | None
    """Free memory of the device; None for the host, which is taken as large enough."""
    device_kind: str
    """What the device is called, for messages; the host's name starts with "cpu"."""
    vae_dtype: str = "float16"
    dit_dtype: str = "bfloat16"
    color_correction: str = "auto"
    quantized: Quantized | None = None
    """Weights of the transformer that stay quantised."""
    text_len: int = 58
    """Tokens of the prompt (as trained: dit.md section 11)."""

    @property
    def dit_weights(self) -> int:
        """Bytes of the transformer's weights."""
        itemsize = ITEMSIZE[self.dit_dtype]
        plain = dit_memory.weight_bytes(self.dit_config, itemsize=itemsize)
        if self.quantized is None:
            return plain
        return plain - itemsize * self.quantized.values + self.quantized.num_bytes

    @property
    def expanded_weight(self) -> int:
        """Bytes of the largest quantised weight while it is used, with what expands it."""
        if self.quantized is None:
            return 0
        return self.quantized.largest * ITEMSIZE[self.dit_dtype] + CONSTANTS.expanding

    @property
    def on_cpu(self) -> bool:
        """Whether the engine runs on the host."""
        return self.device_kind.lower().startswith("cpu")

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of the picture that the model sees."""
        return padded_size(self.height, self.width)

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of a latent."""
        height, width = self.padded
        return height // self.vae_config.spatial_factor, width // self.vae_config.spatial_factor

    @property
    def picture_bytes(self) -> int:
        """Bytes of one padded frame in float32."""
        return math.prod(self.padded) * self.vae_config.out_channels * _FLOAT32

    def fits(self, num_bytes: int) -> bool:
        """Whether the device has that many bytes."""
        return self.device_bytes is None or num_bytes <= self.device_bytes


def plan_memory(request: MemoryRequest) -> MemoryPlan:
    """Choose slices, chunks and residency for a device.

    Returns:
        A plan whose `peaks` hold the bytes of "encode", "dit" and "decode" on the device, reserves
        included, and of "host": source frames and what waits there in page-locked memory.

    Raises:
        ResourceError: a phase does not fit even with the smallest slices and nothing else on the
            device. The message tells what it needs and what the device has.
        PlanError: a number is below 1, or a dtype is unknown.
    """
    _check(request)
    phases = _PhasePeaks.of(request)
    lean = RESIDENCIES[-1]
    _check_fits(request, phases)
    encode = _first_fit(request, SLICES, lambda rung: phases.encode(rung, lean))
    chunk = _first_fit(request, CHUNKS, lambda rung: phases.dit(rung, lean))
    decode = _first_fit(request, SLICES, lambda rung: phases.decode(rung, lean))

    def peaks(stay: Residency) -> tuple[tuple[str, int], ...]:
        return (
            ("encode", phases.encode(encode, stay)),
            ("dit", phases.dit(chunk, stay)),
            ("decode", phases.decode(decode, stay)),
        )

    stay = next(s for s in RESIDENCIES if all(request.fits(need) for _, need in peaks(s)))
    return MemoryPlan(
        vae_dtype=request.vae_dtype,
        dit_dtype=request.dit_dtype,
        encoder_slice=encode[0],
        decoder_slice=decode[0],
        encoder_level_frames=level_frames(request.vae_config, encode[1]),
        decoder_level_frames=level_frames(request.vae_config, decode[1])[::-1],
        chunk_tokens=chunk,
        park_caches=not stay.caches,
        weights_resident=stay.weights,
        peaks=(*peaks(stay), ("host", phases.host(stay))),
    )


def level_frames(config: VAEConfig, top: int) -> tuple[int, ...]:
    """Most frames at once at each level, full size first, for `top` frames at full size."""
    return tuple(top << level for level in range(config.num_levels))


def _check(request: MemoryRequest) -> None:
    numbers = {
        "width": request.width,
        "height": request.height,
        "num_latents_in_window": request.num_latents_in_window,
        "segment_latents": request.segment_latents,
        "overlap + 1": request.overlap + 1,
        "source_frame_bytes": request.source_frame_bytes,
    }
    for name, number in numbers.items():
        if number < 1:
            raise PlanError(f"memory plan: {name} must be at least 1, got {number}")
    for dtype in (request.vae_dtype, request.dit_dtype):
        if dtype not in ITEMSIZE:
            raise PlanError(f"unknown dtype {dtype!r}; choose one of: {', '.join(ITEMSIZE)}")


def _first_fit(
    request: MemoryRequest, rungs: Sequence[_Rung], need_of: Callable[[_Rung], int]
) -> _Rung:
    """The first rung with which a phase fits into the device's memory; `_check_fits` found one."""
    return next(rung for rung in rungs if request.fits(need_of(rung)))


def _check_fits(request: MemoryRequest, phases: "_PhasePeaks") -> None:
    """Refuse what does not fit on the lowest rungs, with the number that all phases together need.

    What else the user can change is for `planning.advice` to find out, which tries it.
    """
    lean = RESIDENCIES[-1]
    needs = {
        "encode": phases.encode(SLICES[-1], lean),
        "dit": phases.dit(CHUNKS[-1], lean),
        "decode": phases.decode(SLICES[-1], lean),
    }
    phase, need = max(needs.items(), key=lambda item: item[1])
    if request.fits(need):
        return
    have = request.device_bytes or 0
    window = f" with a window of {request.num_latents_in_window} latents" if phase == "dit" else ""
    raise ResourceError(
        f"{request.width}x{request.height} does not fit: phase {phase}{window} needs "
        f"{need / 1e9:.1f} GB at the least and {request.device_kind} has {have / 1e9:.1f} GB free; "
        f"use a GPU with {math.ceil(need / 1e9)} GB free"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PhasePeaks:
    """Predicts the peak bytes of each phase for a rung and a residency."""

    request: MemoryRequest
    vae: vae_memory.WorkingSet
    dit_weights: int
    vae_weights: int
    encoder_caches: int
    decoder_caches: int
    latents: int
    """Bytes of a segment's encoded latents, which exist twice while slices are joined, and of the
    tail; float32."""

    @classmethod
    def of(cls, request: MemoryRequest) -> "_PhasePeaks":
        """Compute what is the same for all rungs."""
        config, itemsize = request.vae_config, ITEMSIZE[request.vae_dtype]
        height, width = request.padded
        latents = 2 * request.segment_latents + request.overlap
        return cls(
            request=request,
            vae=vae_memory.WorkingSet(
                config=config, height=height, width=width, itemsize=itemsize, on_cpu=request.on_cpu
            ),
            dit_weights=request.dit_weights,
            vae_weights=vae_memory.weight_bytes(config, itemsize),
            encoder_caches=budget.encoder_cache_bytes(config, height, width, itemsize),
            decoder_caches=budget.decoder_cache_bytes(config, height, width, itemsize, folded=True),
            latents=latents * math.prod(request.latent_size) * config.latent_channels * _FLOAT32,
        )

    def encode(self, rung: tuple[int, int], stay: Residency) -> int:
        """The encoder at work, and what the other phases leave on the device."""
        work = self.vae.encoder(rung[0], level_frames(self.request.vae_config, rung[1]))
        if not self.request.on_cpu:
            # Source frames come on a stream of their own, those of the next slice before the last
            # ones are given back.
            work += 2 * FRAMES_PER_LATENT * rung[0] * self.request.source_frame_bytes
        others = self.decoder_caches if stay.caches else 0
        return self._total(self.encoder_caches + others + work, with_dit=stay.weights)

    def dit(self, chunk_tokens: int, stay: Residency) -> int:
        """The transformer on one window, and what the VAE leaves on the device."""
        request, config = self.request, self.request.dit_config
        work = dit_memory.activation_bytes(
            config,
            (request.num_latents_in_window, *request.latent_size),
            text_len=request.text_len,
            chunk_tokens=chunk_tokens,
            itemsize=ITEMSIZE[request.dit_dtype],
        )
        # The sampler holds noise, condition and result around the call.
        channels = 2 * config.latent_channels + config.condition_channels
        pixels = request.num_latents_in_window * math.prod(request.latent_size)
        work += pixels * channels * _FLOAT32 + request.expanded_weight
        others = self.encoder_caches + self.decoder_caches if stay.caches else 0
        return self._total(others + work, with_dit=True)

    def decode(self, rung: tuple[int, int], stay: Residency) -> int:
        """The decoder, or the colour correction of its frames, and what the other phases leave."""
        request = self.request
        work = self.vae.decoder(rung[0], level_frames(request.vae_config, rung[1])[::-1])
        planes = CONSTANTS.picture_planes * math.prod(request.padded) * _FLOAT32
        # A slice's frames are gone before the next one is decoded, so the larger of both counts.
        work = max(work, planes + FRAMES_PER_LATENT * rung[0] * request.picture_bytes)
        if request.color_correction == "lab":
            shot = FRAMES_PER_LATENT * request.num_latents_in_window * request.picture_bytes
            work = max(work + shot, CONSTANTS.shot_copies * shot)
        # A slice's integers, of 16 bits at the most, until all of them have come to the host.
        work += FRAMES_PER_LATENT * rung[0] * request.picture_bytes * _HALF // _FLOAT32
        others = self.encoder_caches if stay.caches else 0
        return self._total(self.decoder_caches + others + work, with_dit=stay.weights)

    def host(self, stay: Residency) -> int:
        """Host memory: the source frames of a segment, and what waits for its phase. The queues
        between the stages come on top (queues.py), 2 GB at the most."""
        request = self.request
        if request.on_cpu:
            return FRAMES_PER_LATENT * request.segment_latents * request.source_frame_bytes
        pinned = 0 if stay.weights else CONSTANTS.pinned_rounding * self.dit_weights
        if not stay.caches:
            height, width = request.padded
            sizes = vae_memory.cache_tensor_bytes(
                request.vae_config, height, width, ITEMSIZE[request.vae_dtype]
            )
            pinned += sum(1 << (size - 1).bit_length() for size in sizes)
        return pinned + FRAMES_PER_LATENT * request.segment_latents * request.source_frame_bytes

    def _total(self, moving: int, *, with_dit: bool) -> int:
        """What a phase needs for itself (`moving`), with weights, latents and reserves."""
        total = self.vae_weights + (self.dit_weights if with_dit else 0)
        moving += self.latents
        if self.request.on_cpu:
            return total + moving
        total += CONSTANTS.context + CONSTANTS.workspace
        return total + math.ceil(moving * (1 + CONSTANTS.fragmentation))
