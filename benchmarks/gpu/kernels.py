"""Kernels of our own: right in every dtype, and how near to the memory's speed.

Cases come from `benchmarks.model.kernel_cases`, which knows all kernels. The times are those of the
transformer's kernels at 1080p, one batch of windows, and of the VAE's at full size.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.report import LineReport, device_is_lost
from benchmarks.model.color_cases import bands
from benchmarks.model.kernel_cases import DTYPES, all_cases, run_case
from seedvr2_core.kernels.kernel import Kernel, has_triton
from seedvr2_core.kernels.switches import switched
from seedvr2_core.selfcheck.convolutions import median_seconds
from seedvr2_core.vae.conv import LAYOUT

Make = Callable[[torch.dtype, torch.device], dict[str, Any]]
SCALE = {"cuda": 1, "cpu": 64}
"""By how much the rows of the timed calls are divided."""


def run(report: LineReport, device: torch.device) -> None:
    """Parity of every case, then times."""
    for case in all_cases():
        report.attempt(f"parity: {case.name}", lambda case=case: _parity(report, case, device))
    for timed in TIMED:
        report.attempt(f"time: {timed[1]}", lambda timed=timed: _time(report, *timed, device))


def _parity(report: LineReport, case: Any, device: torch.device) -> None:
    """One case in all dtypes."""
    errors: dict[str, float | str] = {}
    for dtype in DTYPES:
        try:
            error = run_case(case, dtype, device)
        except Exception as failure:
            errors[str(dtype)] = f"{type(failure).__name__}: {failure}"[:300]
            report.wrong()
            if device_is_lost():
                report.line(f"parity: {case.name}", errors=errors)
                raise
            continue
        errors[str(dtype)] = error
        if not error <= 1:
            report.wrong()
    report.line(f"parity: {case.name}", errors=errors)


def _time(report: LineReport, module: str, name: str, make: Make, device: torch.device) -> None:
    """One kernel in the dtypes of production."""
    kernel = getattr(importlib.import_module(f"seedvr2_core.kernels.{module}"), name)
    for dtype in (torch.float16, torch.bfloat16):
        report.line(f"time: {name}", dtype=str(dtype), **_timed(kernel, make, dtype, device))


def _timed(
    kernel: Kernel[...], make: Make, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Of the kernel and of its reference, and the bytes that it has to move."""
    given = make(dtype, device)
    cost = kernel.cost(**given)
    figures: dict[str, Any] = {"bytes": cost.read + cost.written, "flops": cost.flops}
    repeats = {"warm": 2, "repeats": 10} if device.type == "cuda" else {"warm": 0, "repeats": 1}
    with torch.inference_mode():
        for label, triton in (("triton", True), ("reference", False)):
            if triton and not (has_triton() and device.type == "cuda"):
                continue
            with switched(triton=triton):
                seconds = median_seconds(lambda: kernel(**given), device, **repeats)
            figures[f"{label}_milliseconds"] = 1000 * seconds
            figures[f"{label}_tera_bytes_per_second"] = figures["bytes"] / seconds / 1e12
    return figures


def _rows(dtype: torch.dtype, device: torch.device, *, added: bool, normed: bool) -> dict[str, Any]:
    """A batch of 65,536 rows out of the stream of a window at 1080p."""
    count, width = 207_000 // SCALE[device.type], 3072
    generator = torch.Generator().manual_seed(1)
    rows_M = torch.randperm(count, generator=generator)[: count // 3].to(device)
    given: dict[str, Any] = {
        "x_ND": torch.randn(count, width, device=device),
        "rows_M": rows_M,
    }
    if added:
        given["y_MD"] = torch.randn(len(rows_M), width, device=device).to(dtype)
    if normed:
        given["out_MD"] = torch.empty(len(rows_M), width, device=device, dtype=dtype)
        given["eps"] = 1e-5
    return given


def _heads(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """23 windows of 2,835 tokens, 24 heads of 128."""
    windows, video, text, heads, channels = 23, 2835 // SCALE[device.type], 58, 24, 128

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, device=device).to(dtype)

    return {
        "joined_3WJHK": torch.empty(
            (3, windows, video + text, heads, channels), device=device, dtype=dtype
        ),
        "qkv_M3HK": random(windows * video, 3, heads, channels),
        "text_3LHK": random(3, text, heads, channels),
        "weights_2K": torch.ones(2, channels, device=device),
        "rotation_S2P": torch.ones(video, 2, channels // 2, device=device),
        "eps": 1e-5,
    }


def _frames(dtype: torch.dtype, device: torch.device, channels: int = 128) -> torch.Tensor:
    size = (1104, 1920) if device.type == "cuda" else (9, 16)
    x = torch.empty((1, channels, 4, *size), dtype=dtype, device=device, memory_format=LAYOUT)
    return x.normal_()


def _norm(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    x_BCTHW = _frames(dtype, device)
    vector = torch.ones(x_BCTHW.shape[1], dtype=dtype, device=device)
    return {
        "x_BCTHW": x_BCTHW,
        "weight_C": vector,
        "bias_C": vector,
        "out_BCTHW": torch.empty_like(x_BCTHW),
        "input_bias_C": vector,
        "num_groups": 32,
        "eps": 1e-6,
        "silu": True,
    }


def _add(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    y_BCTHW = _frames(dtype, device)
    return {
        "y_BCTHW": y_BCTHW,
        "bias_C": torch.ones(y_BCTHW.shape[1], dtype=dtype, device=device),
        "residual_BCTHW": torch.ones_like(y_BCTHW),
        "out_BCTHW": torch.empty_like(y_BCTHW),
    }


def _frame_attention(dtype: torch.dtype, device: torch.device, tile: str = "own") -> dict[str, Any]:
    """Two latent frames at 1080p, one head of 512."""
    tokens = 138 * 240 if device.type == "cuda" else 30

    def random() -> torch.Tensor:
        return torch.randn(2, tokens, 512, device=device).to(dtype)

    q_FNC = random()
    return {
        "q_FNC": q_FNC,
        "k_FNC": random(),
        "v_FNC": random(),
        "out_FNC": torch.empty_like(q_FNC),
        "tile": tile,
    }


def _color(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """A frame to 8 bits, whatever the dtype of the model."""
    height, width = (1080, 1920) if device.type == "cuda" else (9, 16)
    c_CHW = torch.randn(3, height, width, device=device)
    return {
        "out_HWC": torch.empty((height, width, 3), dtype=torch.uint8, device=device),
        "c_CHW": c_CHW,
        "s_CHW": torch.randn(3, height, width, device=device),
        "low_CHW": torch.empty_like(c_CHW),
        "bands_y": bands(height, c_CHW),
        "bands_x": bands(width, c_CHW),
    }


TIMED: tuple[tuple[str, str, Make], ...] = (
    ("norm", "norm_silu", _norm),
    ("norm", "add_bias", _add),
    ("attention", "frame_attention", _frame_attention),
    (
        "attention",
        "frame_attention",
        lambda dtype, device: _frame_attention(dtype, device, "own halves"),
    ),
    ("dit", "norm_rows", lambda dtype, device: _rows(dtype, device, added=False, normed=True)),
    ("dit", "add_rows", lambda dtype, device: _rows(dtype, device, added=True, normed=False)),
    ("dit", "add_norm_rows", lambda dtype, device: _rows(dtype, device, added=True, normed=True)),
    ("dit", "join_heads", _heads),
    ("color", "wavelet_color", _color),
)
"""Module, kernel and arguments."""
