"""The VAE's convolutions: how fast each is, with and without its bias, and what runs it.

A convolution without a kernel of its own in a dtype unfolds its input, at a few hundredths of the
speed; which ones have one differs between builds of cuDNN.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.report import LineReport
from seedvr2_core.kernels.switches import switched
from seedvr2_core.selfcheck.convolutions import median_seconds
from seedvr2_core.vae.conv import LAYOUT, convolve_into

DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """A convolution as the VAE has it at 1080p."""

    name: str
    channels: tuple[int, int]
    kernel: tuple[int, int, int] = (3, 3, 3)
    stride: tuple[int, int, int] = (1, 1, 1)
    frames: int
    """Of the input."""
    size: tuple[int, int]
    """Height and width of the input."""
    padding: tuple[int, int] | None = None
    """Of height and width; None: as the kernel and the stride want it."""


CONVS = (
    # One frame from a ring of three (vae/ring.py), and at 4k a strip of rows, which come first.
    Conv(name="full size", channels=(128, 128), frames=3, size=(1104, 1920)),
    Conv(name="full size, narrowing", channels=(256, 128), frames=3, size=(1104, 1920)),
    Conv(name="full size, rows", channels=(128, 128), frames=548, size=(3, 3840), padding=(0, 1)),
    Conv(name="half size", channels=(256, 256), frames=3, size=(552, 960)),
    Conv(name="half size, narrowing", channels=(512, 256), frames=3, size=(552, 960)),
    Conv(name="quarter size", channels=(512, 512), frames=3, size=(276, 480)),
    Conv(name="latent size", channels=(512, 512), frames=10, size=(138, 240)),
    Conv(name="shortcut", channels=(512, 256), kernel=(1, 1, 1), frames=1, size=(552, 960)),
    Conv(
        name="down-sampler",
        channels=(128, 128),
        kernel=(1, 3, 3),
        stride=(1, 2, 2),
        frames=1,
        size=(1104, 1920),
        padding=(2, 2),
    ),
    Conv(
        name="folded up-sampler",
        channels=(256, 256),
        kernel=(3, 2, 2),
        frames=3,
        size=(552, 960),
        padding=(1, 1),
    ),
    Conv(name="from pixels", channels=(8, 128), frames=3, size=(1104, 1920)),
    Conv(name="to pixels", channels=(128, 8), frames=3, size=(1104, 1920)),
)
CPU_SIZE, CPU_CHANNELS = (8, 12), 16


def run(report: LineReport, device: torch.device) -> None:
    """Twelve shapes, two dtypes, with and without bias."""
    on_gpu = device.type == "cuda"
    with torch.inference_mode():
        for conv, dtype, biased in itertools.product(CONVS, DTYPES, (False, True)):
            about: dict[str, Any] = {"dtype": str(dtype), "bias": biased}
            name = f"{conv.name}, {dtype}{', bias' if biased else ''}"
            report.attempt(
                name,
                lambda c=conv, d=dtype, b=biased, about=about: report.line(
                    c.name, **about, **measure(c, d, device, biased=b)
                ),
            )
            if on_gpu:
                torch.cuda.empty_cache()
        report.attempt("direct output", lambda: _direct_output(report, device))


def _direct_output(report: LineReport, device: torch.device) -> None:
    """A convolution written into a part of a tensor: the same bits, and nothing held beside it."""
    height, width = (64, 1920) if device.type == "cuda" else CPU_SIZE
    for dtype in DTYPES:
        x_BCTHW = _random((1, 64, height, 3, width), dtype, device)
        weight = _random((64, 64, 3, 3, 3), dtype, device)
        whole = torch.zeros((1, 64, 2 * height, 1, width), dtype=dtype, device=device)
        whole = whole.contiguous(memory_format=LAYOUT)
        out = whole[:, :, 1 : height - 1]
        with switched(on_cpu=True):
            wanted = F.conv3d(x_BCTHW, weight, padding=(0, 0, 1))
            extra = _extra_bytes(
                lambda out=out, x=x_BCTHW, weight=weight: convolve_into(
                    out, x, weight, None, padding=(0, 1)
                ),
                device,
            )
        right = torch.equal(out, wanted)
        beside = whole[:, :, 0].any() or whole[:, :, height - 1 :].any()
        report.line(
            "direct output",
            dtype=str(dtype),
            same_bits=right,
            wrote_beside=bool(beside),
            extra_bytes=extra,
            result_bytes=wanted.nbytes,
        )
        if beside or not torch.allclose(out.float(), wanted.float(), rtol=0.01, atol=0.01):
            report.wrong()


def _extra_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Most memory that a call takes beside what is there; 0 on a CPU."""
    if device.type != "cuda":
        work()
        return 0
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def measure(
    conv: Conv, dtype: torch.dtype, device: torch.device, *, biased: bool
) -> dict[str, Any]:
    """Rate, scratch memory and kernels of one convolution."""
    on_gpu = device.type == "cuda"
    height, width = conv.size if on_gpu else CPU_SIZE
    inside, outside = conv.channels if on_gpu else (min(n, CPU_CHANNELS) for n in conv.channels)
    x_BCTHW = _random((1, inside, conv.frames, height, width), dtype, device)
    weight = _random((outside, inside, *conv.kernel), dtype, device)
    weight = weight.div_(math.sqrt(inside * math.prod(conv.kernel)))
    bias = torch.ones(outside, dtype=dtype, device=device) if biased else None
    padding = (0, *(conv.padding or (side // 2 for side in conv.kernel[1:])))

    def work() -> Tensor:
        return F.conv3d(x_BCTHW, weight, bias, stride=conv.stride, padding=padding)

    if not on_gpu:
        return {"finite": bool(torch.isfinite(work()).all())}
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    y_BCTHW = work()
    extra = torch.cuda.max_memory_allocated(device) - before - y_BCTHW.nbytes
    flops = 2 * y_BCTHW.numel() * inside * math.prod(conv.kernel)
    del y_BCTHW
    seconds = median_seconds(work, device, warm=2, repeats=5)
    return {
        "milliseconds": 1000 * seconds,
        "tflops": flops / seconds / 1e12,
        "extra_bytes": extra,
        "kernels": kernel_names(work, device),
    }


def kernel_names(work: Any, device: torch.device) -> list[str]:
    """Kernels of a call, the longest-running first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize(device)
    events: list[Any] = sorted(
        profiler.key_averages(), key=lambda event: -event.self_device_time_total
    )
    return [event.key[:120] for event in events[:3]]


def _random(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    x = torch.empty(size, dtype=dtype, device=device, memory_format=LAYOUT)
    for part in x.unbind(2):
        part.copy_(torch.randn(part.shape, device=device, dtype=torch.float32))
    return x
