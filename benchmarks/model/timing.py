"""Measuring work on a device: stages by events, memory by phase, clocks by nvidia-smi."""

import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

OTHER = "other"
_QUERIES = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "utilization.gpu")


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one stage in one window."""

    device: float
    """Between events on the device's stream, waiting for the host included; as `wall` on a CPU."""
    wall: float
    """Between calls on the host, which runs ahead of the device inside a window."""


@dataclass(slots=True)
class _Mark:
    stage: str
    """What ends here."""
    wall: float
    event: Any


class StageClock:
    """Attributes every moment between `start` and `stop` to the innermost stage."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stack: list[str] = []
        self._marks: list[_Mark] = []

    def start(self) -> None:
        """Begin a window; the device is idle now."""
        self._synchronize()
        self._marks = []
        self._mark()

    def stop(self) -> dict[str, Seconds]:
        """End the window once the device has finished; seconds of each stage."""
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
        """What follows belongs to that stage."""
        self._mark()
        self._stack.append(stage)

    def leave(self) -> None:
        """What follows belongs to the stage around."""
        self._mark()
        self._stack.pop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Enter and leave."""
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
    """Device memory of a phase at its worst."""

    allocated: int = 0
    """Bytes of tensors and of libraries' scratch."""
    reserved: int = 0
    """Bytes that torch's allocator held, what an earlier phase left behind included."""
    outside: int = 0
    """Bytes of the device that torch's allocator knows nothing of: context, kernels, others."""


@dataclass(slots=True)
class MemoryWatch:
    """Peaks of each phase since the last `clear`; stays empty on a CPU."""

    device: torch.device
    peaks: dict[str, PhasePeak] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget what was seen."""
        self.peaks = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Watch a phase."""
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
    """Sample clocks and power while the block runs; figures are there after it.

    Yields:
        Name -> {"median", "min", "max"}, or None where nvidia-smi is absent or does not say.
    """
    figures: dict[str, dict[str, float] | None] = dict.fromkeys(_QUERIES)
    if device.type != "cuda":
        yield figures
        return
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERIES)}", "--format=csv,noheader,nounits"]
    command += ["-i", str(torch.cuda.current_device()), "-lms", "500"]
    with tempfile.TemporaryFile("w+") as log:
        try:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL)
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
