"""Attention windows: where they lie, and the token order in which a layer works on them.

A layer keeps its tokens sorted so that windows of equal shape follow each other and every window
is contiguous. Attention then needs no gather, no padding and no mask: a run of equal windows is a
plain view of the token rows. Between layers with different windows the tokens are permuted.

Shape legend: N video tokens of the sample, W windows. A grid is (frames, rows, columns) of tokens;
positions in it are row-major.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Grid = tuple[int, int, int]
Bounds = tuple[int, int, int, int, int, int]

_AREA_720P = 45 * 80
_MAX_FRAMES = 30


def window_size(grid: Grid, counts: Grid) -> Grid:
    """Size of a full window in tokens (frames, rows, columns).

    In space it covers one part of a 720p picture of the grid's aspect ratio, whatever the grid's
    own size; in time it follows the clip.
    Source: ByteDance SeedVR reference, windows "by size".
    """
    num_frames, rows, columns = grid
    scale = math.sqrt(_AREA_720P / (rows * columns))
    return (
        math.ceil(min(num_frames, _MAX_FRAMES) / counts[0]),
        math.ceil(round(rows * scale) / counts[1]),
        math.ceil(round(columns * scale) / counts[2]),
    )


def axis_intervals(length: int, size: int, *, shifted: bool) -> list[tuple[int, int]]:
    """Half-open intervals that cut [0, length) into windows of `size`; edge ones are smaller.

    Shifted ones are cut half a window earlier (rounded toward zero) unless one window covers all.
    """
    if not shifted:
        edges = [*range(0, length, size), length]
    elif size >= length:
        edges = [0, length]
    else:
        inner = (int((i + 0.5) * size) for i in itertools.count())
        edges = [0, *itertools.takewhile(lambda edge: edge < length, inner), length]
    return [(a, b) for a, b in itertools.pairwise(edges) if b > a]


def windows(grid: Grid, counts: Grid, *, shifted: bool) -> list[Bounds]:
    """All windows as (t0, t1, y0, y1, x0, x1), columns slowest and frames fastest."""
    t, y, x = (
        axis_intervals(n, size, shifted=shifted)
        for n, size in zip(grid, window_size(grid, counts), strict=True)
    )
    return [(*t_ab, *y_ab, *x_ab) for x_ab in x for y_ab in y for t_ab in t]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive windows of one shape."""

    shape: Grid
    num_windows: int

    @property
    def window_len(self) -> int:
        """Video tokens of one window."""
        return math.prod(self.shape)

    @property
    def num_tokens(self) -> int:
        """Video tokens of the run."""
        return self.num_windows * self.window_len


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The token rows [start, stop) of a layer's order, as runs of equal windows."""

    start: int
    stop: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowOrder:
    """Tokens of a grid sorted by window shape, then window, then place inside the window."""

    order_N: np.ndarray
    """int64, position in the grid of each sorted token."""
    runs: tuple[Run, ...]
    """One per distinct shape."""
    window_rank_W: np.ndarray
    """int64, for each window of the canonical order its place in the sorted order."""


@functools.lru_cache(maxsize=64)
def window_runs(grid: Grid, counts: Grid, *, shifted: bool) -> tuple[Run, ...]:
    """Number of windows of each shape, in the sorted order.

    Kept, because a plan asks for the same few grids some hundred times.
    """
    by_shape = _by_shape(grid, counts, shifted=shifted)
    return tuple(Run(shape=shape, num_windows=len(group)) for shape, group in by_shape.items())


def window_order(grid: Grid, counts: Grid, *, shifted: bool) -> WindowOrder:
    """Sort the tokens of a grid for one window method."""
    positions = np.arange(math.prod(grid), dtype=np.int64).reshape(grid)
    by_shape = _by_shape(grid, counts, shifted=shifted)
    members = [member for group in by_shape.values() for member in group]
    return WindowOrder(
        order_N=np.concatenate(
            [positions[t0:t1, y0:y1, x0:x1].ravel() for _, (t0, t1, y0, y1, x0, x1) in members]
        ),
        runs=window_runs(grid, counts, shifted=shifted),
        window_rank_W=np.argsort([number for number, _ in members]),
    )


def _by_shape(grid: Grid, counts: Grid, *, shifted: bool) -> dict[Grid, list[tuple[int, Bounds]]]:
    """Shape -> (canonical number, bounds) of its windows; shapes in order of first appearance."""
    groups: dict[Grid, list[tuple[int, Bounds]]] = {}
    for number, bounds in enumerate(windows(grid, counts, shifted=shifted)):
        t0, t1, y0, y1, x0, x1 = bounds
        groups.setdefault((t1 - t0, y1 - y0, x1 - x0), []).append((number, bounds))
    return groups


def batches(runs: tuple[Run, ...], chunk_tokens: int | None) -> tuple[Batch, ...]:
    """Cut a layer's windows into batches of at most `chunk_tokens` video tokens.

    A batch holds whole windows, at least one; None puts all of them into one batch.
    """
    limit = sum(run.num_tokens for run in runs) if chunk_tokens is None else chunk_tokens
    return tuple(_fill(runs, limit))


def _fill(runs: tuple[Run, ...], limit: int) -> Iterator[Batch]:
    start = 0
    gathered: list[Run] = []
    room = limit
    for run in runs:
        left = run.num_windows
        while left:
            fits = max(0, room // run.window_len)
            if not fits and gathered:
                batch = _batch(start, gathered)
                yield batch
                start, gathered, room = batch.stop, [], limit
                continue
            taken = min(left, max(fits, 1))
            gathered.append(Run(shape=run.shape, num_windows=taken))
            room -= taken * run.window_len
            left -= taken
    yield _batch(start, gathered)


def _batch(start: int, runs: list[Run]) -> Batch:
    return Batch(start=start, stop=start + sum(run.num_tokens for run in runs), runs=tuple(runs))
