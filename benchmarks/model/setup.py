"""What the benchmark runs: a plan as production makes it, and models with random weights.

Weights are made on the device, one tensor at a time, each from a stream named after it: reading a
tensor twice gives the same numbers, and nothing waits on the host.
"""

import argparse
import dataclasses
import math
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from seedvr2_core.config import DIT_CONFIGS, VAE_CONFIGS, DiTConfig, VAEConfig, find_engine
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import DiT, DiTTables, FoldedDiT, expected_keys, load_plain
from seedvr2_core.engines.seedvr2.phases import Models
from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.planning import Options, Piece, Plan, build_plan
from seedvr2_core.planning.memory import RESIDENCIES, plan_memory
from seedvr2_core.planning.peaks import CONSTANTS, ITEMSIZE, MemoryRequest, PhasePeaks, Residency
from seedvr2_core.planning.plan import EngineSettings, MemoryPlan
from seedvr2_core.planning.rungs.slices import Slices, level_frames
from seedvr2_core.planning.windows import first_frame, num_latents, plan_windows
from seedvr2_core.vae import budget
from seedvr2_core.vae.model import VideoVAE, build_vae
from seedvr2_core.video.info import video_of_frames

ENGINES = {"tiny": "tiny", "tiny-3b": "tiny-3b", "3b": "seedvr2-3b", "7b": "seedvr2-7b"}
TEXT_TOKENS = 58
RATE = 25
OVERLAP = 3
STAY = dict(zip(("all", "weights", "nothing"), RESIDENCIES, strict=True))
"""What stays on the device while it is not needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSetup:
    """Everything that is fixed before the first window."""

    plan: Plan
    pieces: tuple[Piece, ...]
    """The pieces to run. All but the first are equal work."""
    dit_config: DiTConfig
    vae_config: VAEConfig
    request: MemoryRequest
    predicted: dict[str, int]
    """Phase -> bytes on the device, reserves included."""
    predicted_tensors: dict[str, int]
    """The same without context, scratch memory and fragmentation."""

    @property
    def memory(self) -> MemoryPlan:
        """The plan's memory plan."""
        assert self.plan.memory is not None
        return self.plan.memory


def make_setup(
    options: argparse.Namespace, device: torch.device, device_bytes: int | None
) -> BenchSetup:
    """Plan a shot that is long enough, and how it fits.

    Args:
        options: of the command line.
        device: where it will run.
        device_bytes: what the memory plan may use; None: a CPU, as much as it likes.
    """
    per_piece = options.windows_per_piece
    count = options.warm + options.windows + options.profile
    num_windows = per_piece * count + 1  # the last one is longer; it is not run
    latents = num_windows * options.window - (num_windows - 1) * OVERLAP
    width, height = options.size
    info = video_of_frames(_half(width), _half(height), first_frame(latents), rate=RATE)
    engine = EngineSettings(
        name=ENGINES[options.model],
        weights_digest="",
        seed=100,
        window=options.window,
        overlap=OVERLAP,
        stitch_mode="crossfade",
        color_correction=options.color,
    )
    hop = FRAMES_PER_LATENT * (options.window - OVERLAP)
    planned = Options(
        resolution="720p",
        engine=engine,
        device="cpu",
        cpu_count=torch.get_num_threads(),
        crf=18,
        preset="medium",
        segment_seconds=(per_piece - 0.5) * hop / RATE,
    )
    plan = build_plan(info, "benchmark", planned)
    request = _memory_request(options, plan, device, device_bytes)
    chosen = _memory_plan(options, request)
    plan = dataclasses.replace(plan, width=width, height=height, device=str(device), memory=chosen)
    pieces = [piece for segment in plan.segments for piece in segment.pieces][:count]
    assert len(pieces) == count, f"{len(pieces)} pieces, {count} wanted"
    predicted, tensors = _predictions(request, chosen)
    return BenchSetup(
        plan=plan,
        pieces=tuple(pieces),
        dit_config=request.dit_config,
        vae_config=request.vae_config,
        request=request,
        predicted=predicted,
        predicted_tensors=tensors,
    )


