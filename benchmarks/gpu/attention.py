"""Attention of the transformer: each shape of a window at 1080p, the first call and the later ones.

cuDNN builds a plan for every shape it meets, which its first call pays for; what the shapes that a
job gives to it cost and gain decides how many they should be (dit/sdpa.py).
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.report import LineReport
from seedvr2_core.config import DEFAULT_CHUNK_TOKENS, DIT_7B, DIT_TINY_7B
from seedvr2_core.dit import sdpa
from seedvr2_core.dit.layers import linear_gelu
from seedvr2_core.kernels.switches import switched
from seedvr2_core.selfcheck.convolutions import median_seconds

LATENT, CPU_LATENT = (25, 138, 240), (5, 8, 12)
TEXT = 58


def run(report: LineReport, device: torch.device) -> None:
    """Every way, shape by shape, and sums over a layer of each window method."""
    on_gpu = device.type == "cuda"
    config, latent = (DIT_7B, LATENT) if on_gpu else (DIT_TINY_7B, CPU_LATENT)
    work = sdpa.call_shapes(config, latent, TEXT, DEFAULT_CHUNK_TOKENS)
    chosen = sdpa.cudnn_shapes(work)
    ways: dict[str, Callable[..., Tensor]] = {"default": F.scaled_dot_product_attention}
    if on_gpu:
        ways |= {"cudnn": sdpa._through_cudnn, "flash": sdpa._through_flash}
    dtype = torch.bfloat16 if on_gpu else torch.float32
    first: dict[str, float] = dict.fromkeys(ways, 0.0)
    later: dict[str, float] = dict.fromkeys(ways, 0.0)
    with torch.inference_mode():
        for shape in sorted(work, key=lambda shape: -work[shape]):
            if report.seconds_left <= 0:
                report.line("left out", reason="no time is left")
                return
            calls = work[shape] // shape.work

            def measure(shape: sdpa.CallShape = shape, calls: int = calls) -> None:
                size = (shape.num_windows, shape.length, config.num_heads, config.head_dim)
                q, k, v = torch.randn((3, *size), device=device).to(dtype).transpose(2, 3).unbind()
                figures: dict[str, Any] = {"calls": calls, "for_cudnn": shape in chosen}
                for name, attend in ways.items():
                    cold, warm, error = _measure(attend, q, k, v, device)
                    figures |= {f"{name}_first": cold, f"{name}_later": warm}
                    figures[f"{name}_error"] = error
                    first[name] += cold - warm
                    later[name] += calls * warm
                report.line(f"{shape.num_windows} x {shape.length}", **figures)

            report.attempt(f"{shape.num_windows} x {shape.length}", measure)
        report.line("all shapes", shapes=len(work), first_calls_extra=first, per_window=later)
        report.attempt("Linear and GELU", lambda: _gelu(report, device))
        report.attempt("wide heads", lambda: _wide_heads(report, device))


def _measure(
    attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, device: torch.device
) -> tuple[float, float, float]:
    """Seconds of the first call and of later ones, and the error relative to float32's."""
    _wait(device)
    began = time.perf_counter()
    got = attend(q, k, v)
    _wait(device)
    cold = time.perf_counter() - began
    warm = median_seconds(lambda: attend(q, k, v), device, warm=1, repeats=5)
    one = slice(0, 1)
    wanted = F.scaled_dot_product_attention(
        q[one, :2].float(), k[one, :2].float(), v[one, :2].float()
    )
    error = (got[one, :2].float() - wanted).norm() / wanted.norm()
    return cold, warm, error.item()


def _wide_heads(report: LineReport, device: torch.device) -> None:
    """The VAE's attention, one head of 512, through torch: latent frames in one call, and by one.

    Our own kernel for it is timed among the kernels.
    """
    on_gpu = device.type == "cuda"
    frames, tokens, width = (8, 138 * 240, 512) if on_gpu else (2, 30, 512)
    dtype = torch.float16 if on_gpu else torch.float32
    q, k, v = torch.randn((3, frames, 1, tokens, width), device=device).to(dtype).unbind()
    for count in (frames, 1):
        given = q[:count], k[:count], v[:count]
        seconds = median_seconds(
            lambda given=given: F.scaled_dot_product_attention(*given), device, warm=1, repeats=3
        )
        flops = 4 * count * tokens**2 * width
        report.line(
            f"{count} frames of {tokens}, head of {width}",
            milliseconds=1000 * seconds,
            tflops=flops / seconds / 1e12,
        )


def _gelu(report: LineReport, device: torch.device) -> None:
    """The MLP's first product with GELU in its epilogue, and behind it."""
    rows, width, hidden = (65_536, 3072, 12_288) if device.type == "cuda" else (64, 32, 128)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x, weight, bias = (
        torch.randn(size, device=device).to(dtype)
        for size in ((rows, width), (hidden, width), (hidden,))
    )
    weight = weight / width**0.5
    figures: dict[str, float] = {}
    made: list[Tensor] = []
    for name, inside in (("epilogue", True), ("apart", False)):
        with switched(gelu_epilogue=inside):
            seconds = median_seconds(lambda: linear_gelu(x, weight, bias), device, repeats=5)
            made.append(linear_gelu(x[:256], weight, bias).float())
        figures[f"{name}_milliseconds"] = 1000 * seconds
        figures[f"{name}_tflops"] = 2 * rows * width * hidden / seconds / 1e12
    difference = ((made[0] - made[1]).norm() / made[1].norm()).item()
    report.line("Linear and GELU", **figures, difference=difference)
    if not difference < 0.01:
        report.wrong()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
