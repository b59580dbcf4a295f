"""Stages and clocks, on a stand-in for a GPU."""

import os
import types
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from benchmarks.model import timing as model_timing
from benchmarks.model.timing import MemoryWatch, StageClock, gpu_monitor

GPU = cast(torch.device, types.SimpleNamespace(type="cuda"))


class FakeEvent:
    """The n-th event happens n^2 ms after the first."""

    made = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = FakeEvent.made**2
        FakeEvent.made += 1

    def elapsed_time(self, other: "FakeEvent") -> float:
        return other.at - self.at


@pytest.fixture
def _fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEvent.made = 0
    values = {
        "Event": FakeEvent,
        "synchronize": lambda device: None,
        "current_device": lambda: 0,
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: 50,
        "max_memory_reserved": lambda device: 60,
        "memory_reserved": lambda device: 55,
        "mem_get_info": lambda device: (35, 100),
    }
    for name, value in values.items():
        monkeypatch.setattr(torch.cuda, name, value)


@pytest.mark.usefixtures("_fake_gpu")
def test_every_moment_belongs_to_the_innermost_stage() -> None:
    clock = StageClock(GPU)
    clock.start()  # 0
    with clock.stage("outer"):  # 1
        with clock.stage("inner"):  # 4 to 9
            pass
        clock.enter("inner")  # 16
        clock.leave()  # 25
    spent = clock.stop()  # 36, 49
    device = {name: 1000 * seconds.device for name, seconds in spent.items()}
    assert device == pytest.approx({"other": 1 + 13, "outer": 3 + 7 + 11, "inner": 5 + 9})
    assert all(seconds.wall >= 0 for seconds in spent.values())


def test_stages_by_the_wall_clock() -> None:
    clock = StageClock(torch.device("cpu"))
    clock.start()
    with clock.stage("a"):
        pass
    spent = clock.stop()
    assert spent["a"].device == spent["a"].wall > 0


@pytest.mark.usefixtures("_fake_gpu")
def test_peaks_of_a_phase() -> None:
    watch = MemoryWatch(GPU)
    with watch.phase("encode"):
        pass
    peak = watch.peaks["encode"]
    assert (peak.allocated, peak.reserved, peak.outside) == (50, 60, 10)


@pytest.mark.usefixtures("_fake_gpu")
def test_clocks_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with gpu_monitor(GPU) as figures:
        pass
    assert set(figures.values()) == {None}
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        "echo 1980, 2619, 350.5, 40, 99\n"
        "echo 1900, 2619, [N/A], 41, 98\n"
        f"/bin/touch {tmp_path}/done\nexec /bin/sleep 60\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + "/bin")
    with gpu_monitor(GPU) as figures:
        while not (tmp_path / "done").exists():
            pass
    found: dict[str, Any] = dict(figures)
    assert found["clocks.sm"] == {"median": 1940, "min": 1900, "max": 1980}
    assert found["power.draw"] == {"median": 350.5, "min": 350.5, "max": 350.5}
    assert model_timing._summaries([]) == {}
