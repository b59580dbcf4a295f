"""Counts the floating-point operations of the model from its shapes alone.

Divided by the device's rate they give the shortest possible time, which measured times are compared
with. A multiply and the add after it count as 2. Convolutions, Linears and attention are counted;
norms, activations and rotations are not. This module only calculates: it needs no device.
"""

from dataclasses import dataclass

from seedvr2_core.config import PATCH, DiTConfig, VAEConfig
from seedvr2_core.dit.window import Run, window_runs
from seedvr2_core.vae import budget


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceWork:
    """The sizes of a piece in the middle of a shot, which decide how much work it is."""

    latents: int
    """Latent frames that are encoded, and as many that are decoded."""
    windows: int
    """Windows that the transformer runs on."""
    window: int
    """Latent frames in a window."""
    height: int
    """Of the padded picture, in pixels."""
    width: int
    """Of the padded picture, in pixels."""
    text_len: int
    """Tokens of the text embedding."""


def piece_flops(
    vae: VAEConfig, dit: DiTConfig, work: PieceWork, *, folded_vae: bool
) -> dict[str, int]:
    """Operations of a piece in each of the stages "encode", "dit" and "decode".

    Args:
        vae: sizes of the VAE.
        dit: sizes of the transformer.
        work: sizes of the piece.
        folded_vae: whether the decoder runs in its folded form.
    """
    size = (work.height, work.width)
    # The budget counts from the start of a shot, whose first latent is cheaper than all others. So
    # we take the difference of two shots, of which one is longer by the piece.
    before, after = 2, 2 + work.latents
    grid = (work.window, work.height // vae.spatial_factor, work.width // vae.spatial_factor)
    return {
        "encode": budget.encoder_flops(vae, *size, after)
        - budget.encoder_flops(vae, *size, before),
        "dit": work.windows * dit_flops(dit, grid, text_len=work.text_len),
        "decode": budget.decoder_flops(vae, *size, after, folded=folded_vae)
        - budget.decoder_flops(vae, *size, before, folded=folded_vae),
    }


def dit_flops(config: DiTConfig, latent_size: tuple[int, int, int], *, text_len: int) -> int:
    """Operations of one call of `FoldedDiT` on one window.

    Args:
        config: sizes of the transformer.
        latent_size: (latent frames, height, width) of the window, in latents.
        text_len: tokens of the text embedding.
    """
    num_latents, height, width = latent_size
    grid = (num_latents, height // PATCH, width // PATCH)
    tokens = grid[0] * grid[1] * grid[2]
    channels = PATCH * PATCH * (config.in_channels + config.latent_channels)
    total = 2 * tokens * channels * config.width
    projection = 2 * config.width * config.inner_width
    matrices = 3 if config.mlp == "swiglu" else 2
    mlp = 2 * matrices * config.width * config.mlp_hidden
    for layer, shifted in enumerate(config.shifted):
        is_last = layer == config.num_layers - 1
        total += (tokens + text_len) * 3 * projection
        # The last layer leaves the text out, because nothing reads it afterwards.
        total += (tokens + (0 if is_last else text_len)) * (projection + mlp)
        for run in window_runs(grid, config.window_counts, shifted=shifted):
            total += _attention_flops(config, run, text_len, text_asks=not is_last)
    return total


def _attention_flops(config: DiTConfig, run: Run, text_len: int, *, text_asks: bool) -> int:
    """Operations of attention in some equal windows: queries times keys, and scores times values.

    Each of the two takes 2 operations for a query, a key and a channel. Text tokens are always
    keys; they are queries only if `text_asks`.
    """
    keys = run.window_len + text_len
    queries = keys if text_asks else run.window_len
    return run.num_windows * 4 * queries * keys * config.inner_width
