"""The parts of the run, in order."""

import gc
import itertools
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import attention, convs, golden, kernels, pieces, transfers
from benchmarks.gpu.report import LineReport
from benchmarks.model.run import CPU_MATMUL, machine
from seedvr2_core.child.trial import try_device
from seedvr2_core.kernels.kernel import has_triton
from seedvr2_core.selfcheck.convolutions import matmul_rate, median_seconds

Section = Callable[[LineReport, torch.device], None]
ROOT = Path(__file__).parents[2]
COPIED_BYTES = 4 << 30
"""Far more than any cache."""


def run_all(
    report: LineReport, *, device: str, only: str, long: bool, done: Collection[str] = ()
) -> None:
    """Run the parts that are asked for and not done yet, while there is time."""
    where = torch.device(device)
    whole = pieces.sections(where, long=long)
    # What is wanted most comes first: a run may be cut at any moment.
    first = dict(itertools.takewhile(lambda item: not item[0].endswith("switches"), whole.items()))
    sections: dict[str, Section] = {
        "device": _device,
        "kernels": kernels.run,
        "golden": golden.run,
        "transfers": transfers.run,
        **first,
        "convs": convs.run,
        "attention": attention.run,
        **whole,
    }
    wanted = only.split(",") if only else list(sections)
    if unknown := set(wanted) - set(sections):
        raise SystemExit(f"unknown parts {', '.join(unknown)}; there are: {', '.join(sections)}")
    with _as_in_a_job():
        for name in wanted:
            if name in done:
                continue
            with report.part(name):
                if report.skips(name):
                    report.line("left out", reason="it made the device fail")
                    continue
                if report.seconds_left <= 0:
                    report.line("left out", reason="no time is left")
                    continue
                sections[name](report, where)
            gc.collect()
            if where.type == "cuda":
                torch.cuda.empty_cache()


@contextmanager
def _as_in_a_job() -> Iterator[None]:
    """Set torch up as a child does (child/segments.py)."""
    before = torch.get_deterministic_debug_mode()
    deterministic: Any = torch.utils.deterministic
    fills = deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        deterministic.fill_uninitialized_memory = fills


def _device(report: LineReport, device: torch.device) -> None:
    """Facts of the machine, and the rates that all other figures are compared with."""
    report.line("machine", **machine(device), has_triton=has_triton())
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        report.line(
            "card",
            capability=torch.cuda.get_device_capability(device),
            multiprocessors=properties.multi_processor_count,
            shared_bytes=properties.shared_memory_per_block_optin,
            l2_bytes=properties.L2_cache_size,
        )
    on_gpu = device.type == "cuda"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    reached, told = try_device(str(device), environment={**os.environ, "PYTHONPATH": path})
    report.line(
        "confined child",
        reached_cuda=("yes" if reached else "no") if on_gpu else "no GPU here",
        worked=reached,
        told=told,
    )
    if not reached:
        report.wrong()
    for dtype in (torch.float16, torch.bfloat16) if on_gpu else (torch.float32,):
        size = {} if on_gpu else {"size": CPU_MATMUL}
        rate = matmul_rate(device, dtype=dtype, **size)
        report.line("matrix product", dtype=str(dtype), tflops=rate / 1e12)
    count = COPIED_BYTES if on_gpu else 1 << 26
    a = torch.empty(count, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    rate = 2 * count / median_seconds(lambda: b.copy_(a), device)
    report.line("copy", tera_bytes_per_second=rate / 1e12)
    if on_gpu:
        host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
        for name, work in (
            ("to the device", lambda: a[: host.numel()].copy_(host, non_blocking=True)),
            ("to the host", lambda: host.copy_(a[: host.numel()], non_blocking=True)),
        ):
            giga = host.numel() / median_seconds(work, device) / 1e9
            report.line(f"page-locked copy {name}", giga_bytes_per_second=giga)
