"""Checks whether a device computes the VAE's convolutions correctly and fast.

Nearly all of the VAE's work is causal 3x3x3 convolutions in half precision. Builds of torch and
cuDNN differ in their speed and memory by factors. So three of them are run as the VAE runs them
(vae/conv.py, channels innermost). Their results are compared with sums of float64 matrix products,
in which no convolution kernel takes part, and their speed with that of a plain matrix product.
Run `python -m seedvr2_core.selfcheck.convolutions` for a report in JSON.

Shape legend: B batch 1, C channels, O output channels, T frames, H W pixels, R rows of a strip.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.kernels.devices import gpu_name, on_gpu
from seedvr2_core.vae.conv import LAYOUT, conv3d

Convolve = Callable[..., Tensor]
"""As `vae.conv.conv3d`."""
Verdict = Literal["ok", "slow", "wrong", "failed", "unchecked"]

SLOW_SHARE = 0.15
"""Below this share of the matrix product's rate a convolution is called slow. Fused kernels reach
half of it and more; those that unfold their input in memory a few hundredths."""
MATMUL_SIZE = 8192
DTYPES = (torch.float16, torch.bfloat16)
_STRIP_ROWS = 8
_TAPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvShape:
    """A causal conv of the VAE: the frames it makes and their size."""

    in_channels: int
    out_channels: int
    frames: int
    """Frames of the result; the input has two more."""
    height: int
    width: int

    @property
    def flops(self) -> int:
        """Operations, 2 per multiply-add."""
        outputs = self.frames * self.height * self.width * self.out_channels
        return 2 * _TAPS**3 * self.in_channels * outputs


GPU_SHAPES = (
    ConvShape(in_channels=128, out_channels=128, frames=4, height=752, width=1280),
    ConvShape(in_channels=256, out_channels=256, frames=8, height=376, width=640),
    ConvShape(in_channels=512, out_channels=512, frames=16, height=188, width=320),
)
"""The decoder's last three sizes at 720p, in the slices that the memory plan prefers."""
CPU_SHAPES = tuple(
    ConvShape(in_channels=channels, out_channels=channels, frames=2, height=20, width=24)
    for channels in (128, 256, 512)
)
"""Small, because on a CPU only the result is checked, not the speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvCheck:
    """What was found out about one convolution in one dtype."""

    shape: ConvShape
    dtype: str
    verdict: Verdict
    reason: str
    """A sentence that says why it is not ok; "" if it is."""
    error: float | None = None
    """Relative rms error against float64, of the worst row; None where it could not run."""
    tolerance: float
    tflops: float | None = None
    """Median rate; None on a CPU."""
    share: float | None = None
    """Its rate over that of a bfloat16 matrix product; None on a CPU."""
    extra_bytes: int | None = None
    """Peak device memory of the call beside input, weights and result."""
    kernels: tuple[str, ...] = ()
    """Names of the device's kernels, the longest-running first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """What was found out about a device."""

    device: str
    kind: str
    torch_version: str
    cudnn_version: int | None
    matmul_tflops: float | None
    """Rate of a bfloat16 product of two matrices of 8192 by 8192; None on a CPU."""
    convs: tuple[ConvCheck, ...]

    def of(self, dtype: torch.dtype) -> tuple[ConvCheck, ...]:
        """The checks of a dtype."""
        return tuple(check for check in self.convs if check.dtype == _name(dtype))


def check_device(
    device: torch.device | str,
    *,
    shapes: Sequence[ConvShape] | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
    convolve: Convolve = conv3d,
) -> DeviceReport:
    """Run, compare and time the convolutions. Takes seconds and about 4 GB of a GPU.

    Args:
        device: a GPU, or "cpu", where nothing is timed.
        shapes: None: GPU_SHAPES or CPU_SHAPES.
        dtypes: of input, weights and result.
        convolve: what is judged.
    """
    device = torch.device(device)
    is_gpu = on_gpu(device)
    if shapes is None:
        shapes = GPU_SHAPES if is_gpu else CPU_SHAPES
    # As a job sets them (child/segments.py): no kernel is chosen by timing.
    exact = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    with exact, torch.inference_mode():
        rate = matmul_rate(device) if is_gpu else None
        checks = [
            _check_conv(shape, dtype, device, rate, convolve)
            for dtype, shape in itertools.product(dtypes, shapes)
        ]
    return DeviceReport(
        device=str(device),
        kind=torch.cuda.get_device_name(device) if is_gpu else "cpu",
        torch_version=torch.__version__,
        cudnn_version=torch.backends.cudnn.version() if is_gpu else None,
        matmul_tflops=None if rate is None else rate / 1e12,
        convs=tuple(checks),
    )


