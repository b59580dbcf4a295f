"""Predicts the peak memory of each phase of a segment from sizes alone; arithmetic without torch.

Tests compare the sums over tensors with the live bytes of real calls. The totals on a GPU have not
been measured yet.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seedvr2_core.config import DiTConfig, VAEConfig
from seedvr2_core.dit import memory as dit_memory
from seedvr2_core.frames import FRAMES_PER_LATENT, padded_size
from seedvr2_core.planning.plan import Quantized
from seedvr2_core.planning.queues import bytes_waiting
from seedvr2_core.planning.rungs.slices import Slices, streamed, streamed_rungs, waited_bytes
from seedvr2_core.vae import budget
from seedvr2_core.vae import memory as vae_memory

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
    expanding: int = 80_000_000
    """Temporaries while a part of a quantised weight is expanded: of 4 Mi values at once
    (weights/quantized.py) the bytes, integers and float32 products, up to 19 bytes a value."""
    picture_planes: int = 24
    """float32 planes of one frame while it is resized, coloured and rounded by our own kernel.
    Counted (picture, source, differences, luma and chroma) and rounded up."""
    plain_picture_planes: int = 32
    """The same without that kernel, where parts are padded and blurred one by one."""
    strength_planes: int = 3
    """The same that are added while detail is taken from the source (`strength` below 1): the frame
    as it is coloured then, beside the one that was drawn. What it takes to make it is less than
    what colour takes afterwards."""
    host_bandwidth: float = 20e9
    """Bytes per second between page-locked memory and the device, each way at the same time.
    Assumed for PCIe 4.0 with 16 lanes, to be measured."""
    host_process: int = 5_000_000_000
    """Host memory beside frames and what waits there: interpreter, libraries, CUDA's own, the
    video's encoder. Assumed, to be measured."""
    shot_copies: int = 8
    """float32 copies of a whole shot that colour method "lab" holds. Counted in color.py: content,
    source, split, Lab, and values and int64 ranks of a channel while it is sorted."""


