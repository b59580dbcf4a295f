"""The VAE as on a CPU, and the way that a GPU goes."""

from collections.abc import Iterator

import pytest

from seedvr2_core.kernels.switches import switched


@pytest.fixture(scope="module", params=["cpu", pytest.param("gpu_path", marks=pytest.mark.long)])
def either_path(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module as on a CPU, and once more the way that a GPU goes (references of kernels)."""
    with switched(on_cpu=request.param == "gpu_path"):
        yield
