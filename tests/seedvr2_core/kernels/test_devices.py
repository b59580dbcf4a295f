"""The table of devices: chosen by capability, and asked for nowhere else."""

import ast
import re
from pathlib import Path

import pytest
import torch

from seedvr2_core.kernels import devices, kernel
from seedvr2_core.kernels.devices import (
    AMD,
    CPU,
    MPS,
    ability_of,
    kind_of,
    nvidia_ability,
    on_gpu,
    untested_here,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("capability", "attention", "triton", "tested"),
    [
        ((7, 0), "default", False, False),
        ((7, 5), "default", False, False),
        ((8, 0), "flash", True, False),
        ((8, 6), "flash", True, False),
        ((8, 9), "flash", True, False),
        ((9, 0), "cudnn", True, False),
        ((10, 0), "cudnn", True, False),
        ((10, 3), "cudnn", True, False),
        ((12, 0), "flash", True, False),
        ((12, 1), "flash", True, False),
    ],
)
def test_a_generation_gets_what_it_has(
    capability: tuple[int, int], attention: str, triton: bool, tested: bool
) -> None:
    row = nvidia_ability(capability)
    assert (row.attention, row.triton, row.tested) == (attention, triton, tested)
    assert row.dit_dtype == "bfloat16"


def test_devices_that_are_no_nvidia_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ability_of("cpu") is CPU
    assert ability_of("mps") is MPS
    hopper = nvidia_ability((9, 0))
    assert ability_of("meta") is hopper
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ability_of("cuda:7") is hopper
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert ability_of("cuda:0") is AMD


@pytest.mark.parametrize(
    ("capability", "installed", "runs"),
    [((9, 0), True, True), ((8, 6), True, True), ((7, 5), True, False), ((9, 0), False, False)],
)
def test_where_kernels_of_our_own_run(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], installed: bool, runs: bool
) -> None:
    monkeypatch.setattr(kernel, "has_triton", lambda: installed)
    monkeypatch.setattr(kernel, "ability_of", lambda device: nvidia_ability(capability))
    kernel._runs_triton.cache_clear()
    try:
        assert devices.runs_own_kernels("cuda:0") == runs
    finally:
        kernel._runs_triton.cache_clear()
    assert not devices.runs_own_kernels("cpu")


@pytest.mark.parametrize(
    ("device", "is_gpu"), [("cpu", False), ("cuda:0", True), ("cuda", True), ("mps", False)]
)
def test_what_has_streams(device: str, is_gpu: bool) -> None:
    assert on_gpu(device) == on_gpu(torch.device(device)) == is_gpu


def test_an_untested_card_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind_of("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda d: f"card {d}")
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda d: (9, 0) if str(d) == "cuda:0" else (8, 9)
    )
    first, told = untested_here()
    assert "card cuda:0 is Hopper (SM 9), which the model has not been tried on" in first
    assert "card cuda:1 is Ampere or Ada (SM 8), which the model has not been tried on" in told
    assert "bfloat16, flash attention, kernels of our own; seedvr2 selfcheck" in told


def test_no_other_code_of_the_core_asks_for_a_kind_of_device() -> None:
    """Documentation may name one; code compares with none."""
    asks = re.compile(r"""\.type\s*[!=]=\s*["'](?!cpu|meta)|startswith\(["']cuda|["']mps["']""")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("seedvr2_core", "tasks", "flows", "deployments")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(devices.__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if asks.search(line)
    ]
    assert not found


NAMED_IN = {"deployments/gateway/answers.py": "an example of an answer"}


def test_no_other_code_names_a_gpu() -> None:
    """`gpu_name` makes such names; only texts for people quote one."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for folder in ("seedvr2_core", "tasks", "flows", "deployments")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(devices.__file__) and str(path.relative_to(ROOT)) not in NAMED_IN
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"(cuda|mps|hip|rocm)(:\d*)?", node.value)
    ]
    assert not found
