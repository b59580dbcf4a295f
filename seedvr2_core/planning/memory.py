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
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from seedvr2_core.errors import PlanError, ResourceError
from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.planning.peaks import (
    CONSTANTS,
    DECODE,
    DIT,
    ENCODE,
    ITEMSIZE,
    MemoryRequest,
    PhasePeaks,
    Residency,
)
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.planning.rungs.slices import BANDS, RINGS, SLICES, Slices

_Rung = TypeVar("_Rung")
_LATENTS = 100 / FRAMES_PER_LATENT
"""Of the 100 frames that costs are told for."""

CHUNKS: tuple[int, ...] = (65_536, 16_384, 8_192)
"""Rungs of the transformer: how many tokens it takes at once."""

RESIDENCIES: tuple[Residency, ...] = (
    Residency(weights=True, caches=True),
    Residency(weights=True, caches=False),
    Residency(weights=False, caches=False),
)
"""Rungs, the one that needs the least memory last."""
STREAMED: tuple[Residency, ...] = (
    Residency(weights=True, caches=False, streamed=True),
    Residency(weights=False, caches=False, streamed=True),
)
"""Rungs for where no other fits: they cost the time to move each cache for each call."""


def plan_memory(request: MemoryRequest) -> MemoryPlan:
    """Choose slices, chunks and residency for a device.

    Returns:
        A plan whose `peaks` hold the bytes of "encode", "dit" and "decode" on the device, reserves
        included, and of "host": frames, and what waits there in page-locked memory.

    Raises:
        ResourceError: a phase does not fit even with the smallest slices and nothing else on the
            device, or what waits does not fit into the host's memory. The message tells what is
            needed and what there is.
        PlanError: a number is below 1, or a dtype is unknown.
    """
    _check(request)
    phases = PhasePeaks.of(request)
    _check_least(request, phases)
    least = 0
    for residencies in _residencies(request):
        plan = _plan_within(request, phases, residencies)
        if plan is None:
            continue
        need = dict(plan.peaks)["host"] + CONSTANTS.host_process
        if request.host_bytes is None or request.on_cpu or need <= request.host_bytes:
            return replace(plan, moving_seconds=round(moving_seconds(request, plan), 1))
        least = min(least or need, need)
    raise ResourceError(
        f"{request.width}x{request.height} on {request.device_kind} needs {least / 1e9:.1f} GB of "
        f"host memory for what does not stay on the GPU, and {(request.host_bytes or 0) / 1e9:.1f} "
        f"GB are free; use a machine with {math.ceil(least / 1e9)} GB free, or a GPU with more "
        "memory"
    )


def _plan_within(
    request: MemoryRequest, phases: PhasePeaks, residencies: Sequence[Residency]
) -> MemoryPlan | None:
    """The plan with the largest slices that fit on the last of some rungs of residency; None where
    none do."""
    lean = residencies[-1]
    rungs = _vae_rungs(request, phases, lean)
    encode = _first_fit(request, rungs[ENCODE], lambda rung: phases.encode(rung, lean))
    decode = _first_fit(request, rungs[DECODE], lambda rung: phases.decode(rung, lean))
    chunk, layers = _dit_rung(request, phases, lean)
    if encode is None or decode is None or chunk is None:
        return None
    residencies = [replace(stay, layers=layers) for stay in residencies]

    def peaks(stay: Residency) -> tuple[tuple[str, int], ...]:
        rings = (encode.rings, decode.rings)
        return (
            ("encode", phases.encode(encode, stay, decoder_rings=decode.rings)),
            ("dit", phases.dit(chunk, stay, rings=rings)),
            ("decode", phases.decode(decode, stay, encoder_rings=encode.rings)),
        )

    fitting = (s for s in residencies if all(request.fits(need) for _, need in peaks(s)))
    stay = next(fitting, None)
    if stay is None:
        return None
    return MemoryPlan(
        vae_dtype=request.vae_dtype,
        dit_dtype=request.dit_dtype,
        encoder_slice=encode.latents,
        decoder_slice=decode.latents,
        encoder_level_frames=phases.bounds(encode),
        decoder_level_frames=phases.bounds(decode)[::-1],
        encoder_rings=encode.rings,
        decoder_rings=decode.rings,
        chunk_tokens=chunk,
        park_caches=not stay.caches and not stay.streamed,
        stream_caches=stay.streamed,
        encoder_block_bytes=encode.block_bytes,
        decoder_block_bytes=decode.block_bytes,
        encoder_bands=encode.bands,
        decoder_bands=decode.bands,
        streamed_layers=layers,
        weights_resident=stay.weights,
        peaks=(*peaks(stay), ("host", phases.host(stay, encode, decode))),
    )


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
) -> _Rung | None:
    """The first rung with which a phase fits into the device's memory."""
    return next((rung for rung in rungs if request.fits(need_of(rung))), None)


def _dit_rung(
    request: MemoryRequest, phases: PhasePeaks, lean: Residency
) -> tuple[int | None, int]:
    """Tokens at once, and layers that come from host memory: none where that is possible, else as
    few as the most tokens allow. A layer comes while another one runs, which takes longer."""
    for layers in ([0], range(1, request.dit_config.num_layers + 1)):
        for chunk in CHUNKS:
            for count in layers if not request.on_cpu else [0]:
                if request.fits(phases.dit(chunk, replace(lean, layers=count))):
                    return chunk, count
    return None, 0


