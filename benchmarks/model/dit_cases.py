"""Cases of the transformer's kernels; see kernel_cases.py."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.model.kernel_cases import KernelCase, Random
from seedvr2_core.kernels import dit

EPS = 1e-5


def dit_cases() -> Iterator[KernelCase]:
    """Every case of the kernels in kernels/dit.py."""
    yield from _row_cases()
    yield from _head_cases()


def _row_cases() -> Iterator[KernelCase]:
    shapes = {
        "some": (9, 64, 5, 1.0),
        "one number": (1, 1, 1, 1.0),
        "odd width": (4, 33, 4, 1e3),
        "close to zero": (3, 100, 2, 1e-4),
        "7b": (5, 3072, 4, 1.0),
        "3b": (5, 2560, 4, 1.0),
    }
    for name, shape in shapes.items():
        yield KernelCase(
            name=f"norm_rows, {name}",
            kernel=dit.norm_rows,
            make=_row_maker(*shape, normed=True, added=False),
            outs=("out_MD",),
        )
        yield KernelCase(
            name=f"add_rows, {name}",
            kernel=dit.add_rows,
            make=_row_maker(*shape, normed=False, added=True),
            outs=("x_ND",),
            atol=1e-6 * max(1.0, shape[3]),
        )
        yield KernelCase(
            name=f"add_norm_rows, {name}",
            kernel=dit.add_norm_rows,
            make=_row_maker(*shape, normed=True, added=True),
            outs=("out_MD", "x_ND"),
            atol=2e-5 if shape[3] <= 1 else 1e-3,
        )


def _row_maker(
    num_rows: int, width: int, picked: int, scale: float, *, normed: bool, added: bool
) -> Callable[[Random], dict[str, Any]]:
    def make(random: Random) -> dict[str, Any]:
        given: dict[str, Any] = {"x_ND": scale * random(num_rows, width).float()}
        device = given["x_ND"].device
        generator = torch.Generator().manual_seed(num_rows)
        given["rows_M"] = torch.randperm(num_rows, generator=generator)[:picked].to(device)
        if added:
            given["y_MD"] = random(picked, width)
        if normed:
            given |= {"out_MD": random(picked, width), "eps": EPS}
        return given

    return make


def _head_cases() -> Iterator[KernelCase]:
    shapes = {
        "some": (2, 3, 2, 2, 32, 15),
        "one of all": (1, 1, 1, 1, 2, 1),
        "odd heads": (3, 2, 1, 3, 12, 4),
        "no pair turns": (1, 2, 2, 2, 8, 0),
        "7b": (2, 4, 5, 24, 128, 30),
        "3b": (2, 4, 5, 20, 128, 63),
    }
    for name, shape in shapes.items():
        yield KernelCase(
            name=f"join_heads, {name}",
            kernel=dit.join_heads,
            make=_head_maker(*shape),
            outs=("joined_3WJHK",),
        )


def _head_maker(
    windows: int, video: int, text: int, heads: int, channels: int, turning: int
) -> Callable[[Random], dict[str, Any]]:
    def make(random: Random) -> dict[str, Any]:
        angles = 100 * random(video, channels // 2).float()
        angles[:, turning:] = 0
        weights: Tensor = 1 + 0.2 * random(2, channels).float()
        return {
            "joined_3WJHK": random(3, windows, video + text, heads, channels),
            # The rows of a run lie inside those of its batch.
            "qkv_M3HK": random(windows * video + 3, 3, heads, channels)[2:-1],
            "text_3LHK": random(3, text, heads, channels),
            "weights_2K": weights,
            "rotation_S2P": torch.stack([angles.cos(), angles.sin()], dim=1),
            "eps": EPS,
        }

    return make
