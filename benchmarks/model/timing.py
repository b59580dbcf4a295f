"""Measures the model on a device: seconds of each stage, peak memory of each phase, GPU clocks.

Seconds come from events on the device's stream, because the host runs ahead of a GPU and its own
clock would charge one stage with the work of another. Memory comes from torch's allocator, clocks
and power from nvidia-smi.
"""

import itertools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from seedvr2_core.files.process import die_with_parent

OTHER = "other"
"""The stage that gets the time which no stage claims."""
_QUERIES = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "utilization.gpu")


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds that one stage took, summed over one measured window."""

    device: float
    """Between events on the device's stream. A device that waits for the host goes on counting. On
    a CPU, where there are no events, it is the same as `wall`."""
    wall: float
    """Between calls on the host's clock. Inside a window the host runs ahead of the device, so only
    the sum over a window means something."""


@dataclass(slots=True)
class _Mark:
    """A moment at which the stage changes."""

    stage: str
    """The stage that ends here."""
    wall: float
    """The host's clock, in seconds."""
    event: Any
    """`torch.cuda.Event` on the current stream; None on a CPU."""


class StageClock:
    """Says how long each stage took between `start` and `stop`.

    Stages may lie inside each other. Every moment counts for the innermost open stage alone, so the
    stages add up to the whole; time outside all stages counts for `OTHER`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stack: list[str] = []
        self._marks: list[_Mark] = []

    def start(self) -> None:
        """Begin a window. Waits until the device has finished what was asked of it before."""
        self._synchronize()
        self._marks = []
        self._mark()

    def stop(self) -> dict[str, Seconds]:
        """End the window; waits until the device has finished.

        Returns:
            Stage -> its seconds in this window.
        """
        assert not self._stack, f"stages still open: {self._stack}"
        self._mark()
        self._synchronize()
        spent: dict[str, Seconds] = {}
        for before, after in itertools.pairwise(self._marks):
            wall = after.wall - before.wall
            device = wall
            if after.event is not None:
                device = before.event.elapsed_time(after.event) / 1000
            sum_ = spent.get(after.stage, Seconds(0.0, 0.0))
            spent[after.stage] = Seconds(sum_.device + device, sum_.wall + wall)
        return spent

    def enter(self, stage: str) -> None:
        """Count the time from now on for this stage."""
        self._mark()
        self._stack.append(stage)

    def leave(self) -> None:
        """End the innermost stage; count the time from now on for the stage around it."""
        self._mark()
        self._stack.pop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a block for a stage."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def _mark(self) -> None:
        event = None
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        stage = self._stack[-1] if self._stack else OTHER
        self._marks.append(_Mark(stage, time.perf_counter(), event))

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass(slots=True)
class PhasePeak:
    """The most device memory that a phase ever used."""

    allocated: int = 0
    """Bytes of tensors, and of scratch memory that libraries took from torch's allocator."""
    reserved: int = 0
    """Bytes that torch's allocator held, used or not. It keeps what an earlier phase has freed."""
    outside: int = 0
    """Bytes in use on the device that torch's allocator did not take: the CUDA context, loaded
    kernels, and other programs."""


@dataclass(slots=True)
class MemoryWatch:
    """Keeps the peak memory of each phase since the last `clear`.

    It stays empty on a CPU, where torch does not count memory.
    """

    device: torch.device
    peaks: dict[str, PhasePeak] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget all peaks."""
        self.peaks = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch the memory of a block; a phase that runs several times keeps its largest peak."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        torch.cuda.synchronize(self.device)
        peak = self.peaks.setdefault(name, PhasePeak())
        peak.allocated = max(peak.allocated, torch.cuda.max_memory_allocated(self.device))
        peak.reserved = max(peak.reserved, torch.cuda.max_memory_reserved(self.device))
        free, total = torch.cuda.mem_get_info(self.device)
        outside = total - free - torch.cuda.memory_reserved(self.device)
        peak.outside = max(peak.outside, outside)


@contextmanager
def gpu_monitor(device: torch.device) -> Iterator[dict[str, dict[str, float] | None]]:
    """Ask nvidia-smi twice a second for clocks (MHz), power (W), temperature (C) and load (%).

    Yields:
        A table that is filled when the block ends: nvidia-smi's name of the figure -> {"median",
        "min", "max"}. A figure is None if nvidia-smi is absent or does not tell it.
    """
    figures: dict[str, dict[str, float] | None] = dict.fromkeys(_QUERIES)
    if device.type != "cuda":
        yield figures
        return
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERIES)}", "--format=csv,noheader,nounits"]
    command += ["-i", str(torch.cuda.current_device()), "-lms", "500"]
    with tempfile.TemporaryFile("w+") as log:
        try:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.DEVNULL,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        except OSError:  # no nvidia-smi here: the figures stay None
            yield figures
            return
        try:
            yield figures
        finally:
            process.terminate()
            process.wait()
        log.seek(0)
        figures.update(_summaries(log.read().splitlines()))


def _summaries(lines: list[str]) -> dict[str, dict[str, float] | None]:
    """Median, minimum and maximum of each column of nvidia-smi's lines; `[N/A]` is passed over."""
    rows = [line.split(",") for line in lines]
    columns = zip(*(row for row in rows if len(row) == len(_QUERIES)), strict=True)
    found: dict[str, dict[str, float] | None] = {}
    for name, column in zip(_QUERIES, columns, strict=False):
        numbers = [float(text) for text in column if _is_number(text)]
        found[name] = None
        if numbers:
            median = statistics.median(numbers)
            found[name] = {"median": median, "min": min(numbers), "max": max(numbers)}
    return found


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdigit()
