"""What doctor says of a machine, and when it calls it unusable."""

from pathlib import Path
from typing import Any

import pytest
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from deployments.cli import doctor
from deployments.cli.doctor import (
    DoctorCheck,
    Report,
    _check_clock,
    _check_confined_devices,
    _check_confinement,
    conv_check,
    driver_check,
    examine,
)
from seedvr2_core.selfcheck import convolutions as device_check
from seedvr2_core.selfcheck.convolutions import ConvCheck, ConvShape, DeviceReport
from tasks.settings import Settings
from tests.kits.http.edge import faulty_edge
from tests.kits.http.s3 import line_to
from tests.kits.processes import ROOT


def conv(verdict: device_check.Verdict, channels: int, **changes: Any) -> ConvCheck:
    shape = ConvShape(in_channels=channels, out_channels=channels, frames=4, height=752, width=1280)
    return ConvCheck(
        **{
            "shape": shape,
            "dtype": "float16",
            "verdict": verdict,
            "reason": "",
            "error": 2e-4,
            "tolerance": 1e-3,
            "tflops": 500.0,
            "share": 0.625,
            **changes,
        }
    )


def report(*convs: ConvCheck) -> DeviceReport:
    return DeviceReport(
        device="cuda:0",
        kind="Test card",
        torch_version="2.0",
        cudnn_version=90100,
        matmul_tflops=800.0,
        convs=convs,
    )


def test_good_convolutions_are_one_line_with_figures() -> None:
    line = conv_check(report(conv("ok", 128), conv("ok", 256)), torch.float16)
    assert (line.mark, line.name) == ("ok", "conv cuda:0 float16")
    assert line.told == (
        "ok: 128 channels 500 TFLOP/s (62% of a matrix product) error 0.0002, "
        "256 channels 500 TFLOP/s (62% of a matrix product) error 0.0002"
    )


def test_the_worst_convolution_decides() -> None:
    slow = conv("slow", 128, tflops=20.0, share=0.025, reason="2.5% of the rate")
    wrong = conv("wrong", 512, error=0.3, reason="relative rms error 0.3")
    line = conv_check(report(conv("ok", 256), slow), torch.float16)
    assert (line.ok, line.mark) == (True, "note")
    assert "slow: 256 channels" in line.told
    assert "2.5% of the rate: torch 2.0, cuDNN 90100" in line.told
    line = conv_check(report(slow, wrong), torch.float16)
    assert (line.ok, line.mark) == (False, "FAIL")
    assert "WRONG" in line.told
    assert "do not restore" in line.told


def test_a_busy_gpu_is_no_failure() -> None:
    busy = conv("unchecked", 128, error=None, tflops=None, share=None, reason="out of memory")
    line = conv_check(report(busy), torch.float16)
    assert (line.ok, line.mark) == (True, "note")
    assert not conv_check(report(conv("failed", 128, reason="no kernel")), torch.float16).ok


KERNEL = (
    "NVRM version: NVIDIA UNIX {kind} Kernel Module  {version}  Release Build  (dvs-builder)\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)


@pytest.mark.parametrize(
    ("version", "cuda", "mark", "told"),
    [
        ("550.54.15", "12.8", "ok", "NVIDIA 550.54.15; torch with CUDA 12.8 needs 525.60.13"),
        ("550.54.15", "13.0", "FAIL", "needs 580.65.06 or newer: install a newer driver"),
        ("580.65.06", "13.0", "ok", "NVIDIA 580.65.06"),
        (None, "13.0", "note", "no NVIDIA driver; torch with CUDA 13.0 needs 580.65.06"),
        (None, None, "note", "no NVIDIA driver"),
        ("550.54.15", None, "note", "torch is a build without CUDA"),
        ("550.54.15", "14.1", "note", "not checked"),
    ],
)
@pytest.mark.parametrize("kind", ["x86_64", "Open Kernel Module for x86_64"])
def test_the_driver_is_compared_with_what_torch_was_built_for(
    version: str | None, cuda: str | None, mark: str, told: str, kind: str
) -> None:
    text = version and KERNEL.format(kind=kind, version=version)
    line = driver_check(text, cuda)
    assert (line.name, line.mark) == ("driver", mark)
    assert told in line.told


def test_the_pages_state_the_oldest_driver_for_each_cuda_of_ours() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    for major in (12, 13):
        assert f"{doctor.MIN_DRIVERS[major]} for CUDA {major}" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="says so only where no GPU is")
