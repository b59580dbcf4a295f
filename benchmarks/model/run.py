"""Runs windows of a shot through `SeedVR2Session` and measures them; see __main__.py."""

import argparse
import dataclasses
import gc
import itertools
import platform
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.model.bench import STAGES, TimedSession
from benchmarks.model.flops import PieceWork, piece_flops
from benchmarks.model.setup import TEXT_TOKENS, BenchSetup, equal_windows, make_setup, set_layout
from benchmarks.model.timing import MemoryWatch, Seconds, gpu_monitor
from seedvr2_core.selfcheck.convolutions import ConvShape, make_inputs, matmul_rate, median_seconds
from seedvr2_core.vae.conv import conv3d

ATTEMPTS = 3
SHRINK = 0.85
"""Factor on the memory budget after an attempt that ran out of memory."""
CPU_MATMUL = 1024


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; the report is plain data (see __main__.py)."""
    device = torch.device(options.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = _run(options, device)
    return report | {"warnings": sorted({str(warning.message) for warning in caught})}


def _run(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure; if the device runs out of memory, measure again with less memory in the plan."""
    began = time.perf_counter()
    _configure(options)
    report: dict[str, Any] = {"machine": machine(device), "out_of_memory": [], "refused": []}
    report["options"] = {name: value for name, value in vars(options).items() if name != "json"}
    budget = device_bytes(options, device)
    for _ in range(ATTEMPTS):
        _free(device)
        try:
            return report | _measure(options, device, budget, began)
        except torch.OutOfMemoryError as error:
            if budget is None:
                raise
            report["out_of_memory"].append({"budget": budget, "error": str(error)[:300]})
            budget = int(SHRINK * budget)
        except RuntimeError as error:
            if "deterministic" not in str(error) or not options.deterministic:
                raise
            # Production would end here; the figures are wanted all the same.
            report["refused"].append(str(error)[:300])
            torch.use_deterministic_algorithms(True, warn_only=True)
    raise SystemExit(f"no attempt of {ATTEMPTS} succeeded: {report}")