def judge(
    error: float, tolerance: float, share: float | None, extra_bytes: int | None = None
) -> tuple[Verdict, str]:
    """Judge a convolution by its figures.

    Args:
        error: relative rms error; NaN counts as wrong.
        tolerance: the largest error that rounding explains.
        share: its rate over that of a matrix product; None if it was not timed.
        extra_bytes: scratch memory of the call, named in the reason if it is slow.

    Returns:
        The verdict, and a sentence that says why ("" for "ok").
    """
    if not error <= tolerance:
        return "wrong", f"relative rms error {error:.2g}, rounding explains {tolerance:.2g}"
    if share is not None and share < SLOW_SHARE:
        beside = "" if extra_bytes is None else f", {extra_bytes / 1e9:.1f} GB of scratch memory"
        return "slow", f"{share:.1%} of the rate of a matrix product{beside}"
    return "ok", ""


def tolerance_of(dtype: torch.dtype) -> float:
    """Largest relative rms error of a sum in float32 that is rounded to the dtype.

    One rounding moves a number by at most eps / 2, so the rms stays below that; eps leaves room
    for a second one where the bias is added apart. Sums kept in half precision exceed it.
    """
    return torch.finfo(dtype).eps


def matmul_rate(
    device: torch.device, *, size: int = MATMUL_SIZE, dtype: torch.dtype = torch.bfloat16
) -> float:
    """Measure how fast the device multiplies two square matrices of `size`.

    Returns:
        Floating-point operations per second; a multiply and the add after it count as 2.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: torch.mm(a, b), device)


def median_seconds(
    work: Callable[[], object], device: torch.device, *, warm: int = 3, repeats: int = 10
) -> float:
    """Measure how long a call takes: the median over some calls, in seconds.

    Args:
        work: what is timed.
        device: a GPU is timed by events on its stream, a CPU by the wall clock.
        warm: calls before the first timed one; they compile, allocate and choose kernels.
        repeats: timed calls.
    """
    for _ in range(warm):
        work()
    if not on_gpu(device):
        return statistics.median(_wall_seconds(work) for _ in range(repeats))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize(device)
    return statistics.median(a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(marks))


def _wall_seconds(work: Callable[[], object]) -> float:
    """Seconds that a call takes by the wall clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def make_inputs(
    shape: ConvShape, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Make random operands whose values are as large as in the VAE.

    Returns:
        The input, [1, C, T + 2, H, W]: T frames and the two before them, which a causal
        convolution also reads. It went through SiLU, as in the VAE. Then the weights,
        [O, C, 3, 3, 3], scaled so that results are about 1, and the bias, [O]. All are of `dtype`
        on `device`, channels innermost, and the same every time.
    """
    generator = torch.Generator(device).manual_seed(1)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    taps = (_TAPS,) * 3
    size = (1, shape.in_channels, shape.frames + _TAPS - 1, shape.height, shape.width)
    weight = normal(shape.out_channels, shape.in_channels, *taps)
    weight = weight / (_TAPS**3 * shape.in_channels) ** 0.5
    x_BCTHW = torch.empty(size, dtype=dtype, device=device, memory_format=LAYOUT)
    for x_BCHW in x_BCTHW.unbind(2):
        x_BCHW.copy_(F.silu(normal(*x_BCHW.shape)))
    bias = 0.1 * normal(shape.out_channels)
    return x_BCTHW, weight.to(dtype).contiguous(memory_format=LAYOUT), bias.to(dtype)


def _check_conv(
    shape: ConvShape,
    dtype: torch.dtype,
    device: torch.device,
    matmul: float | None,
    convolve: Convolve,
) -> ConvCheck:
    """Run one convolution, compare its result and, if `matmul` gives a rate, time it.

    A convolution that cannot run does not end the report: its check says "failed", or "unchecked"
    if the device's memory does not suffice.
    """
    about: dict[str, Any] = {
        "shape": shape,
        "dtype": _name(dtype),
        "tolerance": tolerance_of(dtype),
    }
    try:
        x_BCTHW, weight, bias = make_inputs(shape, dtype, device)

        def work() -> Tensor:
            return convolve(x_BCTHW, weight, bias, padding=(1, 1))

        extra_bytes = _extra_bytes(work, device)
        error = _worst_error(work(), x_BCTHW, weight, bias)
        if matmul is None:
            verdict, reason = judge(error, about["tolerance"], None)
            return ConvCheck(**about, verdict=verdict, reason=reason, error=error)
        rate = shape.flops / median_seconds(work, device)
        verdict, reason = judge(error, about["tolerance"], rate / matmul, extra_bytes)
        return ConvCheck(
            **about,
            verdict=verdict,
            reason=reason,
            error=error,
            tflops=rate / 1e12,
            share=rate / matmul,
            extra_bytes=extra_bytes,
            kernels=_kernels(work, device),
        )
    except torch.OutOfMemoryError as error:
        return ConvCheck(**about, verdict="unchecked", reason=_first_line(error))
    except RuntimeError as error:  # what cuDNN's refusals come as
        return ConvCheck(**about, verdict="failed", reason=_first_line(error))


def _first_line(error: Exception) -> str:
    """The first line of an error's message: torch adds a whole stack of C++ calls to it."""
    return str(error).strip().split("\n", maxsplit=1)[0][:200]


def _extra_bytes(work: Callable[[], Tensor], device: torch.device) -> int | None:
    """Bytes that a call needs on the device at its worst, beside what it returns.

    None on a CPU, where torch does not count memory.
    """
    if not on_gpu(device):
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before - result.nbytes


def _worst_error(y_BOTHW: Tensor, x_BCTHW: Tensor, weight: Tensor, bias: Tensor) -> float:
    """Compare some rows at the top, in the middle and at the bottom with `reference_rows`.

    The rms error of each row is divided by the rms of the right values. A fault at the edge of the
    picture spoils one row, so we take the worst row and not the mean over all.

    Returns:
        The largest of these errors; NaN if one is NaN.
    """
    height = y_BOTHW.shape[3]
    rows = min(_STRIP_ROWS, height)
    errors: list[float] = []
    for start in (0, (height - rows) // 2, height - rows):
        wanted = reference_rows(x_BCTHW, weight, bias, range(start, start + rows))
        difference = y_BOTHW[..., start : start + rows, :].double() - wanted
        across = (0, 1, 2, 4)
        ratio_R = difference.square().mean(across) / wanted.square().mean(across)
        errors += ratio_R.sqrt().tolist()
    # max() may pass over NaN, because every comparison with it is False.
    return next((error for error in errors if error != error), max(errors))


def reference_rows(x_BCTHW: Tensor, weight: Tensor, bias: Tensor, rows: range) -> Tensor:
    """Calculate some rows of the convolution in another way, which is exact enough to judge it.

    Each of the 27 taps is one matrix product in float64. No convolution kernel takes part.

    Args:
        x_BCTHW: the input with the two frames before it.
        weight: [O, C, 3, 3, 3].
        bias: [O].
        rows: which rows of the result.

    Returns:
        [B, O, T - 2, len(rows), W] float64.
    """
    height, width = x_BCTHW.shape[3:]
    top, bottom = rows.start - 1, rows.stop + 1
    strip_BCTRW = x_BCTHW[..., max(0, top) : min(bottom, height), :].double()
    strip_BCTRW = F.pad(strip_BCTRW, (1, 1, max(0, -top), max(0, bottom - height)))
    frames = x_BCTHW.shape[2] - _TAPS + 1
    y_BOTRW = bias.double().view(1, -1, 1, 1, 1)
    for t, h, w in itertools.product(range(_TAPS), repeat=3):
        tap_BCTRW = strip_BCTRW[:, :, t : t + frames, h : h + len(rows), w : w + width]
        product = torch.einsum("oc,bctrw->botrw", weight[:, :, t, h, w].double(), tap_BCTRW)
        y_BOTRW = y_BOTRW + product
    return y_BOTRW


def _kernels(work: Callable[[], object], device: torch.device) -> tuple[str, ...]:
    """Names of the device's kernels that a call runs, the longest-running first.

    Empty where the profiler is not allowed to see them.
    """
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        torch.cuda.synchronize(device)
    spent: list[Any] = [e for e in profile.key_averages() if e.device_type.name == "CUDA"]
    spent.sort(key=lambda event: -event.self_device_time_total)
    return tuple(event.key[:160] for event in spent)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> int:
    """Print the report as JSON; returns the exit code, 1 if a convolution is wrong or failed."""
    parser = argparse.ArgumentParser(description="Check the convolutions of a device.")
    default = gpu_name(0) if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default)
    report = check_device(parser.parse_args().device)
    sys.stdout.write(json.dumps(asdict(report), indent=1) + "\n")
    return 1 if any(check.verdict in ("wrong", "failed") for check in report.convs) else 0


if __name__ == "__main__":
    sys.exit(main())
