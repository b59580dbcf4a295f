"""Runs each stage of the production path on the "meta" device under a `Meter`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from benchmarks.model.meter import Card, Key, Meter, Row
from benchmarks.model.setup import ENGINES, OVERLAP, TEXT_TOKENS
from seedvr2_core.config import DIT_CONFIGS, VAE_CONFIGS, find_engine
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import expected_keys, make_tables
from seedvr2_core.engines.seedvr2.color import transfer_color
from seedvr2_core.engines.seedvr2.sampler import restore_latents
from seedvr2_core.frames import FRAMES_PER_LATENT, pad, resize
from seedvr2_core.kernels.switches import switched, switches
from seedvr2_core.planning.memory import plan_memory
from seedvr2_core.planning.peaks import MemoryRequest
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.model import VideoVAE

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160)}
META = torch.device("meta")
WINDOW = 25
FRAMES = 100


class MetaTensors(Mapping[str, Tensor]):
    """A checkpoint of tensors without numbers."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self._shapes = shapes

    def __getitem__(self, name: str) -> Tensor:
        return torch.empty(tuple(self._shapes[name]), device=META)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def request_of(model: str, resolution: str, card: Card) -> MemoryRequest:
    """What production asks the memory plan for, for a long shot."""
    spec = find_engine(ENGINES[model])
    width, height = SIZES[resolution]
    return MemoryRequest(
        dit_config=DIT_CONFIGS[spec.dit],
        vae_config=VAE_CONFIGS[spec.vae],
        width=width,
        height=height,
        num_latents_in_window=WINDOW,
        overlap=OVERLAP,
        segment_latents=3 * WINDOW,
        source_frame_bytes=3 * width * height // 4,
        device_bytes=card.memory,
        device_kind=card.name,
    )


def meter_piece(
    model: str, resolution: str, card: Card, *, off: Sequence[str] = (), only: Sequence[str] = ()
) -> dict[Key, Row]:
    """Count what 100 frames in the middle of a shot take.

    Args:
        model: "3b" or "7b".
        resolution: of `SIZES`.
        card: whose memory plan and speed are taken.
        off: switches to turn off; a choice of several takes its slowest.
        only: stages; none: all.
    """
    request = request_of(model, resolution, card)
    plan = plan_memory(request)
    meter = Meter(card)
    stages = {"picture": _pictures, "encode": _encode, "dit": _dit, "decode": _decode}
    changes = {name: _off(name) for name in off}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(switched(**changes))
        for name, run in stages.items():
            if not only or name in only:
                run(meter, request, plan)
    return meter.rows


def _off(name: str) -> Any:
    # The first choice of a switch with several is the plain way.
    now = getattr(switches(), name)
    return False if isinstance(now, bool) else {"auto": "chunks", "cudnn": "default"}[now]


def _pictures(meter: Meter, request: MemoryRequest, plan: MemoryPlan) -> None:
    """Source pictures to the model's size; colour and rounding of the result."""
    size = (request.height, request.width)
    source = torch.empty((3, request.height // 2, request.width // 2), device=META)
    with meter.stage("prepare", times=FRAMES):
        pad(resize(source, size)).to(getattr(torch, plan.vae_dtype))
    content = torch.empty((1, 3, *size), device=META)
    with meter.stage("finish", times=FRAMES):
        colored = transfer_color(content, resize(source, size)[None], "wavelet")
        colored.clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)


def _vae(request: MemoryRequest, plan: MemoryPlan) -> VideoVAE:
    with META:
        vae = VideoVAE(request.vae_config)
    vae.requires_grad_(False).fold()
    vae = vae.to(getattr(torch, plan.vae_dtype))
    for tensor in (*vae.parameters(), *vae.buffers()):
        if tensor.dim() == 5:
            tensor.data = tensor.data.contiguous(memory_format=LAYOUT)
    return vae


def _encode(meter: Meter, request: MemoryRequest, plan: MemoryPlan) -> None:
    vae, bounds = _vae(request, plan), plan.encoder_level_frames
    state = vae.start_encoder(first_latent=8, rings=plan.encoder_rings)
    size = (1, 3, FRAMES_PER_LATENT * plan.encoder_slice, *request.padded)
    video = torch.empty(size, dtype=vae.dtype, device=META, memory_format=LAYOUT)
    _, state = vae.encode_latents(video, state, max_frames=bounds)
    with meter.stage("encode", times=FRAMES / size[2]):
        vae.encode_latents(video, state, max_frames=bounds)


def _decode(meter: Meter, request: MemoryRequest, plan: MemoryPlan) -> None:
    vae, bounds = _vae(request, plan), plan.decoder_level_frames
    state = vae.start_decoder(first_latent=8, rings=plan.decoder_rings)
    size = (1, plan.decoder_slice, *request.latent_size, request.vae_config.latent_channels)
    latents = torch.empty(size, device=META)
    _, state = vae.decode_latents(latents, state, max_frames=bounds)
    with meter.stage("decode", times=FRAMES / (FRAMES_PER_LATENT * plan.decoder_slice)):
        vae.decode_latents(latents, state, max_frames=bounds)


def _dit(meter: Meter, request: MemoryRequest, plan: MemoryPlan) -> None:
    config, size = request.dit_config, (WINDOW, *request.latent_size)
    text = torch.empty((TEXT_TOKENS, config.text_dim), device=META)
    dtype = getattr(torch, plan.dit_dtype)
    dit = load_folded(config, MetaTensors(expected_keys(config)), text, dtype=dtype, device=META)
    tables = make_tables(config, size, TEXT_TOKENS, chunk_tokens=plan.chunk_tokens, device=META)
    latents = torch.empty((*size, config.latent_channels), device=META)

    def velocity(x: Tensor) -> Tensor:
        return dit(x, tables=tables)

    hop = FRAMES_PER_LATENT * (WINDOW - OVERLAP)
    with meter.stage("dit", times=FRAMES / hop):
        restore_latents(velocity, latents, torch.empty_like(latents))
