"""Operations of the model, counted from shapes: the floor that measured times are held against.

2 per multiply-add of convolutions, Linears and attention; norms, activations and rotations are
left out. Arithmetic only.
"""

from dataclasses import dataclass

from seedvr2_core.config import PATCH, DiTConfig, VAEConfig
from seedvr2_core.dit.window import Run, window_runs
from seedvr2_core.vae import budget


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceWork:
    """What a piece in the middle of a shot has to do."""

    latents: int
    """Encoded, and decoded."""
    windows: int
    window: int
    """Latents of a window."""
    height: int
    """Of the padded picture."""
    width: int
    text_len: int


def piece_flops(
    vae: VAEConfig, dit: DiTConfig, work: PieceWork, *, folded_vae: bool
) -> dict[str, int]:
    """Operations of the stages "encode", "dit" and "decode"."""
    size = (work.height, work.width)
    # Two shots that differ by the piece: a shot's first latent is cheaper than the others.
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
    """Operations of one `FoldedDiT` call on a window of (Z latents, h, w)."""
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
        # Nobody reads the text after the last layer.
        total += (tokens + (0 if is_last else text_len)) * (projection + mlp)
        for run in window_runs(grid, config.window_counts, shifted=shifted):
            total += _attention_flops(config, run, text_len, text_asks=not is_last)
    return total


def _attention_flops(config: DiTConfig, run: Run, text_len: int, *, text_asks: bool) -> int:
    """Scores and mixing of a run of equal windows."""
    keys = run.window_len + text_len
    queries = keys if text_asks else run.window_len
    return run.num_windows * 4 * queries * keys * config.inner_width
