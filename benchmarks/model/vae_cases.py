"""Cases of the VAE's kernels: ordinary, odd and very small pictures, and views as the VAE has."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.model.kernel_cases import KernelCase, Random
from seedvr2_core.kernels.attention import frame_attention
from seedvr2_core.kernels.norm import add_bias, norm_moments, norm_rows, norm_silu

LAYOUT = torch.channels_last_3d


def vae_cases() -> Iterator[KernelCase]:
    """Every case of every kernel of the VAE."""
    yield from _norm_cases()
    yield from _half_norm_cases()
    yield from _add_cases()
    yield from _attention_cases()


def _frames(random: Random, shape: Sequence[int], *, mean: float = 0.0) -> Tensor:
    return (3 * random(*shape) + mean).contiguous(memory_format=LAYOUT)


def _norm_cases() -> Iterator[KernelCase]:
    shapes = {
        "one pixel": ((1, 8, 1, 1, 1), 2, 0.0),
        "one row": ((1, 24, 2, 1, 9), 8, 2.0),
        "groups of one": ((2, 12, 1, 5, 3), 12, -1.0),
        "one group": ((1, 40, 2, 7, 5), 1, 0.5),
        "production group": ((1, 128, 1, 6, 7), 32, 1.0),
        "odd channels": ((1, 33, 2, 3, 5), 3, 0.0),
        "far from zero": ((1, 16, 1, 9, 11), 4, 500.0),
        "wide": ((1, 512, 1, 3, 4), 32, 1.0),
        "many parts": ((1, 512, 1, 40, 41), 32, 1.0),
        "wider than a tile": ((1, 1024, 1, 2, 3), 2, 1.0),
    }
    for name, (shape, groups, mean) in shapes.items():
        for bias in (False, True):
            yield KernelCase(
                name=f"norm_silu, {name}{', bias' if bias else ''}",
                kernel=norm_silu,
                make=_norm_maker(shape, groups, mean, bias=bias, silu=name != "wide"),
                slow=name in ("many parts", "wider than a tile"),
                atol=3e-3 if mean > 100 else 5e-5,
            )


def _norm_maker(
    shape: Sequence[int], groups: int, mean: float, *, bias: bool, silu: bool
) -> Callable[[Random], dict[str, Any]]:
    def make(random: Random) -> dict[str, Any]:
        batch, channels, frames, height, width = shape
        x_BCTHW = _frames(random, shape, mean=mean)
        buffer_BCTHW = _frames(random, (batch, channels + 8, frames + 2, height, width))
        return {
            "x_BCTHW": x_BCTHW,
            "weight_C": random(channels),
            "bias_C": random(channels),
            "out_BCTHW": buffer_BCTHW[:, :channels, 2:],
            "input_bias_C": random(channels) if bias else None,
            "num_groups": groups,
            "eps": 1e-6,
            "silu": silu,
        }

    return make


def _half_norm_cases() -> Iterator[KernelCase]:
    shape, groups = (2, 24, 2, 9, 7), 4
    for bias in (False, True):
        name = ", bias" if bias else ""
        yield KernelCase(
            name=f"norm_moments{name}",
            kernel=norm_moments,
            make=_moments_maker(shape, groups, bias=bias),
            outs=("moments_F2C",),
        )
        yield KernelCase(
            name=f"norm_rows{name}", kernel=norm_rows, make=_rows_maker(shape, bias=bias)
        )


def _moments(random: Random, frames: int, channels: int) -> Tensor:
    """Not in half precision."""
    moments_F2C = random(frames, 2, channels)
    return moments_F2C.to(torch.promote_types(moments_F2C.dtype, torch.float32))


def _moments_maker(
    shape: Sequence[int], groups: int, *, bias: bool
) -> Callable[[Random], dict[str, Any]]:
    def make(random: Random) -> dict[str, Any]:
        batch, channels, frames, _, _ = shape
        return {
            "x_BCTHW": _frames(random, shape, mean=1.0),
            "weight_C": random(channels),
            "moments_F2C": _moments(random, batch * frames, channels),
            "input_bias_C": random(channels) if bias else None,
            "num_groups": groups,
            "eps": 1e-6,
        }

    return make


def _rows_maker(shape: Sequence[int], *, bias: bool) -> Callable[[Random], dict[str, Any]]:
    """Some rows of a frame, into the last frame of a band."""

    def make(random: Random) -> dict[str, Any]:
        batch, channels, frames, height, width = shape
        band_BCTHW = _frames(random, (batch, channels, frames + 2, height - 2, width))
        return {
            "x_BCTHW": _frames(random, shape)[..., 1:-2, :],
            "moments_F2C": _moments(random, batch * frames, channels),
            "bias_C": random(channels),
            "out_BCTHW": band_BCTHW[:, :, 2:, 1:],
            "input_bias_C": random(channels) if bias else None,
            "silu": True,
        }

    return make


def _add_cases() -> Iterator[KernelCase]:
    for shape in ((1, 8, 1, 1, 1), (2, 12, 3, 5, 7), (1, 33, 2, 1, 9), (1, 512, 1, 3, 11)):
        for residual in (False, True):
            yield KernelCase(
                name=f"add_bias, {'x'.join(map(str, shape))}{', residual' if residual else ''}",
                kernel=add_bias,
                make=_add_maker(shape, residual=residual),
            )


def _add_maker(shape: Sequence[int], *, residual: bool) -> Callable[[Random], dict[str, Any]]:
    def make(random: Random) -> dict[str, Any]:
        return {
            "y_BCTHW": _frames(random, shape)[..., ::1],
            "bias_C": random(shape[1]),
            "residual_BCTHW": random(*shape) if residual else None,  # another layout
            "out_BCTHW": _frames(random, shape),
        }

    return make


def _attention_cases() -> Iterator[KernelCase]:
    shapes = {
        "one token": (1, 1, 16),
        "fewer channels than a block": (2, 5, 8),
        "tokens of several blocks": (2, 70, 32),
        "odd channels": (1, 33, 24),
        "production head": (1, 65, 512),
        "whole blocks": (1, 128, 64),
    }
    for name, shape in shapes.items():
        for tile, sharp in (("own", 1.0), ("own", 12.0), ("own halves", 12.0)):
            yield KernelCase(
                name=f"frame_attention, {tile}, {name}{', sharp' if sharp > 1 else ''}",
                kernel=frame_attention,
                make=_attention_maker(shape, sharp, tile),
                outs=("out_FNC",),
                slow=name == "production head",
                # Weights are rounded as well as the result; sums of both signs may cancel.
                relative_atol=1.0,
            )


def _attention_maker(
    shape: Sequence[int], sharp: float, tile: str
) -> Callable[[Random], dict[str, Any]]:
    def make(random: Random) -> dict[str, Any]:
        frames, tokens, channels = shape
        q_FNC, k_FNC, v_FNC = random(frames, tokens, 3 * channels).chunk(3, dim=-1)
        return {
            "q_FNC": sharp * q_FNC,
            "k_FNC": k_FNC,
            "v_FNC": v_FNC,
            "out_FNC": random(*shape),
            "tile": tile,
        }

    return make
