"""Tiny tensors: on one thread, where more only wait for each other."""

from collections.abc import Iterator

import pytest
import torch

from seedvr2_core.kernels.switches import switched


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["cpu", pytest.param("gpu_path", marks=pytest.mark.slow)])
def either_path(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module as on a CPU, and once more the way that a GPU goes (references of kernels)."""
    with switched(on_cpu=request.param == "gpu_path"):
        yield
