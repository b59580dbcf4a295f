"""Kernels of our own against their references, in Triton's interpreter and on a GPU.

On a machine with a GPU: `pytest --noconftest -m gpu tests/seedvr2_core/kernels`.
"""

import importlib

import pytest
import torch

from benchmarks.model.kernel_cases import DTYPES, KernelCase, all_cases, run_case
from seedvr2_core.kernels.kernel import Cost, Kernel, observed, uses_triton
from seedvr2_core.kernels.norm import norm_moments, norm_rows, norm_silu
from seedvr2_core.kernels.switches import switched, switches
from tests.kits.gpu.interpreter import interpreted

CPU = torch.device("cpu")
CASES = [
    pytest.param(case, id=case.name, marks=[pytest.mark.long] if case.slow else [])
    for case in all_cases()
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_kernel_in_the_interpreter(case: KernelCase, dtype: torch.dtype) -> None:
    with interpreted():
        assert run_case(case, dtype, CPU) <= 1


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_reference_in_every_dtype(case: KernelCase, dtype: torch.dtype) -> None:
    assert run_case(case, dtype, CPU) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_both_halves_of_the_norm_have_its_bits_in_the_interpreter(dtype: torch.dtype) -> None:
    x = 5 + torch.randn((1, 24, 2, 11, 7), generator=torch.Generator().manual_seed(1)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    weight, bias, input_bias = torch.linspace(-1, 2, 72).to(dtype).split(24)
    how = {"input_bias_C": input_bias, "num_groups": 4, "eps": 1e-6}
    whole, parts, moments = torch.empty_like(x), torch.zeros_like(x), torch.empty((2, 2, 24))
    with interpreted():
        norm_silu(x, weight, bias, out_BCTHW=whole, silu=True, **how)
        norm_moments(x, weight, moments_F2C=moments, **how)
        for rows in (slice(0, 4), slice(4, 5), slice(5, 11)):
            norm_rows(
                x[..., rows, :],
                moments,
                bias,
                out_BCTHW=parts[..., rows, :],
                input_bias_C=input_bias,
                silu=True,
            )
    assert torch.equal(parts, whole)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_kernel_on_a_gpu(case: KernelCase, dtype: torch.dtype) -> None:
    assert run_case(case, dtype, torch.device("cuda:0")) <= 1


def _arguments(device: str) -> dict[str, object]:
    x = torch.ones((1, 4, 2, 3, 5), dtype=torch.float16, device=device)
    vector = torch.ones(4, dtype=torch.float16, device=device)
    return {
        "x_BCTHW": x,
        "weight_C": vector,
        "bias_C": vector,
        "out_BCTHW": torch.empty_like(x),
        "num_groups": 2,
        "eps": 1e-6,
        "silu": True,
    }


def test_a_call_tells_its_cost_and_does_nothing_on_meta() -> None:
    seen: list[tuple[str, Cost]] = []
    with observed(lambda name, cost: seen.append((name, cost))):
        norm_silu(**_arguments("meta"))
    norm_silu(**_arguments("meta"))  # nobody listens
    ((name, cost),) = seen
    assert name == "norm_silu"
    assert (cost.read, cost.written, cost.launches) == (2 * 240 + 16, 240, 3)


def test_triton_runs_on_a_gpu_or_where_the_interpreter_is_asked_for() -> None:
    gpu = torch.device("cuda")
    assert not uses_triton(CPU)
    with switched(triton=False):
        assert not uses_triton(gpu)
    with switched(interpret=True):
        assert uses_triton(CPU) == uses_triton(gpu)


def test_switches_are_back_after_an_error() -> None:
    before = switches()

    def fail() -> None:
        with switched(fused_norm=False):
            assert not switches().fused_norm
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert switches() == before
    with pytest.raises(TypeError), switched(no_such_step=True):
        pass


def test_every_kernel_has_cases() -> None:
    kernels = {id(case.kernel) for case in all_cases()}
    made = {id(value) for name in ("attention", "norm") for value in _kernels_of(name)}
    assert made <= kernels


def _kernels_of(module: str) -> list[Kernel[...]]:
    found = vars(importlib.import_module(f"seedvr2_core.kernels.{module}"))
    return [value for value in found.values() if isinstance(value, Kernel)]
