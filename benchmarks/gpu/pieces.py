"""Pieces of a shot through the production session: plain, fast, and with single steps switched off.

A model is loaded once; what is compared is switched between pieces, which are equal work. "plain"
takes none of the steps of seedvr2_core/kernels/switches.py, "fast" all of them.
"""

import gc
import time
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.repeat import Repeats
from benchmarks.gpu.report import LineReport
from benchmarks.model.__main__ import parse
from benchmarks.model.bench import TimedSession
from benchmarks.model.run import device_bytes, memory_table, plan_summary, stage_table
from benchmarks.model.setup import BenchSetup, make_models, make_setup
from benchmarks.model.timing import Seconds
from seedvr2_core.beat import Beat
from seedvr2_core.engines.seedvr2.phases import Models
from seedvr2_core.kernels.switches import Switches, switched
from seedvr2_core.selfcheck.convolutions import matmul_rate

NOT_STEPS = ("on_cpu", "triton", "interpret")
"""Switches that say where steps are taken, not which."""
SHORT_WINDOW = 9
"""Latents of the windows in which single steps are compared: a quarter of the time."""


def sections(
    device: torch.device, *, long: bool
) -> dict[str, Callable[[LineReport, torch.device], None]]:
    """The parts that run pieces; on a CPU the tiny model at a tiny size."""
    bench = GpuPieces()
    if device.type != "cuda":
        tiny = {"model": "tiny", "size": "32x16", "window": 8}
        return {
            "piece": lambda *where: bench.compare(*where, **tiny),
            "repeat": lambda *where: bench.repeat(*where, **tiny),
            "switches": lambda *where: bench.single_steps(*where, **tiny),
        }
    whole: dict[str, Callable[[LineReport, torch.device], None]] = {
        "7b 1080p": lambda *where: bench.compare(*where, model="7b", size="1080p"),
        "7b 720p": lambda *where: bench.compare(*where, model="7b", size="720p"),
        "7b repeat": lambda *where: bench.repeat(
            *where, model="7b", size="720p", window=SHORT_WINDOW
        ),
        "7b switches": lambda *where: bench.single_steps(
            *where, model="7b", size="1080p", window=SHORT_WINDOW
        ),
        "3b 1080p": lambda *where: bench.compare(*where, model="3b", size="1080p", plain=False),
        "3b 720p": lambda *where: bench.compare(*where, model="3b", size="720p", plain=False),
    }
    if long:
        whole["7b 4k"] = lambda *where: bench.compare(*where, model="7b", size="4k", plain=False)
    return whole


def plain_steps() -> dict[str, Any]:
    """Every step off: False, or the first of the ways that a switch names."""
    return {
        name: typing.get_args(hint)[0] if typing.get_args(hint) else False
        for name, hint in typing.get_type_hints(Switches).items()
        if name not in NOT_STEPS
    }