CONSTANTS = Constants()
_ALPHA_SOURCES, _ALPHA_RESTORED = 16, 4
"""Frames of a second decoder, one for each of its threads; float32 and integers of one plane, and
the frame with it."""
ENCODE, DIT, DECODE = "encode", "dit", "decode"
ITEMSIZE: Mapping[str, int] = {"float16": _HALF, "bfloat16": _HALF, "float32": _FLOAT32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """What stays on the device while it is not needed; the rest waits in host memory."""

    weights: bool
    """Whether the transformer's weights stay while the VAE runs."""
    caches: bool
    """Whether the VAE's caches stay while another phase runs."""
    streamed: bool = False
    """Whether each cache leaves even while its own phase runs, but for its layer (vae/store.py)."""
    layers: int = 0
    """How many of the transformer's layers come one by one while it runs."""


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
    host_bytes: int | None = None
    """Free memory of the host; None: taken as large enough."""
    bit_depth: int = 8
    """Of the source, and so of the output."""
    alpha: bool = False
    """Whether the source is decoded once more, for its alpha, while frames are encoded."""
    vae_dtype: str = "float16"
    dit_dtype: str = "bfloat16"
    own_kernels: bool = True
    """Whether kernels of our own run on the device, if that is a GPU."""
    color_correction: str = "auto"
    strength: float = 1.0
    quantized: Quantized | None = None
    """Weights of the transformer that stay quantised."""
    text_len: int = 58
    """Tokens of the prompt (as trained: dit.md section 11)."""

    @property
    def dit_weights(self) -> int:
        """Bytes of the transformer's weights."""
        return self.weights_at_work(0)

    @property
    def layer_sizes(self) -> list[int]:
        """Bytes of the weights of each layer."""
        layers = () if self.quantized is None else self.quantized.layers
        itemsize = ITEMSIZE[self.dit_dtype]
        return dit_memory.layer_sizes(self.dit_config, itemsize=itemsize, quantized=layers)

    def weights_at_work(self, streamed: int) -> int:
        """Bytes of the transformer's weights on the device while so many of its layers, the last
        ones, come from host memory."""
        ends = dit_memory.end_bytes(self.dit_config)
        return dit_memory.streamed_weight_bytes(ends, self.layer_sizes, streamed)

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
    def restored_frame_bytes(self) -> int:
        """Bytes of a frame that the engine gives, of 8 or 16 bits."""
        return 3 * (1 if self.bit_depth <= 8 else 2) * self.width * self.height

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePeaks:
    """Predicts the peak bytes of each phase for a rung and a residency."""

    request: MemoryRequest
    vae: vae_memory.WorkingSet
    dit_weights: int
    vae_weights: int
    encoder_caches: tuple[int, int]
    """Without and with rings."""
    decoder_caches: tuple[int, int]
    latent: int
    """Bytes of a latent, float32."""

    @classmethod
    def of(cls, request: MemoryRequest) -> "PhasePeaks":
        """Compute what is the same for all rungs."""
        config, itemsize = request.vae_config, ITEMSIZE[request.vae_dtype]
        height, width = request.padded
        return cls(
            request=request,
            vae=vae_memory.WorkingSet(
                config=config, height=height, width=width, itemsize=itemsize, on_cpu=request.on_cpu
            ),
            dit_weights=request.dit_weights,
            vae_weights=vae_memory.weight_bytes(config, itemsize),
            encoder_caches=(
                budget.encoder_cache_bytes(config, height, width, itemsize),
                vae_memory.ring_bytes(budget.encoder_convs(config), height, width, itemsize),
            ),
            decoder_caches=(
                budget.decoder_cache_bytes(config, height, width, itemsize, folded=True),
                vae_memory.ring_bytes(budget.decoder_convs(config), height, width, itemsize),
            ),
            latent=math.prod(request.latent_size) * config.latent_channels * _FLOAT32,
        )

    def bounds(self, rung: Slices) -> tuple[int, ...]:
        """Most frames at once at each level, full size first."""
        return rung.level_frames(self.request.vae_config, self.request.padded)

    def encode(self, rung: Slices, stay: Residency, *, decoder_rings: bool = False) -> int:
        """The encoder at work, and what the other phases leave on the device."""
        request = self.request
        work = self._work(rung, stay).encoder(rung.latents, self.bounds(rung))
        if not request.on_cpu:
            # Source frames come on a stream of their own, those of the next slice before the last
            # ones are given back.
            work += 2 * FRAMES_PER_LATENT * rung.latents * request.source_frame_bytes
        work += self.decoder_caches[decoder_rings] if stay.caches else 0
        work += self._own_caches(ENCODE, rung, stay)
        # A segment's latents exist twice while slices are joined; there is also the tail.
        work += (2 * request.segment_latents + request.overlap) * self.latent
        return self._total(work, dit_weights=self._resident_weights(stay))

    def dit(
        self, chunk_tokens: int, stay: Residency, *, rings: tuple[bool, bool] = (False, False)
    ) -> int:
        """The transformer on one window, and what the VAE leaves on the device."""
        request, config = self.request, self.request.dit_config
        size = (request.num_latents_in_window, *request.latent_size)
        work = dit_memory.activation_bytes(
            config,
            size,
            text_len=request.text_len,
            chunk_tokens=chunk_tokens,
            itemsize=ITEMSIZE[request.dit_dtype],
            path=dit_memory.Path(on_cpu=request.on_cpu, own_kernels=request.own_kernels),
        )
        # Tables of a second length of window are kept (dit/tables.py).
        work += dit_memory.table_bytes(config, size, on_cpu=request.on_cpu)
        # The sampler holds noise, condition and result around the call.
        channels = 2 * config.latent_channels + config.condition_channels
        work += math.prod(size) * channels * _FLOAT32 + request.expanded_weight
        work += (request.segment_latents + request.overlap) * self.latent
        if stay.caches:
            work += self.encoder_caches[rings[0]] + self.decoder_caches[rings[1]]
        return self._total(work, dit_weights=request.weights_at_work(stay.layers))

    def decode(self, rung: Slices, stay: Residency, *, encoder_rings: bool = False) -> int:
        """The decoder, or the colour correction of its frames, and what the other phases leave."""
        request = self.request
        work = self._work(rung, stay).decoder(rung.latents, self.bounds(rung)[::-1])
        plain = request.on_cpu or not request.own_kernels
        count = CONSTANTS.plain_picture_planes if plain else CONSTANTS.picture_planes
        count += CONSTANTS.strength_planes if request.strength < 1 else 0
        planes = count * math.prod(request.padded) * _FLOAT32
        # A slice's frames are gone before the next one is decoded, so the larger of both counts.
        work = max(work, planes + FRAMES_PER_LATENT * rung.latents * request.picture_bytes)
        if request.color_correction == "lab":
            shot = FRAMES_PER_LATENT * request.num_latents_in_window * request.picture_bytes
            copies = CONSTANTS.shot_copies + (1 if request.strength < 1 else 0)
            work = max(work + shot, copies * shot)
        # A slice's integers, until all of them have come to the host.
        work += FRAMES_PER_LATENT * rung.latents * request.restored_frame_bytes
        # What the next window shares with this one, encoded and restored.
        work += 2 * request.overlap * self.latent
        work += self.encoder_caches[encoder_rings] if stay.caches else 0
        work += self._own_caches(DECODE, rung, stay)
        return self._total(work, dit_weights=self._resident_weights(stay))

    def host(self, stay: Residency, encode: Slices, decode: Slices) -> int:
        """Host memory: the source frames of a segment, those in the queues before and behind the
        engine and on their way to it and from it, and what waits for its phase."""
        request = self.request
        frames = FRAMES_PER_LATENT * request.segment_latents * request.source_frame_bytes
        for rung, num_bytes in (
            (encode, request.source_frame_bytes),
            (decode, request.restored_frame_bytes),
        ):
            at_once = FRAMES_PER_LATENT * rung.latents
            frames += bytes_waiting(at_once, num_bytes) + at_once * num_bytes
        if request.alpha:
            frames += _ALPHA_SOURCES * request.source_frame_bytes
            frames += _ALPHA_RESTORED * request.restored_frame_bytes
        if request.on_cpu:
            return frames
        # In blocks of their exact size (engines/seedvr2/parking.py); rings are packed.
        pinned = self.dit_weights - self._resident_weights(stay)
        pinned += 0 if stay.caches else self.encoder_caches[0] + self.decoder_caches[0]
        return pinned + frames

    def streamed_rungs(self, phase: str) -> Sequence[Slices]:
        """Rungs of encoder or decoder where its caches are streamed, the one that costs the least
        time first."""
        return streamed_rungs(*self._convs(phase))

    def streamed(self, phase: str, rung: Slices) -> budget.Streamed:
        """Bytes that streaming brings to encoder or decoder for each latent; as many go back."""
        return streamed(*self._convs(phase), rung)

    def cache_seconds(self, phase: str, rung: Slices) -> float:
        """What that costs for each latent at the most, where nothing hides behind the work."""
        return _seconds(self.streamed(phase, rung))

    def largest_layer(self, phase: str) -> tuple[str, int]:
        """The layer of encoder or decoder that needs most, and its bytes for one frame."""
        return budget.largest_layer(*self._convs(phase), bands=not self.request.on_cpu)

    def _work(self, rung: Slices, stay: Residency) -> vae_memory.WorkingSet:
        return replace(self.vae, rings=rung.rings, bands=rung.bands, streamed=stay.streamed)

    def _own_caches(self, phase: str, rung: Slices, stay: Residency) -> int:
        """Of the encoder or decoder at work."""
        if stay.streamed:
            return vae_memory.streaming_bytes(*self._convs(phase), rung.block_bytes)
        return (self.encoder_caches if phase == ENCODE else self.decoder_caches)[rung.rings]

    def _convs(self, phase: str) -> tuple[tuple[budget.ConvSpec, ...], int, int, int]:
        """Convolutions of encoder or decoder, with height, width and bytes of an element."""
        itemsize = ITEMSIZE[self.request.vae_dtype]
        return _convs_of(self.request.vae_config, phase), *self.request.padded, itemsize

    def _resident_weights(self, stay: Residency) -> int:
        """Of the transformer, beside the VAE."""
        if not stay.weights:
            return 0
        sizes = self.request.layer_sizes
        return self.dit_weights - sum(sizes[len(sizes) - stay.layers :])

    def _total(self, moving: int, *, dit_weights: int) -> int:
        """What a phase needs for itself (`moving`), with weights and reserves."""
        total = self.vae_weights + dit_weights
        if self.request.on_cpu:
            return total + moving
        total += CONSTANTS.context + CONSTANTS.workspace
        return total + math.ceil(moving * (1 + CONSTANTS.fragmentation))


@functools.cache
def _convs_of(config: VAEConfig, phase: str) -> tuple[budget.ConvSpec, ...]:
    """Of encoder or decoder."""
    convs = budget.encoder_convs if phase == ENCODE else budget.decoder_convs
    return tuple(convs(config))


def _seconds(moved: budget.Streamed) -> float:
    return waited_bytes(moved) / CONSTANTS.host_bandwidth
