"""The transformer's kernels: each against its reference, in Triton's interpreter and on a GPU."""

import pytest
import torch
from torch.nn import functional as F

from benchmarks.model.color_cases import color_cases
from benchmarks.model.dit_cases import dit_cases
from benchmarks.model.kernel_cases import DTYPES, KernelCase, run_case
from seedvr2_core.dit.layers import linear_gelu
from seedvr2_core.dit.rope import pair_table, rotate_, rotation, video_angles
from seedvr2_core.kernels import dit
from seedvr2_core.kernels.switches import switched
from tests.kits.gpu.interpreter import interpreted

CPU = torch.device("cpu")
CASES = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else [])
        for case in (*dit_cases(), *color_cases())
    ],
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@CASES
def test_kernel_in_the_interpreter(case: KernelCase, dtype: torch.dtype) -> None:
    with interpreted():
        assert run_case(case, dtype, CPU) <= 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@CASES
def test_reference_in_every_dtype(case: KernelCase, dtype: torch.dtype) -> None:
    assert run_case(case, dtype, CPU) <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@CASES
def test_kernel_on_a_gpu(case: KernelCase, dtype: torch.dtype) -> None:
    assert run_case(case, dtype, torch.device("cuda:0")) <= 1


def test_rows_that_are_not_named_stay() -> None:
    x_ND, y_MD = torch.randn(7, 40), torch.randn(3, 40)
    rows_M = torch.tensor([5, 0, 3])
    before, normed_MD = x_ND.clone(), torch.empty(3, 40)
    with interpreted():
        dit.add_norm_rows(normed_MD, x_ND, rows_M, y_MD, eps=1e-5)
    left = [1, 2, 4, 6]
    assert torch.equal(x_ND[left], before[left])
    assert torch.equal(x_ND[rows_M], before[rows_M] + y_MD)


@pytest.mark.parametrize("rope", ["lang", "pixel"])
def test_the_table_of_pairs_turns_as_the_complex_numbers_do(rope: str) -> None:
    channels, shape = 32, (2, 3, 4)
    angles_SP = video_angles(rope, channels, shape, 5)  # pyright: ignore[reportArgumentType]
    x_SHK = torch.randn(len(angles_SP), 2, channels)
    cos_S1P, sin_S1P = pair_table(angles_SP, channels)[:, :, None].unbind(1)
    a_SHP, b_SHP = x_SHK.unflatten(-1, (-1, 2)).unbind(-1)
    turned = (a_SHP * cos_S1P - b_SHP * sin_S1P, a_SHP * sin_S1P + b_SHP * cos_S1P)
    wanted = rotate_(x_SHK.clone(), rotation(angles_SP))
    torch.testing.assert_close(torch.stack(turned, -1).flatten(-2), wanted)


def test_gelu_is_the_tanh_form() -> None:
    """As the specification says; the erf form differs by up to 5e-4."""
    x_MD, weight_FD, bias_F = torch.randn(64, 32), torch.randn(48, 32), torch.randn(48)
    hidden_MF = F.linear(x_MD, weight_FD, bias_F)
    for on_cpu in (False, True):
        with switched(on_cpu=on_cpu):
            made_MF = linear_gelu(x_MD, weight_FD, bias_F)
        torch.testing.assert_close(made_MF, F.gelu(hidden_MF, approximate="tanh"))
        assert (made_MF - F.gelu(hidden_MF)).abs().max() > 1e-4


@pytest.mark.gpu
def test_gelu_in_the_epilogue_is_the_tanh_form() -> None:
    """In float32, where the two forms can be told apart."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((256, 64), (128, 64), (128,))
    x, weight, bias = (torch.randn(size, generator=generator).cuda() for size in sizes)
    wanted = F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate="tanh")
    made = linear_gelu(x, weight, bias)
    assert (made - wanted).abs().max() < 5e-5
    assert (made - F.gelu(F.linear(x, weight, bias))).abs().max() > 1e-4
