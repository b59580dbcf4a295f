"""How many bytes the transformer needs, for the memory plan. Arithmetic without torch."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from seedvr2_core.config import DEFAULT_CHUNK_TOKENS, PATCH, PERMUTE_COLUMNS, DiTConfig
from seedvr2_core.dit.window import Batch, Run, batches, window_runs

_FLOAT32 = 4
_INDEX = _COMPLEX = 8


def weight_bytes(config: DiTConfig, *, itemsize: int = 2) -> int:
    """Weights of a `FoldedDiT` in bytes, counted as if every Linear had a bias (0.1 % more).

    Args:
        config: architecture.
        itemsize: bytes of a Linear's number, 2 for bfloat16.
    """
    return sum(layer_sizes(config, itemsize=itemsize)) + end_bytes(config)


def end_bytes(config: DiTConfig) -> int:
    """Weights before the first and behind the last layer, which are float32."""
    pixels = PATCH * PATCH
    numbers = config.width * (pixels * (config.in_channels + config.latent_channels) + 1)
    return (numbers + pixels * config.latent_channels) * _FLOAT32


def layer_sizes(
    config: DiTConfig, *, itemsize: int = 2, quantized: Sequence[tuple[int, int]] = ()
) -> list[int]:
    """Weights of each layer, counted likewise.

    Args:
        config: architecture.
        itemsize: bytes of a Linear's number.
        quantized: of each layer (numbers, bytes) of the weights that stay quantised; () if none do.
    """
    sizes = [layer_bytes(config, layer, itemsize=itemsize) for layer in range(config.num_layers)]
    if not quantized:
        return sizes
    return [
        size - itemsize * values + num_bytes
        for size, (values, num_bytes) in zip(sizes, quantized, strict=True)
    ]


def layer_bytes(config: DiTConfig, layer: int, *, itemsize: int = 2) -> int:
    """Weights of one layer, counted likewise."""
    width, inner, hidden = config.width, config.inner_width, config.mlp_hidden
    qkv, out = 3 * inner * (width + 1), width * (inner + 1)
    mlp = (2 if config.mlp == "swiglu" else 1) * hidden * (width + 1) + width * (hidden + 1)
    separate, last = layer < config.num_separate_layers, layer == config.num_layers - 1
    # The last layer's text goes no further than its keys and values; where the output is
    # modulated it comes unmodulated, so what is folded for the video does not fit it.
    linears = qkv * (2 if separate or (last and config.output_modulation) else 1)
    linears += (out + mlp) * (2 if separate and not last else 1)
    return linears * itemsize + 4 * config.head_dim * _FLOAT32


def streamed_weight_bytes(ends: int, layers: Sequence[int], streamed: int) -> int:
    """Weights on the device while so many layers, the last ones, come from host memory: the others,
    and two slots of the largest of these.

    Args:
        ends: bytes from `end_bytes`.
        layers: bytes of each layer, from `layer_sizes`.
        streamed: how many of them.
    """
    kept, moved = layers[: len(layers) - streamed], layers[len(layers) - streamed :]
    return ends + sum(kept) + 2 * max(moved, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """What a call holds besides its results depends on who computes it."""

    on_cpu: bool = False
    own_kernels: bool = True
    """Kernels of our own store nothing but their results (dit/tables.py, `fuses`)."""


@functools.lru_cache(maxsize=256)
def activation_bytes(
    config: DiTConfig,
    latent_size: tuple[int, int, int],
    *,
    text_len: int = 58,
    chunk_tokens: int | None = DEFAULT_CHUNK_TOKENS,
    itemsize: int = 2,
    path: Path = Path(),
) -> int:
    """Peak bytes of one `FoldedDiT` call beside its weights, input, output and tables included.

    What is held all the time (input, tables) plus the largest of the passing needs, all but the
    first beside the float32 residual: patches in, permutation between layers, one attention batch,
    one MLP chunk, patches out. An allocator's rounding and a library's workspaces come on top.

    Args:
        config: architecture.
        latent_size: (T, H, W) of the window.
        text_len: tokens of the text.
        chunk_tokens: as given to `make_tables`.
        itemsize: bytes of a Linear's number, 2 for bfloat16.
        path: who computes.
    """
    num_frames, height, width = latent_size
    grid = (num_frames, height // PATCH, width // PATCH)
    num_tokens = grid[0] * grid[1] * grid[2]
    chunk = min(num_tokens, chunk_tokens or num_tokens)
    pixels = PATCH * PATCH
    in_bytes = num_tokens * pixels * config.in_channels * _FLOAT32
    out_bytes = num_tokens * pixels * config.latent_channels * _FLOAT32
    residual = num_tokens * config.width * _FLOAT32
    plain = path.on_cpu or not path.own_kernels
    passing = [
        residual + in_bytes,
        residual + (3 if plain else 2) * out_bytes,
    ]
    if config.output_modulation:
        passing.append(residual + out_bytes + chunk * config.width * _FLOAT32)
    if plain:
        permuted = num_tokens * min(config.width, PERMUTE_COLUMNS) * _FLOAT32
        passing += [2 * in_bytes, residual + permuted]
    for shifted in set(config.shifted):
        runs = window_runs(grid, config.window_counts, shifted=shifted)
        said = sum(run.num_windows for run in runs) * text_len * config.inner_width * itemsize
        attention = (
            _attention_bytes(config, batch, text_len, itemsize, plain=plain)
            for batch in batches(runs, chunk)
        )
        work = max(*attention, _mlp_bytes(config, chunk, itemsize, path))
        passing += [residual + 3 * said, residual + said + work]
    return in_bytes + table_bytes(config, latent_size, on_cpu=path.on_cpu) + max(passing)


def table_bytes(config: DiTConfig, latent_size: tuple[int, int, int], *, on_cpu: bool) -> int:
    """Index and rope tables of one latent size (dit/tables.py)."""
    num_frames, height, width = latent_size
    grid = (num_frames, height // PATCH, width // PATCH)
    rotated = 3 * (config.head_dim // (6 if config.rope == "lang" else 12)) * _COMPLEX
    pairs = 0 if on_cpu else config.head_dim * _FLOAT32
    total = 6 * grid[0] * grid[1] * grid[2] * _INDEX
    for shifted in (False, True):
        for run in window_runs(grid, config.window_counts, shifted=shifted):
            total += run.window_len * (rotated + pairs)
    return total


def _mlp_bytes(config: DiTConfig, rows: int, itemsize: int, path: Path) -> int:
    """Normed rows, and hidden ones: gate and value, or before and after GELU, which a GPU applies
    inside the product."""
    normed = rows * config.width * (_FLOAT32 + (0 if itemsize == _FLOAT32 else itemsize))
    hidden = 2 if config.mlp == "swiglu" or path.on_cpu else 1
    kept = rows * itemsize * config.width
    made = kept + rows * itemsize * (hidden * config.mlp_hidden)
    projected = kept + rows * itemsize * (config.mlp_hidden + config.width)
    return max(made, projected, normed if path.on_cpu or not path.own_kernels else 0)


def _attention_bytes(
    config: DiTConfig, batch: Batch, text_len: int, itemsize: int, *, plain: bool
) -> int:
    """Normed rows and their qkv, then the largest run's joined tensors, or the projection."""
    rows = batch.stop - batch.start
    held = rows * itemsize * (config.width + 3 * config.inner_width)
    projected = rows * itemsize * config.width
    runs = max(_run_bytes(config, run, text_len, itemsize, plain=plain) for run in batch.runs)
    normed = rows * config.width * (_FLOAT32 + (0 if itemsize == _FLOAT32 else itemsize))
    return max(held + projected, held + runs, normed if plain else 0)


def _run_bytes(config: DiTConfig, run: Run, text_len: int, itemsize: int, *, plain: bool) -> int:
    """q, k, v and result with the text joined on, and a number for each query and head; or, where
    torch norms heads, q joined while k is widened, normed, and joined too."""
    tokens = run.num_tokens + run.num_windows * text_len
    joined = tokens * config.inner_width * itemsize
    attended = 4 * joined + tokens * config.num_heads * _FLOAT32
    if not plain:
        return attended
    normed = run.num_tokens * config.inner_width * _FLOAT32
    widened = 0 if itemsize == _FLOAT32 else normed
    return max(attended, joined + widened + normed, 2 * joined + normed)
