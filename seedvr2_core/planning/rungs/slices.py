"""The rungs of encoder and decoder: how many latents and frames at once, and what streaming costs.

Arithmetic without torch.
"""

import functools
from typing import NamedTuple

from seedvr2_core.config import VAEConfig
from seedvr2_core.vae import budget
from seedvr2_core.vae import memory as vae_memory

BLOCK_SHARES = (1, 2, 4)
"""Streamed caches pass through blocks as large as the largest of them, a half, a quarter, or none:
less memory, but layers wait for what is larger."""


class Slices(NamedTuple):
    """A rung of encoder or decoder."""

    latents: int
    """Of a slice."""
    frames: int
    """Most at once at full size. A level with half the height and width takes twice as many, which
    together have half the bytes."""
    rings: bool = False
    """Large frames pass one at a time and stay where they are (vae/ring.py)."""
    block_bytes: int | None = None
    """Of streamed caches, those that are larger go straight (vae/store.py); None: none does."""
    bands: bool = False
    """Single frames at all levels, the large ones in bands of rows (vae/bands/rows.py)."""

    def level_frames(self, config: VAEConfig, size: tuple[int, int]) -> tuple[int, ...]:
        """Most frames at once at each level, full size first.

        Args:
            config: tells the levels.
            size: (height, width) of the padded picture.
        """
        if self.bands:
            return (1,) * config.num_levels
        return ring_level_frames(config, size) if self.rings else level_frames(config, self.frames)


SLICES = tuple(Slices(*rung) for rung in ((8, 4), (8, 2), (8, 1), (4, 1), (2, 1), (1, 1)))
"""Rungs of encoder and decoder."""
RINGS = Slices(8, 1, rings=True)
"""The first rung of a GPU: the fastest, as frames are not copied from slice to slice."""
BANDS = Slices(1, 1, block_bytes=0, bands=True)
"""The last rung of a GPU, for where one frame and what is read with it do not fit."""


def level_frames(config: VAEConfig, top: int) -> tuple[int, ...]:
    """Most frames at once at each level, full size first, for `top` frames at full size."""
    return tuple(top << level for level in range(config.num_levels))


def ring_level_frames(config: VAEConfig, size: tuple[int, int]) -> tuple[int, ...]:
    """The same with rings, for a padded picture of that height and width: one frame where frames
    are kept in rings, and below as many as on the first rung without."""
    return tuple(
        1 if (size[0] >> level) * (size[1] >> level) >= vae_memory.RING_PIXELS else frames
        for level, frames in enumerate(level_frames(config, SLICES[0].frames))
    )


@functools.lru_cache(maxsize=64)
def streamed_rungs(
    convs: tuple[budget.ConvSpec, ...], height: int, width: int, itemsize: int
) -> tuple[Slices, ...]:
    """Rungs of encoder or decoder where its caches are streamed, the one that costs the least time
    first; a job that does not fit is planned many times."""
    largest = max(budget.cache_tensor_bytes(convs, height, width, itemsize))
    blocks = (None, *(largest // share for share in BLOCK_SHARES[1:]), 0)
    rungs = [rung._replace(block_bytes=block) for block in blocks for rung in SLICES]
    sizes = (convs, height, width, itemsize)
    rungs.sort(key=lambda rung: waited_bytes(streamed(*sizes, rung)))
    return (*rungs, BANDS)


def streamed(
    convs: tuple[budget.ConvSpec, ...], height: int, width: int, itemsize: int, rung: Slices
) -> budget.Streamed:
    """Bytes that streaming brings for each latent; as many go back."""
    levels = max(spec.shrink for spec in convs).bit_length()
    return budget.streamed_per_latent(
        convs,
        height,
        width,
        itemsize,
        latents=rung.latents,
        bounds=[1 if rung.bands else rung.frames << level for level in range(levels)],
        block_bytes=rung.block_bytes,
    )


def waited_bytes(moved: budget.Streamed) -> float:
    """Caches come and go at the same time, but for those that go straight."""
    return moved.passing + 2 * moved.straight