def _half(side: int) -> int:
    return max(2, side // 4 * 2)


def _memory_request(
    options: argparse.Namespace, plan: Plan, device: torch.device, device_bytes: int | None
) -> MemoryRequest:
    """As production asks (planning/build.py), for the size and dtypes of the command line."""
    spec = find_engine(plan.engine.name)
    longest = max(piece.stop - piece.start for s in plan.segments for piece in s.pieces)
    on_cpu = device.type == "cpu"
    width, height = options.size
    request = MemoryRequest(
        dit_config=DIT_CONFIGS[spec.dit],
        vae_config=VAE_CONFIGS[spec.vae],
        width=width,
        height=height,
        num_latents_in_window=plan.engine.window,
        overlap=plan.engine.overlap,
        segment_latents=num_latents(longest) + plan.engine.overlap,
        source_frame_bytes=3 * plan.video.width * plan.video.height,
        device_bytes=device_bytes,
        device_kind="cpu" if on_cpu else torch.cuda.get_device_name(device),
        vae_dtype=options.vae_dtype or ("float32" if on_cpu else "float16"),
        dit_dtype=options.dit_dtype or ("float32" if on_cpu else "bfloat16"),
        color_correction=plan.engine.color_correction,
    )
    if device_bytes is None or options.fold:
        return request
    # The prediction is for folded up-samplers; the others keep more between slices.
    size = (request.vae_config, *request.padded, ITEMSIZE[request.vae_dtype])
    more = budget.decoder_cache_bytes(*size) - budget.decoder_cache_bytes(*size, folded=True)
    return dataclasses.replace(request, device_bytes=device_bytes - more)


def _memory_plan(options: argparse.Namespace, request: MemoryRequest) -> MemoryPlan:
    """The planner's choice, with what the command line says otherwise."""
    chosen = plan_memory(request)
    if options.slices:
        encoder, encoder_top, decoder, decoder_top = options.slices
        config = request.vae_config
        chosen = dataclasses.replace(
            chosen,
            encoder_slice=encoder,
            encoder_level_frames=level_frames(config, encoder_top),
            decoder_slice=decoder,
            decoder_level_frames=level_frames(config, decoder_top)[::-1],
            encoder_rings=False,
            decoder_rings=False,
        )
    if options.stay:
        stay = STAY[options.stay]
        chosen = dataclasses.replace(
            chosen, park_caches=not stay.caches, weights_resident=stay.weights
        )
    if options.chunk_tokens:
        chosen = dataclasses.replace(chosen, chunk_tokens=options.chunk_tokens)
    return chosen


def _predictions(
    request: MemoryRequest, chosen: MemoryPlan
) -> tuple[dict[str, int], dict[str, int]]:
    """Predicted bytes of each phase for this memory plan, with and without reserves."""
    phases = PhasePeaks.of(request)
    stay = Residency(weights=chosen.weights_resident, caches=not chosen.park_caches)
    rings = (chosen.encoder_rings, chosen.decoder_rings)
    encode = Slices(chosen.encoder_slice, chosen.encoder_level_frames[0], rings=rings[0])
    decode = Slices(chosen.decoder_slice, chosen.decoder_level_frames[-1], rings=rings[1])
    totals = {
        "encode": phases.encode(encode, stay, decoder_rings=rings[1]),
        "dit": phases.dit(chosen.chunk_tokens, stay, rings=rings),
        "decode": phases.decode(decode, stay, encoder_rings=rings[0]),
    }
    if request.on_cpu:
        return totals, totals
    constants, tensors = CONSTANTS, {}
    for name, total in totals.items():
        with_dit = name == "dit" or stay.weights
        fixed = phases.vae_weights + (phases.dit_weights if with_dit else 0)
        moving = total - fixed - constants.context - constants.workspace
        tensors[name] = fixed + int(moving / (1 + constants.fragmentation))
    return totals, tensors


class RandomTensors(Mapping[str, Tensor]):
    """A checkpoint of random numbers that keep activations of order one, made when asked for."""

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Nothing is made yet.

        Args:
            shapes: name -> shape.
            device: where tensors are made.
            dtype: of matrices and kernels; vectors are float32.
        """
        self._shapes = shapes
        self._device = device
        self._dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        shape = tuple(self._shapes[name])
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        z = torch.randn(shape, generator=generator, device=self._device)
        if len(shape) > 1:
            return z.div_(math.sqrt(math.prod(shape[1:]))).to(self._dtype)
        if name.endswith(("bias", "_shift")):
            return 0.1 * z
        if name.endswith("_gate"):
            return 0.5 + 0.3 * z
        return 1 + 0.2 * z

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class PlainDiT(nn.Module):
    """The transformer as trained, with its text bound: what golden tests run, called as a
    `FoldedDiT`."""

    def __init__(self, dit: DiT, text_LX: Tensor) -> None:
        super().__init__()
        self.dit = dit
        self.register_buffer("text_LD", text_LX)

    @property
    def config(self) -> DiTConfig:
        """Of the model."""
        return self.dit.config

    def forward(self, vid_ZhwC: Tensor, *, tables: DiTTables) -> Tensor:
        """As `FoldedDiT.forward`."""
        return self.dit(vid_ZhwC, self.get_buffer("text_LD"), tables=tables)


def make_models(options: argparse.Namespace, setup: BenchSetup, device: torch.device) -> Models:
    """Models on the device."""
    dit = _make_dit(options, setup, device)

    def build(dtype: torch.dtype) -> VideoVAE:
        with torch.device("meta"):
            shapes = {n: t.shape for n, t in VideoVAE(setup.vae_config).state_dict().items()}
        weights = dict(RandomTensors(shapes, device).items())
        return build_vae(setup.vae_config, weights, dtype=dtype, device=device, fold=options.fold)

    return Models(build_vae=build, dit=cast(FoldedDiT, dit))


def _make_dit(
    options: argparse.Namespace, setup: BenchSetup, device: torch.device
) -> FoldedDiT | PlainDiT:
    config = setup.dit_config
    dtype = getattr(torch, setup.memory.dit_dtype)
    shapes = expected_keys(config)
    text_LX = RandomTensors({"text": (TEXT_TOKENS, config.text_dim)}, device)["text"]
    text_LX = text_LX * math.sqrt(config.text_dim)
    if options.plain_dit:
        tensors = RandomTensors(shapes, device, dtype=dtype)
        return PlainDiT(load_plain(config, tensors, dtype=dtype, device=device), text_LX)
    return load_folded(config, RandomTensors(shapes, device), text_LX, dtype=dtype, device=device)


def set_layout(layout: torch.memory_format) -> None:
    """Use another memory layout than channels_last_3d in all of the VAE; before models are made."""
    for name, module in list(sys.modules.items()):
        part: Any = module
        if name.startswith("seedvr2_core.") and hasattr(part, "LAYOUT"):
            part.LAYOUT = layout


def equal_windows(options: argparse.Namespace, setup: BenchSetup) -> bool:
    """Whether all windows have the full length, as the plan is meant to have."""
    latents = num_latents(setup.plan.video.num_frames)
    spans = plan_windows(latents, window=options.window, overlap=OVERLAP)
    return {len(span) for span in spans} == {options.window}