def _free(device: torch.device) -> None:
    """Give memory that nothing refers to back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def machine(device: torch.device) -> dict[str, Any]:
    """Software versions and the device."""
    about: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": None,
        "triton": None,
        "threads": torch.get_num_threads(),
        "device": platform.processor() or platform.machine(),
    }
    try:
        import triton  # pyright: ignore[reportMissingImports]

        about["triton"] = triton.__version__
    except ImportError:
        about["triton"] = None
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        about |= {
            "device": torch.cuda.get_device_name(device),
            "cudnn": torch.backends.cudnn.version(),
            "total_bytes": total,
            "free_bytes": free,
        }
    return about


def _configure(options: argparse.Namespace) -> None:
    """Set torch up as child/segments.py does, unless the options say otherwise."""
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    if not options.channels_last:
        set_layout(torch.contiguous_format)
    if options.deterministic:
        torch.use_deterministic_algorithms(True)
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False


def device_bytes(options: argparse.Namespace, device: torch.device) -> int | None:
    """What the memory plan may use."""
    if device.type == "cpu":
        return None
    free = torch.cuda.mem_get_info(device)[0]
    return min(free, int(options.device_gb * 1e9)) if options.device_gb else free


def _references(
    options: argparse.Namespace, setup: BenchSetup, device: torch.device
) -> dict[str, Any]:
    """A matrix product and single convolutions of the decoder, in operations per second."""
    dtype = getattr(torch, setup.memory.vae_dtype)
    convs = {}
    for shape in _conv_shapes(setup) if options.convs else ():
        x_BCTHW, weight, bias = make_inputs(shape, dtype, device)

        def work(x: Tensor = x_BCTHW, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            return conv3d(x, weight, bias, padding=(1, 1))

        rate = shape.flops / median_seconds(work, device)
        size = f"{shape.frames}x{shape.height}x{shape.width}"
        convs[f"{shape.in_channels}->{shape.out_channels} {size}"] = rate
    return {
        "matmul": _matmul(device),
        "conv_dtype": setup.memory.vae_dtype,
        "convs": convs,
        "best_conv": max(convs.values(), default=None),
    }


def _matmul(device: torch.device) -> float:
    if device.type == "cuda":
        return matmul_rate(device)
    return matmul_rate(device, size=CPU_MATMUL, dtype=torch.float32)


def _conv_shapes(setup: BenchSetup) -> Iterator[ConvShape]:
    """The five kinds of wide convolutions, where they stand in the decoder."""
    widths = setup.vae_config.block_out_channels
    height, width = setup.request.padded
    for level, (inside, before) in enumerate(itertools.pairwise(widths)):
        for channels in sorted({before, inside}):
            yield ConvShape(
                in_channels=channels,
                out_channels=inside,
                frames=max(1, setup.memory.decoder_level_frames[-1 - level]),
                height=height >> level,
                width=width >> level,
            )


def _measure(
    options: argparse.Namespace,
    device: torch.device,
    budget: int | None,
    began: float,
) -> dict[str, Any]:
    """Load, warm up, measure."""
    setup = make_setup(options, device, budget)
    reference = _references(options, setup, device)
    _free(device)
    assert equal_windows(options, setup), "windows of different length: a fault of the plan"
    bench = TimedSession(options, setup, device, began=began)
    with gpu_monitor(device) as clocks:
        windows = bench.run()
    profile = bench.profile() if options.profile else []
    bench.close()
    reference["matmul_after"] = _matmul(device)
    rate = max(reference["matmul"], reference["matmul_after"])
    stages, total = stage_table(setup, windows, rate, options)
    return {
        "reference": reference,
        "plan": plan_summary(setup),
        "load_seconds": bench.load_seconds,
        "activations": bench.activations,
        "frames_per_piece": len(range(setup.pieces[-1].start, setup.pieces[-1].stop)),
        "warm": bench.num_warm,
        "measured": len(windows),
        "windows": [{k: dataclasses.asdict(v) for k, v in window.items()} for window in windows],
        "stages": stages,
        "total": total,
        "memory": memory_table(setup, bench.watch),
        "clocks": clocks,
        "profile": profile,
    }


def plan_summary(setup: BenchSetup) -> dict[str, Any]:
    plan = setup.plan
    return {
        "size": (plan.width, plan.height),
        "padded": setup.request.padded[::-1],
        "source": (plan.video.width, plan.video.height),
        "window": plan.engine.window,
        "overlap": plan.engine.overlap,
        **dataclasses.asdict(setup.memory),
    }


def stage_table(
    setup: BenchSetup,
    windows: Sequence[dict[str, Seconds]],
    rate: float,
    options: argparse.Namespace,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Per 100 frames: medians over the windows, and what the operations alone would take."""
    piece = setup.pieces[-1]
    per_100 = 100 / (piece.stop - piece.start)
    height, width = setup.request.padded
    work = PieceWork(
        latents=options.windows_per_piece * (setup.plan.engine.window - setup.plan.engine.overlap),
        windows=options.windows_per_piece,
        window=setup.plan.engine.window,
        height=height,
        width=width,
        text_len=TEXT_TOKENS,
    )
    done = piece_flops(setup.vae_config, setup.dit_config, work, folded_vae=options.fold)
    floor = piece_flops(setup.vae_config, setup.dit_config, work, folded_vae=True)
    names = [name for name in STAGES if any(name in window for window in windows)]
    nothing = Seconds(0.0, 0.0)
    table: dict[str, dict[str, Any]] = {}
    for name in names:
        taken = [window.get(name, nothing) for window in windows]
        table[name] = _row(taken, per_100, done.get(name), floor.get(name), rate)
    sums = [
        Seconds(sum(s.device for s in w.values()), sum(s.wall for s in w.values())) for w in windows
    ]
    return table, _row(sums, per_100, sum(done.values()), sum(floor.values()), rate)


def _row(
    taken: Sequence[Seconds], per_100: float, done: int | None, floor: int | None, rate: float
) -> dict[str, Any]:
    device = [per_100 * seconds.device for seconds in taken]
    median = statistics.median(device)
    row: dict[str, Any] = {
        "device_seconds": median,
        "device_min": min(device),
        "device_max": max(device),
        "wall_seconds": statistics.median(per_100 * seconds.wall for seconds in taken),
    }
    if done is not None and floor is not None:
        row["tflop"] = per_100 * done / 1e12
        row["tflops"] = row["tflop"] / median
        row["floor_seconds"] = per_100 * floor / rate
        row["share_of_floor"] = row["floor_seconds"] / median
    return row


def memory_table(setup: BenchSetup, watch: MemoryWatch) -> dict[str, dict[str, Any]]:
    """Measured peaks of each phase beside the plan's prediction; none measured on a CPU."""
    table: dict[str, dict[str, Any]] = {}
    for phase, predicted in setup.predicted.items():
        row: dict[str, Any] = {"predicted": predicted, "allocated": None, "used": None}
        row["predicted_tensors"] = setup.predicted_tensors[phase]
        peak = watch.peaks.get(phase)
        if peak is not None:
            row["allocated"], row["reserved"] = peak.allocated, peak.reserved
            row["outside"], row["used"] = peak.outside, peak.reserved + peak.outside
            row["tensors_ratio"] = row["predicted_tensors"] / peak.allocated
            row["ratio"] = predicted / row["used"]
        table[phase] = row
    return table
