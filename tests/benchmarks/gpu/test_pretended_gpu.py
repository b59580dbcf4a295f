"""The parts of the one command for a GPU, on a pretended one: no step fails on its way there."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import golden, transfers
from benchmarks.gpu.pieces import GpuPieces
from benchmarks.gpu.report import LineReport
from benchmarks.gpu.sections import _as_in_a_job
from seedvr2_core.child import trial
from seedvr2_core.selfcheck.convolutions import CPU_SHAPES, check_device
from tests.kits.gpu.pretended import DEVICE, pretended

TINY: dict[str, Any] = {"model": "tiny", "size": "32x16", "window": 8}
FREE = 4_000_000_000
"""Bytes; half of them are taken in one of the steps."""

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _settings_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _run(folder: Path, part: Callable[[LineReport, torch.device], None]) -> list[dict[str, Any]]:
    """The lines of a part, none of which failed."""
    with (
        pretended(free=FREE) as ledger,
        LineReport(folder / "out.jsonl", began=time.perf_counter(), seconds=1e9) as report,
        _as_in_a_job(),
        report.part("part"),
    ):
        part(report, DEVICE)
    assert report.exit_code == 0
    assert ledger.faults == []
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert not [line for line in lines if "error" in line]
    return lines


def _pieces() -> GpuPieces:
    pieces = GpuPieces()
    pieces._rate = 7e14  # or it would be measured with large matrices
    return pieces


def test_pieces_are_timed_and_weighed(tmp_path: Path) -> None:
    lines = _run(tmp_path, lambda *where: _pieces().compare(*where, **TINY))
    fast, plain = (line for line in lines if "per_100_frames" in line)
    assert (fast["name"], plain["name"]) == ("fast", "plain")
    assert {"encode", "dit", "decode"} <= set(fast["memory"])
    assert fast["per_100_frames"]["device_seconds"] > 0


def test_the_same_work_again(tmp_path: Path) -> None:
    lines = _run(tmp_path, lambda *where: _pieces().repeat(*where, **TINY))
    same = {line["name"]: line["same_bits"] for line in lines if "same_bits" in line}
    assert same == dict.fromkeys(
        ("first", "again", "taken up", "unaided", "half of the card taken"), True
    )


def test_golden_cases(tmp_path: Path) -> None:
    assert len(_run(tmp_path, golden.run)) > 8


def test_what_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "on_gpu", lambda _: False)  # small, but on the GPU
    lines = _run(tmp_path, transfers.run)
    assert {line["name"] for line in lines if line.get("same_bits")} == {
        *("caches, encode", "caches, decode", "parked", "layers", "pictures")
    }


def test_the_trial_of_a_child() -> None:
    with pretended() as ledger:
        assert "H100" in trial._work_on(str(DEVICE))
    assert ledger.faults == []


def test_convolutions_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "seedvr2_core.selfcheck.convolutions"
    monkeypatch.setattr(f"{module}.matmul_rate", lambda _: 7e14)
    monkeypatch.setattr(f"{module}._kernels", lambda *_: ())  # the profiler wants a real one
    with pretended() as ledger:
        report = check_device(DEVICE, shapes=CPU_SHAPES[:1])
    assert ledger.faults == []
    assert [(check.verdict, check.tflops is None) for check in report.convs] == [
        ("slow", False)
    ] * 2
