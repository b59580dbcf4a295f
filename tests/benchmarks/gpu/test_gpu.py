"""The one command for a GPU: it runs without one, needs few packages, and keeps what it has."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import parse, worker_command
from benchmarks.gpu.pieces import plain_steps
from benchmarks.gpu.repeat import STREAMED
from benchmarks.gpu.report import DeviceLostError, LineReport, finished_parts
from benchmarks.gpu.sections import run_all
from seedvr2_core.kernels.switches import Switches, switched

ROOT = Path(__file__).parents[3]
PARTS = [
    *("device", "kernels", "golden", "transfers", "piece", "repeat", "convs", "attention"),
    "switches",
]
BLOCKED = ("av", "prefect", "pydantic", "httpx", "typer", "rich", "fastapi", "imageio_ffmpeg")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.long
def test_the_whole_run_with_torch_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    code = f"""
import os, runpy, sys
for name in {(*BLOCKED, "pytest")!r}:
    sys.modules[name] = None
_, pipe = os.pipe()
sys.argv = ["gpu", "--device", "cpu", "--out", {str(tmp_path / "out.jsonl")!r}]
sys.argv += ["--worker", str(pipe)]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    report = lines(tmp_path / "out.jsonl")
    assert [line["part"] for line in report if line["name"] == "done"] == PARTS
    by_part = {part: [line for line in report if line["part"] == part] for part in PARTS}
    (confined,) = (line for line in by_part["device"] if line["name"] == "confined child")
    assert (confined["reached_cuda"], confined["worked"]) == ("no GPU here", True), confined
    assert sum("finite" in line for line in by_part["convs"]) == 12 * 2 * 2
    parity = [line for line in by_part["kernels"] if line["name"].startswith("parity")]
    assert all(0 <= error <= 1 for line in parity for error in line["errors"].values())
    assert {"dit_t7_a", "a_stream_dec_t4_3x3"} <= {line["name"] for line in by_part["golden"]}
    fast, plain = (line for line in by_part["piece"] if "per_100_frames" in line)
    assert (fast["name"], plain["name"]) == ("fast", "plain")
    assert {"encode", "dit", "decode", "finish"} <= set(fast["stages"])
    assert fast["per_100_frames"]["share_of_floor"] > 0
    repeats = {line["name"]: line for line in by_part["repeat"] if "same_bits" in line}
    assert set(repeats) == {
        *("first", "again", "taken up", "unaided", "half of the card taken"),
        *(f"{name}{again}" for name in STREAMED for again in ("", ", again")),
    }
    assert all(line["same_bits"] for line in repeats.values()), repeats
    assert all(line["planned_peak"] > 0 for line in repeats.values())
    tried = {line["name"] for line in by_part["switches"]}
    assert {f"without {name}" for name in plain_steps()} <= tried


def test_a_part_that_fails_is_told_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(report: LineReport, device: object) -> None:
        report.line("half done", value=1)
        raise ZeroDivisionError("no")

    monkeypatch.setattr("benchmarks.gpu.convs.run", fail)
    monkeypatch.setattr("benchmarks.gpu.golden.run", lambda report, device: report.line("here"))
    path = tmp_path / "out.jsonl"
    with LineReport(path, began=time.perf_counter(), seconds=60) as report:
        run_all(report, device="cpu", only="convs,golden", long=False)
        # Each line is in the file as soon as it is measured.
        names = [(line["part"], line["name"]) for line in lines(path)]
    assert report.exit_code == 1
    assert names[:3] == [("convs", "half done"), ("convs", "error"), ("convs", "done")]
    assert ("golden", "here") in names


def test_parts_without_time_are_named(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with LineReport(path, began=time.perf_counter() - 61, seconds=60) as report:
        run_all(report, device="cpu", only="kernels", long=False)
    assert report.exit_code == 0
    assert [line["name"] for line in lines(path)] == ["left out", "done"]


def test_plain_takes_no_step() -> None:
    """Each switch of a step is there, and off: the first of the ways where it has several."""
    off = plain_steps()
    with switched(**off) as plain:
        assert plain.frame_attention == "chunks"
        assert plain.dit_attention == "default"
        assert not any(value is True for name, value in off.items())
    steps = {name for name in Switches.__dataclass_fields__ if name not in off}
    assert steps == {"on_cpu", "triton", "interpret"}


def test_an_attempt_that_fails_ends_itself_alone(tmp_path: Path) -> None:
    """Also one that ends like a program, as a check of activations does."""
    path = tmp_path / "out.jsonl"
    with LineReport(path, began=time.perf_counter(), seconds=60) as report:
        with report.part("piece"):
            assert report.attempt("good", lambda: report.line("good", value=1))
            assert not report.attempt("bad", lambda: sys.exit("activations"))
            assert not report.attempt("worse", lambda: [][0])
        with report.part("next"):
            sys.exit("as well")
    names = [(line["part"], line["name"], line.get("error", "")) for line in lines(path)]
    assert report.exit_code == 1
    assert names == [
        ("piece", "good", ""),
        ("piece", "bad", "SystemExit: activations"),
        ("piece", "worse", "IndexError: list index out of range"),
        ("piece", "done", ""),
        ("next", "error", "SystemExit: as well"),
        ("next", "done", ""),
    ]
    assert finished_parts(path) == ["piece", "next"]


def test_after_a_lost_device_a_new_process_goes_on_without_what_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(report: LineReport, device: object) -> None:
        report.line("half", value=1)
        report.attempt("bad kernel", lambda: [][0])

    monkeypatch.setattr("benchmarks.gpu.report.device_is_lost", lambda: True)
    monkeypatch.setattr("benchmarks.gpu.convs.run", fail)
    monkeypatch.setattr("benchmarks.gpu.golden.run", lambda report, device: report.line("here"))
    path, only = tmp_path / "out.jsonl", "golden,convs"
    options = parse(["--out", str(path), "--device", "cpu", "--only", only])
    with (
        pytest.raises(DeviceLostError) as lost,
        LineReport(path, began=time.perf_counter(), seconds=60) as report,
    ):
        run_all(report, device="cpu", only=only, long=False)
    assert finished_parts(path) == ["golden"]
    skip = [*options.skip, lost.value.attempt]
    command = worker_command(options, skip=skip, seconds=50, more=True, pipe=7)
    assert command[1:3] == ["-m", "benchmarks.gpu"]
    again = parse(command[3:])
    assert (again.skip, again.more, again.seconds) == (["convs/bad kernel"], True, 50)
    assert again.worker == 7
    with LineReport(
        again.out, began=time.perf_counter(), seconds=60, skip=again.skip, go_on=again.more
    ) as report:
        run_all(report, device="cpu", only=again.only, long=False, done=finished_parts(path))
    assert report.exit_code == 1, "what was left out is not forgotten"
    assert [line["name"] for line in lines(path)][-3:-1] == ["half", "bad kernel"]
    assert lines(path)[-2]["reason"].startswith("left out")
    assert finished_parts(path) == ["golden", "convs"]


@pytest.mark.long
def test_tests_for_a_gpu_import_few_packages() -> None:
    """All but the one that restores a video through a child, which needs all of them."""
    files = [
        path.relative_to(ROOT)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "@pytest.mark.gpu" in path.read_text() and path.parent.name not in ("child", "gpu")
    ]
    assert len(files) > 4
    modules = [str(path.with_suffix("")).replace("/", ".") for path in files]
    code = f"""
import importlib, sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