class _Work:
    """A session for the ways that are compared; a new one after an error."""

    def __init__(
        self, options: Any, setup: BenchSetup, device: torch.device, models: Models, beat: Beat
    ) -> None:
        self.options, self.setup, self._beat = options, setup, beat
        self._device, self._models = device, models
        self._session: TimedSession | None = None

    def session(self) -> TimedSession:
        """The one at hand, or a new one at the shot's start."""
        if self._session is None:
            self._session = TimedSession(
                self.options,
                self.setup,
                self._device,
                began=0.0,
                models=self._models,
                beat=self._beat,
            )
        return self._session

    def close(self) -> None:
        """Release models and state."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


class GpuPieces:
    """The loaded model, kept from part to part."""

    def __init__(self) -> None:
        self._loaded: tuple[str, Models] | None = None
        self._rate: float | None = None
        self._free: int | None = None

    def compare(
        self,
        report: LineReport,
        device: torch.device,
        *,
        model: str,
        size: str,
        window: int | None = None,
        plain: bool = True,
    ) -> None:
        """A piece plain and a piece fast, each after a warm one; tables of stages and memory."""
        ways: dict[str, Mapping[str, Any]] = {"fast": {}}
        if plain:
            ways = {"fast": {}, "plain": plain_steps()}
        self._run(report, device, ways, model=model, size=size, window=window, tables=True)

    def single_steps(
        self, report: LineReport, device: torch.device, *, model: str, size: str, window: int
    ) -> None:
        """Fast, and then without one step after the other."""
        ways: dict[str, Mapping[str, Any]] = {"fast": {}}
        ways |= {f"without {name}": {name: off} for name, off in plain_steps().items()}
        ways["no Triton"] = {"triton": False}
        self._run(report, device, ways, model=model, size=size, window=window, tables=False)

    def _run(
        self,
        report: LineReport,
        device: torch.device,
        ways: Mapping[str, Mapping[str, Any]],
        *,
        model: str,
        size: str,
        window: int | None,
        tables: bool,
    ) -> None:
        given = ["--model", model, "--resolution", size, "--device", str(device)]
        given += ["--warm", str(len(ways)), "--windows", str(len(ways)), "--no-convs"]
        options = parse(given + (["--window", str(window)] if window else []))
        self._keep_only(model, device)
        on_cpu = device.type == "cpu"
        with switched(on_cpu=on_cpu):
            setup = make_setup(options, device, self._free_bytes(options, device))
            report.line("plan", model=model, **plan_summary(setup))
            began = time.perf_counter()
            models = self._models(options, setup, device)
            work = _Work(options, setup, device, models, report.beat)
            attention = work.session().attention
            report.line("loaded", seconds=time.perf_counter() - began, attention=attention)
            try:
                for name, changes in ways.items():
                    if report.seconds_left <= 0:
                        report.line(name, reason="no time is left")
                        continue
                    way = partial(self._way, report, device, work, name, changes, tables=tables)
                    report.attempt(name, way)
            finally:
                work.close()

    def _way(
        self,
        report: LineReport,
        device: torch.device,
        work: "_Work",
        name: str,
        changes: Mapping[str, Any],
        *,
        tables: bool,
    ) -> None:
        """A warm piece and a measured one."""
        setup, bench = work.setup, work.session()
        try:
            with switched(**changes):
                first = bench.piece()
                bench.check_activations()
                bench.watch.clear()
                spent = bench.piece()
        except BaseException:
            work.close()  # its state is lost
            raise
        stages, total = stage_table(setup, [spent], self._matmul(device), work.options)
        figures: dict[str, Any] = {"first_call_extra": _seconds(first) - _seconds(spent)}
        if tables:
            figures |= {"stages": stages, "memory": memory_table(setup, bench.watch)}
            figures["plan_peaks"] = setup.predicted
        else:
            figures["stages"] = {key: row["device_seconds"] for key, row in stages.items()}
        report.line(name, per_100_frames=total, **figures)

    def repeat(
        self, report: LineReport, device: torch.device, *, model: str, size: str, window: int
    ) -> None:
        """The same work in several ways, whose bits are compared (repeat.py)."""
        given = ["--model", model, "--resolution", size, "--device", str(device), "--no-convs"]
        options = parse([*given, "--warm", "2", "--windows", "1", "--window", str(window)])
        self._keep_only(model, device)
        with switched(on_cpu=device.type == "cpu"):
            setup = make_setup(options, device, self._free_bytes(options, device))
            models = self._models(options, setup, device)
            try:
                Repeats(report, device, setup, models).run()
            finally:
                self._loaded = None  # layers that were streamed lie in host memory now

    def _free_bytes(self, options: Any, device: torch.device) -> int | None:
        """What every plan may use: what was free before the first model was loaded, as in a job."""
        if self._free is None:
            self._free = device_bytes(options, device)
        return self._free

    def _models(self, options: Any, setup: BenchSetup, device: torch.device) -> Models:
        if self._loaded is None:
            self._loaded = options.model, make_models(options, setup, device)
        return self._loaded[1]

    def _keep_only(self, model: str, device: torch.device) -> None:
        if self._loaded is not None and self._loaded[0] != model:
            self._loaded = None
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _matmul(self, device: torch.device) -> float:
        if self._rate is None:
            sizes = {} if device.type == "cuda" else {"size": 256, "dtype": torch.float32}
            self._rate = matmul_rate(device, **sizes)
        return self._rate


def _seconds(stages: Mapping[str, Seconds]) -> float:
    return sum(seconds.wall for seconds in stages.values())