def _vae_rungs(
    request: MemoryRequest, phases: PhasePeaks, lean: Residency
) -> dict[str, Sequence[Slices]]:
    """Rungs of encoder and decoder, the fastest first."""
    if lean.streamed:
        return {phase: phases.streamed_rungs(phase) for phase in (ENCODE, DECODE)}
    rungs = SLICES if request.on_cpu else (RINGS, *SLICES)
    return {ENCODE: rungs, DECODE: rungs}


def _residencies(request: MemoryRequest) -> list[Sequence[Residency]]:
    """Sets of rungs of residency, the one to be tried first in front: without streaming where that
    fits, and then with less and less in host memory."""
    kinds = (RESIDENCIES,) if request.on_cpu else (RESIDENCIES, STREAMED)
    return [rungs[:count] for rungs in kinds for count in range(len(rungs), 0, -1)]


def _check_least(request: MemoryRequest, phases: PhasePeaks) -> None:
    """Look whether the last rung of all ladders fits.

    What does not is refused, with the number that all phases together need, and what needs it. What
    else the user can change is for `planning.advice` to find out, which tries it.
    """
    lean = RESIDENCIES[-1] if request.on_cpu else STREAMED[-1]
    least = SLICES[-1] if request.on_cpu else BANDS
    layers = 0 if request.on_cpu else request.dit_config.num_layers
    needs = {
        ENCODE: phases.encode(least, lean),
        DIT: phases.dit(CHUNKS[-1], replace(lean, layers=layers)),
        DECODE: phases.decode(least, lean),
    }
    phase, need = max(needs.items(), key=lambda item: item[1])
    if request.fits(need):
        return
    have = request.device_bytes or 0
    told = f" with a window of {request.num_latents_in_window} latents"
    largest = ""
    if phase != DIT:
        layer, num_bytes = phases.largest_layer(phase)
        told, largest = "", f" ({num_bytes / 1e9:.1f} GB of it for one frame in {layer})"
    raise ResourceError(
        f"{request.width}x{request.height} does not fit: phase {phase}{told} needs "
        f"{need / 1e9:.1f} GB at the least{largest} and {request.device_kind} has "
        f"{have / 1e9:.1f} GB free; use a GPU with {math.ceil(need / 1e9)} GB free"
    )


def _streamed_rungs(plan: MemoryPlan) -> dict[str, Slices]:
    """Those of encoder and decoder whose caches are streamed."""
    if not plan.stream_caches:
        return {}
    encode = Slices(plan.encoder_slice, plan.encoder_level_frames[0], bands=plan.encoder_bands)
    decode = Slices(plan.decoder_slice, plan.decoder_level_frames[-1], bands=plan.decoder_bands)
    return {
        ENCODE: encode._replace(block_bytes=plan.encoder_block_bytes),
        DECODE: decode._replace(block_bytes=plan.decoder_block_bytes),
    }


def cache_seconds(request: MemoryRequest, plan: MemoryPlan) -> float:
    """What streaming the VAE's caches for 100 frames costs at the most (`PhasePeaks`)."""
    phases = PhasePeaks.of(request)
    rungs = _streamed_rungs(plan).items()
    return _LATENTS * sum(phases.cache_seconds(phase, rung) for phase, rung in rungs)


def layer_seconds(request: MemoryRequest, plan: MemoryPlan) -> float:
    """What streaming the transformer's layers for 100 frames costs at the most, likewise."""
    windows = _LATENTS / max(1, request.num_latents_in_window - request.overlap)
    moved = windows * sum(request.layer_sizes[len(request.layer_sizes) - plan.streamed_layers :])
    return moved / CONSTANTS.host_bandwidth


def moving_seconds(request: MemoryRequest, plan: MemoryPlan) -> float:
    """What all streaming for 100 frames costs at the most, in seconds."""
    return cache_seconds(request, plan) + layer_seconds(request, plan)


def memory_notes(request: MemoryRequest, plan: MemoryPlan) -> list[str]:
    """Sentences for the user about what fitting into the device's memory costs."""
    notes: list[str] = []
    bandwidth = f"at {CONSTANTS.host_bandwidth / 1e9:.0f} GB/s"
    hidden = "where they are not hidden behind the work"
    if plan.streamed_layers:
        notes.append(
            f"{plan.streamed_layers} of the transformer's {request.dit_config.num_layers} layers "
            "do not fit into the GPU's memory and come from host memory for each window: about "
            f"{layer_seconds(request, plan):.1f} s for 100 frames {bandwidth} {hidden}"
        )
    if not plan.stream_caches:
        return notes
    phases = PhasePeaks.of(request)
    moved = [phases.streamed(phase, rung) for phase, rung in _streamed_rungs(plan).items()]
    passing, straight = (_LATENTS * sum(sizes) for sizes in zip(*moved, strict=True))
    waited = f", {straight / 1e9:.0f} GB of them while a layer waits" if straight else ""
    banded = [
        part
        for part, bands in (("encoder", plan.encoder_bands), ("decoder", plan.decoder_bands))
        if bands
    ]
    if banded:
        notes.append(
            "single frames, with those that a layer reads beside them, do not fit into the GPU's "
            f"memory: the VAE's {' and '.join(banded)} {'works' if len(banded) == 1 else 'work'} "
            "on them in bands of rows, with the statistics of whole frames"
        )
    return [
        *notes,
        f"the VAE's caches do not fit into the GPU's memory and come from host memory for each "
        f"layer: {(passing + straight) / 1e9:.0f} GB each way for 100 frames{waited}, "
        f"about {cache_seconds(request, plan):.0f} s {bandwidth} {hidden}",
    ]
