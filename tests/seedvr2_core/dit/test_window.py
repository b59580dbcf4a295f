"""Attention windows: they partition the grid; the sorted order and its batches lose nothing."""

import itertools
import math

import numpy as np
import pytest

from seedvr2_core.dit.window import (
    Grid,
    axis_intervals,
    batches,
    window_order,
    window_runs,
    window_size,
    windows,
)

COUNTS = (4, 3, 3)
GRIDS = [(1, 8, 8), (1, 1, 1), (3, 17, 30), (6, 45, 80), (5, 40, 23), (26, 34, 60), (31, 9, 50)]


@pytest.mark.parametrize("shifted", [False, True], ids=["regular", "shifted"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_windows_partition_the_grid(grid: Grid, shifted: bool) -> None:
    count = np.zeros(grid, dtype=int)
    for t0, t1, y0, y1, x0, x1 in windows(grid, COUNTS, shifted=shifted):
        count[t0:t1, y0:y1, x0:x1] += 1
    assert (count == 1).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_window_is_larger_than_the_window_size(grid: Grid) -> None:
    size = window_size(grid, COUNTS)
    for shifted in (False, True):
        for t0, t1, y0, y1, x0, x1 in windows(grid, COUNTS, shifted=shifted):
            assert t1 - t0 <= size[0]
            assert y1 - y0 <= size[1]
            assert x1 - x0 <= size[2]


@pytest.mark.parametrize(
    ("grid", "size"),
    [((26, 68, 120), (7, 15, 27)), ((6, 90, 160), (2, 15, 27)), ((1, 120, 68), (1, 27, 15))],
)
def test_a_window_is_a_ninth_of_a_720p_picture(grid: Grid, size: Grid) -> None:
    assert window_size(grid, COUNTS) == size


def test_shifted_edges_are_truncated() -> None:
    edges = [a for a, _ in axis_intervals(60, 15, shifted=True)]
    assert edges == [0, 7, 22, 37, 52]
    assert axis_intervals(26, 7, shifted=True) == [(0, 3), (3, 10), (10, 17), (17, 24), (24, 26)]
    assert axis_intervals(3, 1, shifted=True) == [(0, 1), (1, 2), (2, 3)]


def test_an_axis_that_fits_one_window_is_not_shifted() -> None:
    assert axis_intervals(5, 5, shifted=True) == [(0, 5)]


@pytest.mark.parametrize("shifted", [False, True], ids=["regular", "shifted"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sorted_order_is_a_permutation_with_whole_windows(grid: Grid, shifted: bool) -> None:
    order = window_order(grid, COUNTS, shifted=shifted)
    assert (np.sort(order.order_N) == np.arange(math.prod(grid))).all()
    assert order.runs == window_runs(grid, COUNTS, shifted=shifted)
    positions = np.arange(math.prod(grid)).reshape(grid)
    rows = [
        set(window.tolist())
        for run, start in zip(order.runs, _starts(order.runs), strict=True)
        for window in order.order_N[start : start + run.num_tokens].reshape(run.num_windows, -1)
    ]
    for number, (t0, t1, y0, y1, x0, x1) in enumerate(windows(grid, COUNTS, shifted=shifted)):
        tokens = set(positions[t0:t1, y0:y1, x0:x1].ravel().tolist())
        assert rows[order.window_rank_W[number]] == tokens


def _starts(runs: tuple) -> list[int]:
    return [sum(r.num_tokens for r in runs[:i]) for i in range(len(runs))]


@pytest.mark.parametrize("chunk", [None, 1, 100, 1000, 10**9])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_batches_cover_all_windows_within_the_limit(grid: Grid, chunk: int | None) -> None:
    runs = window_runs(grid, COUNTS, shifted=True)
    cut = batches(runs, chunk)
    assert cut[0].start == 0
    assert cut[-1].stop == math.prod(grid)
    for before, after in itertools.pairwise(cut):
        assert before.stop == after.start
    for batch in cut:
        assert sum(run.num_tokens for run in batch.runs) == batch.stop - batch.start
        windows_in_batch = sum(run.num_windows for run in batch.runs)
        assert chunk is None or batch.stop - batch.start <= chunk or windows_in_batch == 1
    shapes = [run.shape for batch in cut for run in batch.runs for _ in range(run.num_windows)]
    assert shapes == [run.shape for run in runs for _ in range(run.num_windows)]
    assert chunk not in (None, 10**9) or len(cut) == 1