def test_without_gpu_and_weights_it_is_usable_and_says_what_is_missing(tmp_path: Path) -> None:
    found = examine(Settings(work_dir=tmp_path))
    lines = {check.name: check for check in found.checks}
    assert lines["conv3d"].told == "convolutions not checked: no GPU"
    assert {"span", "lanczos"} <= set(found.engines)
    missing = lines["seedvr2-7b"]
    assert (missing.ok, missing.mark) == (True, "note")
    assert "weights" in missing.told
    assert found.usable
    assert "note  seedvr2-7b" in found.as_text()


def test_no_engine_or_a_failed_check_is_unusable() -> None:
    fine = DoctorCheck(name="a", ok=True, told="")
    assert Report(checks=[fine], engines=["span"]).usable
    assert not Report(checks=[fine], engines=[]).usable
    assert not Report(
        checks=[fine, DoctorCheck(name="b", ok=False, told="")], engines=["span"]
    ).usable


def test_it_says_where_outputs_go_and_whether_the_storage_takes_the_key(tmp_path: Path) -> None:
    told = storage_line(Settings(work_dir=tmp_path, public_url="http://edge.example"))
    assert told == (True, f"local folder {tmp_path}/output, links http://edge.example")
    with faulty_edge(tmp_path / "edge") as edge:
        ok, told = storage_line(edge.settings(tmp_path))
        assert ok
        assert told == f"zone zone at {edge.url} takes the key, links at {edge.url}"
        ok, told = storage_line(edge.settings(tmp_path, bunny_storage_key=None))
        assert not ok
        assert "needs BUNNY_STORAGE_KEY" in told
        ok, told = storage_line(edge.settings(tmp_path, bunny_storage_key=SecretStr("another")))
        assert not ok
        assert "must be the password of the storage zone zone" in told


def storage_line(settings: Settings) -> tuple[bool, str]:
    line = next(check for check in examine(settings).checks if check.name == "storage")
    return line.ok, line.told


def test_what_the_child_has_lost_is_a_line() -> None:
    line = _check_confinement(Settings())
    assert line.ok
    parts = ("no_new_privs", "seccomp", "Landlock", "capset")
    assert [part in line.told for part in parts] == [True] * 4, "each is held or missing"
    assert ("cannot give" in line.told) == (line.mark == "note")


def test_a_child_that_keeps_its_rights_is_told() -> None:
    line = _check_confinement(Settings(confine_children=False))
    assert line.mark == "note"
    assert "SEEDVR2_CONFINE_CHILDREN is off" in line.told


def test_every_gpu_is_tried_from_a_confined_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stand-ins for GPUs: one that a confined process reaches, and one that it does not."""
    answers = {"cuda:0": (True, "NVIDIA H100"), "cuda:1": (False, "CUDA error 304")}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(doctor, "try_device", lambda device, environment: answers[device])
    good, bad = _check_confined_devices(Settings())
    assert (good.ok, good.told) == (True, "a confined child reached cuda:0 (NVIDIA H100)")
    assert not bad.ok
    assert bad.told.startswith("a confined child did not reach cuda:1: CUDA error 304; set SEEDVR2")
    assert _check_confined_devices(Settings(confine_children=False)) == []


@pytest.mark.parametrize(
    ("server_ahead", "words"),
    [
        (0, "within 60 s"),
        (3600, "s behind the Prefect server's: a worker here takes jobs late by that"),
        (-3600, "s ahead of the Prefect server's: a worker here takes jobs too early"),
    ],
)
def test_a_clock_that_is_not_the_servers_is_a_failure(
    api_url: str, server_ahead: int, words: str
) -> None:
    with line_to(api_url.removesuffix("/api")) as line:
        line.ahead_seconds = server_ahead
        with temporary_settings({PREFECT_API_URL: f"{line.url}/api"}):
            (check,) = _check_clock()
            line.fail("away", ".", times=100)
            (unknown,) = _check_clock()
    assert check.ok == (server_ahead == 0)
    assert words in check.told
    assert (unknown.mark, unknown.told[:12]) == ("note", "not compared")


def test_without_a_prefect_server_no_clock_is_compared() -> None:
    assert _check_clock() == []
