"""The next thing to give up when a device runs out of memory although the plan said that it fits.

The first levers change nothing but the order of float sums: everything that waits goes to host
memory, then the phase that failed works in smaller slices or chunks. After that only the
transformer has a lever left: shorter windows inside one piece. The plan itself is not changed.

Arithmetic; tensors are not touched.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from seedvr2_core.config import VAEConfig
from seedvr2_core.engines.seedvr2.phases import DECODE, DIT, ENCODE
from seedvr2_core.planning.memory import CHUNKS
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.planning.rungs.slices import BANDS, SLICES, Slices, level_frames
from seedvr2_core.planning.windows import plan_windows


def lower_rung(
    memory: MemoryPlan, phase: str, vae_config: VAEConfig, *, window_tokens: int
) -> MemoryPlan | None:
    """The next rung down that is exact up to the order of sums.

    Args:
        memory: the rung that did not fit.
        phase: where memory ran out: ENCODE, DIT or DECODE of phases.py.
        vae_config: tells the levels of the VAE and the frames of a latent.
        window_tokens: tokens of a whole window, which is what chunk_tokens 0 stands for.

    Returns:
        None if no such rung is left.
    """
    parked = memory.park_caches or memory.stream_caches
    if not parked or memory.weights_resident:
        return replace(memory, park_caches=not memory.stream_caches, weights_resident=False)
    if phase == ENCODE and memory.stream_caches and memory.encoder_block_bytes != 0:
        return replace(memory, encoder_block_bytes=0)
    if phase == DECODE and memory.stream_caches and memory.decoder_block_bytes != 0:
        return replace(memory, decoder_block_bytes=0)
    if phase == DIT:
        chunk = _next(CHUNKS, min(memory.chunk_tokens or window_tokens, window_tokens))
        return None if chunk is None else replace(memory, chunk_tokens=chunk)
    part = "encoder" if phase == ENCODE else "decoder"
    frames = getattr(memory, f"{part}_level_frames")
    now = Slices(
        getattr(memory, f"{part}_slice"),
        frames[0 if phase == ENCODE else -1],
        rings=getattr(memory, f"{part}_rings"),
        bands=getattr(memory, f"{part}_bands"),
    )
    slices = None if now.bands else _next_slices(now, vae_config.temporal_factor)
    if slices is None:
        return _banded(memory, part) if memory.stream_caches else _streamed(memory)
    frames = level_frames(vae_config, slices.frames)
    return _with(memory, part, slices, frames if phase == ENCODE else frames[::-1])


def _with(memory: MemoryPlan, part: str, slices: Slices, frames: tuple[int, ...]) -> MemoryPlan:
    """With other slices of encoder or decoder."""
    changes: dict[str, Any] = {
        f"{part}_slice": slices.latents,
        f"{part}_level_frames": frames,
        f"{part}_rings": slices.rings,
        f"{part}_bands": slices.bands,
    }
    return replace(memory, **changes)


def _banded(memory: MemoryPlan, part: str) -> MemoryPlan | None:
    """Large frames in bands of rows: the last lever of encoder or decoder."""
    if getattr(memory, f"{part}_bands"):
        return None
    levels = len(getattr(memory, f"{part}_level_frames"))
    return _with(memory, part, BANDS, (1,) * levels)


def _streamed(memory: MemoryPlan) -> MemoryPlan:
    """VAE caches wait in host memory but while their layer runs, which then waits for them: the
    last but one lever of the VAE."""
    return replace(
        memory, park_caches=False, stream_caches=True, encoder_rings=False, decoder_rings=False
    )


def _next(rungs: Sequence[int], now: int) -> int | None:
    return next((rung for rung in rungs if rung < now), None)


def _next_slices(now: Slices, per_latent: int) -> Slices | None:
    """The first rung that is smaller in one number and larger in neither.

    Args:
        now: 0 frames at once stand for all of a slice.
        per_latent: frames of a latent.
    """
    now = now._replace(frames=now.frames or per_latent * now.latents)
    smaller = (rung for rung in SLICES if rung.latents <= now.latents and rung.frames <= now.frames)
    return next((rung for rung in smaller if rung != now), None)


def shorter_windows(windows: Sequence[range], overlap: int) -> tuple[range, ...] | None:
    """Cut the latents of a piece again, into windows about two thirds as long.

    The piece keeps its first and its last latent and the number of latents that windows share, so
    the pieces before and behind it are not affected.

    Args:
        windows: the windows that did not fit, in order.
        overlap: latents that neighbours share.

    Returns:
        None where no shorter window is possible.
    """
    start, stop = windows[0].start, windows[-1].stop
    longest = max(len(window) for window in windows)
    shortest = max(1, 3 * overlap - 1)
    window = max(shortest, 2 * longest // 3)
    while window >= shortest:
        cut = plan_windows(stop - start, window=window, overlap=overlap, start=start)
        if max(len(part) for part in cut) < longest:
            return cut
        window -= 1
    return None


def describe(planned: MemoryPlan, now: MemoryPlan, windows: Sequence[range] | None) -> str:
    """How work was fitted into less memory than planned, in words; "" if it was not."""
    words: list[str] = []
    if (now.park_caches, now.weights_resident) != (planned.park_caches, planned.weights_resident):
        words.append("everything that waits is in host memory")
    if now.stream_caches and not planned.stream_caches:
        words.append("caches come from host memory for each layer")
    for name in ("encoder_slice", "encoder_level_frames", "decoder_slice", "decoder_level_frames"):
        if getattr(now, name) != getattr(planned, name):
            words.append(f"{name} {getattr(now, name)}")
    told = {
        "rings": "{} without rings",
        "block_bytes": "layers of the {} wait for their caches",
        "bands": "{} in bands of rows",
    }
    for part, (what, sentence) in itertools.product(("encoder", "decoder"), told.items()):
        if getattr(now, f"{part}_{what}") != getattr(planned, f"{part}_{what}"):
            words.append(sentence.format(part))
    if now.chunk_tokens != planned.chunk_tokens:
        words.append(f"chunk_tokens {now.chunk_tokens}")
    if windows is not None:
        words.append(f"windows of {'+'.join(str(len(window)) for window in windows)} latents")
    return ", ".join(words)
