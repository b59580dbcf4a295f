"""What can be given up when a device runs out of memory although the plan said it fits.

First the levers that are exact up to the order of sums: everything that waits does so in host
memory, then smaller slices and chunks for the phase that failed. Then, for the transformer alone,
shorter windows inside one piece. The plan itself is not changed.

Arithmetic; tensors are not touched.
"""

from collections.abc import Sequence
from dataclasses import replace

from seedvr2_core.config import VAEConfig
from seedvr2_core.engines.seedvr2.phases import DIT, ENCODE
from seedvr2_core.planning.memory import CHUNKS, SLICES, level_frames
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.planning.windows import plan_windows


def lower_rung(
    memory: MemoryPlan, phase: str, vae_config: VAEConfig, *, window_tokens: int
) -> MemoryPlan | None:
    """The next exact rung down.

    Args:
        memory: the rung that did not fit.
        phase: where memory ran out: ENCODE, DIT or DECODE of phases.py.
        vae_config: of the VAE, for its levels.
        window_tokens: of a whole window, what chunk_tokens 0 stands for.

    Returns:
        None where nothing exact is left.
    """
    if not memory.park_caches or memory.weights_resident:
        return replace(memory, park_caches=True, weights_resident=False)
    if phase == DIT:
        chunk = _next(CHUNKS, min(memory.chunk_tokens or window_tokens, window_tokens))
        return None if chunk is None else replace(memory, chunk_tokens=chunk)
    if phase == ENCODE:
        slices = _next_slices(
            memory.encoder_slice, memory.encoder_level_frames[0], vae_config.temporal_factor
        )
        if slices is None:
            return None
        frames = level_frames(vae_config, slices[1])
        return replace(memory, encoder_slice=slices[0], encoder_level_frames=frames)
    slices = _next_slices(
        memory.decoder_slice, memory.decoder_level_frames[-1], vae_config.temporal_factor
    )
    if slices is None:
        return None
    frames = level_frames(vae_config, slices[1])[::-1]
    return replace(memory, decoder_slice=slices[0], decoder_level_frames=frames)


def _next(rungs: Sequence[int], now: int) -> int | None:
    return next((rung for rung in rungs if rung < now), None)


def _next_slices(latents: int, frames: int, per_latent: int) -> tuple[int, int] | None:
    """The first rung that is smaller in one number and larger in neither.

    Args:
        latents: of a slice now.
        frames: most frames at once at full size now; 0: all of a slice.
        per_latent: frames of a latent.
    """
    frames = frames or per_latent * latents
    smaller = (rung for rung in SLICES if rung[0] <= latents and rung[1] <= frames)
    return next((rung for rung in smaller if rung != (latents, frames)), None)


def shorter_windows(windows: Sequence[range], overlap: int) -> tuple[range, ...] | None:
    """The latents of a piece, cut again into windows about two thirds as long.

    Its first and its last latent stay what they are, and so do the zones shared with neighbours:
    the pieces before and behind it are not touched.

    Args:
        windows: those that did not fit, in order.
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
    """In words, how work was fitted into less memory; "" if it was not."""
    words: list[str] = []
    if (now.park_caches, now.weights_resident) != (planned.park_caches, planned.weights_resident):
        words.append("everything that waits is in host memory")
    for name in ("encoder_slice", "encoder_level_frames", "decoder_slice", "decoder_level_frames"):
        if getattr(now, name) != getattr(planned, name):
            words.append(f"{name} {getattr(now, name)}")
    if now.chunk_tokens != planned.chunk_tokens:
        words.append(f"chunk_tokens {now.chunk_tokens}")
    if windows is not None:
        words.append(f"windows of {'+'.join(str(len(window)) for window in windows)} latents")
    return ", ".join(words)
