"""The check of convolutions: what is right passes, what is wrong is seen."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seedvr2_core.selfcheck import convolutions as device_check
from seedvr2_core.selfcheck.convolutions import (
    ConvShape,
    check_device,
    judge,
    reference_rows,
    tolerance_of,
)
from seedvr2_core.vae.conv import conv3d

SHAPE = ConvShape(in_channels=32, out_channels=16, frames=2, height=11, width=9)


def check(convolve: Callable[..., Tensor], dtype: torch.dtype) -> device_check.ConvCheck:
    report = check_device("cpu", shapes=[SHAPE], dtypes=[dtype], convolve=convolve)
    return report.convs[0]


@pytest.mark.parametrize("dtype", device_check.DTYPES, ids=str)
def test_the_convolution_in_use_is_right(dtype: torch.dtype) -> None:
    found = check(conv3d, dtype)
    assert (found.verdict, found.reason) == ("ok", "")
    assert found.error is not None
    assert tolerance_of(dtype) / 20 < found.error < tolerance_of(dtype)
    assert (found.tflops, found.share, found.kernels) == (None, None, ())


def turned(x: Tensor, weight: Tensor, bias: Tensor, **how: Any) -> Tensor:
    return conv3d(x, weight.flip(2), bias, **how)


def without_bias(x: Tensor, weight: Tensor, bias: Tensor, **how: Any) -> Tensor:
    return conv3d(x, weight, torch.zeros_like(bias), **how)


def wrong_in_the_last_row(x: Tensor, weight: Tensor, bias: Tensor, **how: Any) -> Tensor:
    y = conv3d(x, weight, bias, **how)
    y[..., -1, :] *= 1.02
    return y


def one_nan(x: Tensor, weight: Tensor, bias: Tensor, **how: Any) -> Tensor:
    y = conv3d(x, weight, bias, **how)
    y[0, 0, 0, 5, 5] = math.nan
    return y


def summed_in_half(x: Tensor, weight: Tensor, bias: Tensor, **how: Any) -> Tensor:
    """Every group of four channels is rounded before it is added."""
    y = conv3d(x[:, :4], weight[:, :4], bias, **how)
    for first in range(4, x.shape[1], 4):
        part = slice(first, first + 4)
        y = y + conv3d(x[:, part], weight[:, part], torch.zeros_like(bias), **how)
    return y


@pytest.mark.parametrize("dtype", device_check.DTYPES, ids=str)
@pytest.mark.parametrize("convolve", [turned, without_bias, wrong_in_the_last_row, one_nan])
def test_a_wrong_convolution_is_seen(convolve: Callable[..., Tensor], dtype: torch.dtype) -> None:
    found = check(convolve, dtype)
    assert found.verdict == "wrong"
    assert "relative rms error" in found.reason


def test_sums_in_half_precision_are_worse_than_rounding_once() -> None:
    once, often = (check(f, torch.float16).error for f in (conv3d, summed_in_half))
    assert once is not None
    assert often is not None
    assert often > 1.5 * once


def test_the_reference_is_a_convolution() -> None:
    x, weight, bias = device_check.make_inputs(SHAPE, torch.float16, torch.device("cpu"))
    whole = torch.nn.functional.conv3d(
        x.double(), weight.double(), bias.double(), padding=(0, 1, 1)
    )
    for rows in (range(0, 4), range(3, 9), range(0, 11)):
        part = reference_rows(x, weight, bias, rows)
        torch.testing.assert_close(part, whole[..., rows.start : rows.stop, :])


def test_what_cannot_run_is_reported() -> None:
    def refuses(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nmore")

    def needs_too_much(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    failed, unchecked = (check(f, torch.float16) for f in (refuses, needs_too_much))
    assert (failed.verdict, failed.reason) == ("failed", "CUDNN_STATUS_NOT_SUPPORTED")
    assert (unchecked.verdict, unchecked.error) == ("unchecked", None)


def test_verdicts() -> None:
    assert judge(1e-4, 1e-3, 0.5)[0] == "ok"
    assert judge(1e-4, 1e-3, 0.05, 26 * 10**9) == (
        "slow",
        "5.0% of the rate of a matrix product, 26.0 GB of scratch memory",
    )
    assert judge(2e-3, 1e-3, 0.05)[0] == "wrong"
    assert judge(math.nan, 1e-3, None)[0] == "wrong"


@pytest.mark.soak
def test_runs_by_itself() -> None:
    command = [sys.executable, "-m", "seedvr2_core.selfcheck.convolutions", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["device"] == "cpu"
    assert {check["verdict"] for check in report["convs"]} == {"ok"}
    assert len(report["convs"]) == 6
