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
from typing import TypeVar

from seedvr2_core.errors import PlanError, ResourceError
from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.planning.peaks import (
    CONSTANTS,
    ITEMSIZE,
    RINGS,
    SLICES,
    MemoryRequest,
    PhasePeaks,
    Residency,
    Slices,
)
from seedvr2_core.planning.plan import MemoryPlan

_Rung = TypeVar("_Rung")

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
            device. The message tells what it needs and what the device has.
        PlanError: a number is below 1, or a dtype is unknown.
    """
    _check(request)
    phases = PhasePeaks.of(request)
    residencies = _residencies(request, phases)
    lean = residencies[-1]
    rungs = SLICES if request.on_cpu or lean.streamed else (RINGS, *SLICES)
    encode = _first_fit(request, rungs, lambda rung: phases.encode(rung, lean))
    chunk = _first_fit(request, CHUNKS, lambda rung: phases.dit(rung, lean))
    decode = _first_fit(request, rungs, lambda rung: phases.decode(rung, lean))

    def peaks(stay: Residency) -> tuple[tuple[str, int], ...]:
        rings = (encode.rings, decode.rings)
        return (
            ("encode", phases.encode(encode, stay, decoder_rings=decode.rings)),
            ("dit", phases.dit(chunk, stay, rings=rings)),
            ("decode", phases.decode(decode, stay, encoder_rings=encode.rings)),
        )

    stay = next(s for s in residencies if all(request.fits(need) for _, need in peaks(s)))
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
) -> _Rung:
    """The first rung with which a phase fits into the device's memory; there is one."""
    return next(rung for rung in rungs if request.fits(need_of(rung)))


def _residencies(request: MemoryRequest, phases: PhasePeaks) -> Sequence[Residency]:
    """The rungs to choose from: those without streaming where the last of them fits.

    What fits on no rung is refused, with the number that all phases together need. What else the
    user can change is for `planning.advice` to find out, which tries it.
    """
    for residencies in (RESIDENCIES,) if request.on_cpu else (RESIDENCIES, STREAMED):
        lean = residencies[-1]
        needs = {
            "encode": phases.encode(SLICES[-1], lean),
            "dit": phases.dit(CHUNKS[-1], lean),
            "decode": phases.decode(SLICES[-1], lean),
        }
        phase, need = max(needs.items(), key=lambda item: item[1])
        if request.fits(need):
            return residencies
    have = request.device_bytes or 0
    window = f" with a window of {request.num_latents_in_window} latents" if phase == "dit" else ""
    raise ResourceError(
        f"{request.width}x{request.height} does not fit: phase {phase}{window} needs "
        f"{need / 1e9:.1f} GB at the least and {request.device_kind} has {have / 1e9:.1f} GB free; "
        f"use a GPU with {math.ceil(need / 1e9)} GB free"
    )


def memory_notes(request: MemoryRequest, plan: MemoryPlan) -> list[str]:
    """Sentences for the user about what fitting into the device's memory costs."""
    if not plan.stream_caches:
        return []
    phases = PhasePeaks.of(request)
    encode = Slices(plan.encoder_slice, plan.encoder_level_frames[0])
    decode = Slices(plan.decoder_slice, plan.decoder_level_frames[-1])
    latents = 100 / FRAMES_PER_LATENT
    moved = latents * phases.streamed_bytes(encode, decode)
    return [
        f"the VAE's caches do not fit into the GPU's memory and come from host memory for each "
        f"layer: {moved / 1e9:.0f} GB each way for 100 frames, about "
        f"{moved / CONSTANTS.host_bandwidth:.0f} s at {CONSTANTS.host_bandwidth / 1e9:.0f} GB/s "
        "where they are not hidden behind the work"
    ]
