"""The convolution kernel's wrapper against torch's own, whole and in strips."""

import pytest
import torch
from torch.nn import functional as F

from seedvr2_core.vae import conv
from seedvr2_core.vae.conv import LAYOUT, conv3d

pytestmark = pytest.mark.usefixtures("either_path")
Triple = tuple[int, int, int]
KINDS = [
    pytest.param((3, 3, 3), (1, 1, 1), (1, 1), id="resnet"),
    pytest.param((1, 1, 1), (1, 1, 1), (0, 0), id="shortcut"),
    pytest.param((1, 3, 3), (1, 2, 2), (0, 0), id="down_space"),
    pytest.param((3, 3, 3), (2, 2, 2), (0, 0), id="down_space_time"),
    pytest.param((2, 2, 2), (1, 1, 1), (1, 1), id="folded_Z2"),
    pytest.param((3, 2, 2), (1, 1, 1), (1, 1), id="folded_Z1"),
]


@pytest.mark.parametrize("limit", [1, 700, 1500, 2**31], ids=["row", "few", "half", "whole"])
@pytest.mark.parametrize(("kernel", "stride", "padding"), KINDS)
def test_conv3d_equals_torch(
    monkeypatch: pytest.MonkeyPatch,
    kernel: Triple,
    stride: Triple,
    padding: tuple[int, int],
    limit: int,
) -> None:
    monkeypatch.setattr(conv, "MAX_ELEMENTS", limit)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, 5, 9, 7, generator=generator).double()
    weight = torch.randn(3, 2, *kernel, generator=generator).double()
    bias = torch.randn(3, generator=generator).double()
    got = conv3d(x, weight, bias, stride=stride, padding=padding)
    expected = F.conv3d(x, weight, bias, stride=stride, padding=(0, *padding))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert got.is_contiguous(memory_format=LAYOUT)
