"""Our kernels on ordinary and on nasty inputs, beside their references in float64.

`python -m benchmarks.model.kernel_cases` runs all of them on a GPU, in every dtype, and prints a
line of JSON for each; it ends with an error if one is wrong. It needs torch and triton alone. The
tests run the same cases in Triton's interpreter.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedvr2_core.kernels.kernel import Kernel
from seedvr2_core.kernels.switches import switched

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
Random = Callable[..., Tensor]
"""Sizes -> standard normal numbers of the case's dtype and device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCase:
    """A kernel and how its arguments are made."""

    name: str
    kernel: Kernel[...]
    make: Callable[[Random], dict[str, Any]]
    """The arguments by name; those that begin with "out" are written."""
    outs: tuple[str, ...] = ("out_BCTHW",)
    slow: bool = False
    """Whether the interpreter takes seconds."""
    rounding: float = 1.0
    """Largest error, in units of the dtype's spacing at the value."""
    atol: float = 2e-5
    """What sums in float32 may add to that."""
    relative_atol: float = 0.0
    """The same in units of the dtype's spacing at 1, where half precision is rounded inside."""


def run_case(case: KernelCase, dtype: torch.dtype, device: torch.device) -> float:
    """The largest error in units of what is allowed; at most 1 if the kernel is right."""
    generator = torch.Generator().manual_seed(1)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)

    given = case.make(random)
    exact = {name: _wide(value) for name, value in given.items()}
    case.kernel.reference(**exact)
    case.kernel(**given)
    worst = 0.0
    for name in case.outs:
        got, want = given[name].double(), exact[name]
        spacing = torch.finfo(dtype).eps
        allowed = spacing * (case.rounding * want.abs() + case.relative_atol) + case.atol
        error = ((got - want).abs() / allowed).max().item()
        worst = max(worst, error if error == error else float("inf"))
    return worst


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value


def all_cases() -> list[KernelCase]:
    """Every case of every kernel."""
    from benchmarks.model.color_cases import color_cases
    from benchmarks.model.dit_cases import dit_cases
    from benchmarks.model.vae_cases import vae_cases

    return [*vae_cases(), *dit_cases(), *color_cases()]


def main() -> int:
    """Run on a GPU; the exit code says whether all are right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", default="", help="part of a case's name")
    options = parser.parse_args()
    wrong = 0
    for case in all_cases():
        if options.only not in case.name:
            continue
        for dtype in DTYPES:
            with switched(triton=True):
                error = run_case(case, dtype, torch.device(options.device))
            wrong += error > 1
            about = {"case": case.name, "dtype": str(dtype), "error": error, "right": error <= 1}
            print(json.dumps(about), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
