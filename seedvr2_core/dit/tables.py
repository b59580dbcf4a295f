"""What the layers know about the token grid, and whether they work by kernels of our own.

Shape legend: N video tokens of the sample, W windows, S tokens of a window, P rotated pairs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seedvr2_core.config import DEFAULT_CHUNK_TOKENS, PATCH, DiTConfig
from seedvr2_core.dit import rope
from seedvr2_core.dit.sdpa import Sdpa
from seedvr2_core.dit.window import Batch, Grid, WindowOrder, batches, window_order
from seedvr2_core.errors import PlanError
from seedvr2_core.kernels.kernel import uses_triton
from seedvr2_core.kernels.switches import takes_gpu_path

KEPT = 2
"""Windows of a shot have two lengths at most (those of a lower rung two others)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTables:
    """Shared by all layers of one window method."""

    batches: tuple[Batch, ...]
    rotations: Mapping[Grid, Tensor]
    """Window shape -> complex64 (S, 1, P)."""
    pairs: Mapping[Grid, Tensor]
    """Window shape -> cosines and sines of every pair of channels, float32 (S, 2, K / 2), for our
    own kernel; empty on a CPU."""
    text_rotation: Tensor | None
    """complex64 (L, 1, P), or None where text does not rotate."""
    window_rank_W: Tensor
    """int64, place of each canonical window in the sorted order."""
    chunk_tokens: int
    """Rows of the MLP at once."""
    sdpa: Sdpa


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTTables:
    """Index and rope tables for one latent size; made once, used by every layer and call."""

    grid: Grid
    text_len: int
    order_N: Mapping[bool, Tensor]
    """Shifted? -> grid position of each sorted token."""
    switch_N: Mapping[bool, Tensor]
    """Shifted? -> rows to take when a layer of this method follows one of the other."""
    place_N: Mapping[bool, Tensor]
    """Shifted? -> sorted place of each grid position."""
    layers: Mapping[bool, LayerTables]


def make_tables(
    config: DiTConfig,
    latent_size: tuple[int, int, int],
    text_len: int,
    *,
    chunk_tokens: int | None = DEFAULT_CHUNK_TOKENS,
    device: torch.device | None = None,
    sdpa: Sdpa | None = None,
) -> DiTTables:
    """Prepare a latent of (T, H, W) frames, rows and columns.

    Args:
        config: architecture.
        latent_size: H and W even.
        text_len: tokens of the text.
        chunk_tokens: rows that attention and MLP work on at once (attention: whole windows, at
            least one); None = all. Bounds memory; changes results by float rounding only.
        device: where the model lives.
        sdpa: from `sdpa.job_sdpa`; None: nothing goes to cuDNN.

    Raises:
        PlanError: H or W is odd, or something is empty.
    """
    num_frames, height, width = latent_size
    if min(latent_size) < 1 or height % PATCH or width % PATCH:
        raise PlanError(f"latent height and width must be even, got {height}x{width}; pad first")
    grid = (num_frames, height // PATCH, width // PATCH)
    orders = {
        shifted: window_order(grid, config.window_counts, shifted=shifted)
        for shifted in (False, True)
    }
    order_N = {s: torch.from_numpy(order.order_N).to(device) for s, order in orders.items()}
    place_N = {s: torch.argsort(order) for s, order in order_N.items()}
    return DiTTables(
        grid=grid,
        text_len=text_len,
        order_N=order_N,
        switch_N={s: place_N[not s].index_select(0, order_N[s]) for s in order_N},
        place_N=place_N,
        layers={
            s: _layer_tables(config, order, text_len, chunk_tokens, device, sdpa or Sdpa())
            for s, order in orders.items()
        },
    )


def _layer_tables(
    config: DiTConfig,
    order: WindowOrder,
    text_len: int,
    chunk_tokens: int | None,
    device: torch.device | None,
    sdpa: Sdpa,
) -> LayerTables:
    text_rotation = None
    if config.rope == "lang":
        text_rotation = rope.rotation(rope.text_angles(config.head_dim, text_len, device=device))
    angles = {
        run.shape: rope.video_angles(
            config.rope, config.head_dim, run.shape, text_len, device=device
        )
        for run in order.runs
    }
    return LayerTables(
        batches=batches(order.runs, chunk_tokens),
        rotations={shape: rope.rotation(angles_SP) for shape, angles_SP in angles.items()},
        pairs={
            shape: rope.pair_table(angles_SP, config.head_dim)
            for shape, angles_SP in angles.items()
            if takes_gpu_path(angles_SP.device)
        },
        text_rotation=text_rotation,
        window_rank_W=torch.from_numpy(order.window_rank_W).to(device),
        chunk_tokens=chunk_tokens or order.order_N.size,
        sdpa=sdpa,
    )


class KeptTables:
    """A job's tables, those of the last window lengths kept for the next window."""

    def __init__(
        self, config: DiTConfig, latent_hw: tuple[int, int], text_len: int, *, device: torch.device
    ) -> None:
        self._config, self._latent_hw, self._text_len = config, latent_hw, text_len
        self._device = device
        self._kept: dict[tuple[int, int | None], DiTTables] = {}

    def of(self, num_latents: int, *, chunk_tokens: int | None, sdpa: Sdpa) -> DiTTables:
        """For windows of that length; see `make_tables`."""
        key = (num_latents, chunk_tokens)
        if key not in self._kept:
            if len(self._kept) == KEPT:
                self._kept.clear()
            self._kept[key] = make_tables(
                self._config,
                (num_latents, *self._latent_hw),
                self._text_len,
                chunk_tokens=chunk_tokens,
                device=self._device,
                sdpa=sdpa,
            )
        return self._kept[key]


def fuses(device: torch.device) -> bool:
    """Whether our own kernels do the element-wise work of the transformer there.

    Their torch references would need more memory than the plain path, so without Triton that runs.
    """
    return takes_gpu_path(device) and (device.type in ("cpu", "meta") or uses_triton(device))
