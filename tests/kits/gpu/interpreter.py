"""Triton without a GPU: kernels in its interpreter."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from seedvr2_core.kernels.switches import switched


@contextmanager
def interpreted() -> Iterator[None]:
    """Run our kernels on tensors of the CPU, by Triton's interpreter.

    Skips the test where Triton is missing, or was loaded for a GPU by this process.
    """
    if "triton" not in sys.modules:
        # Triton's own library of functions is made for the interpreter or for a GPU as it loads.
        os.environ["TRITON_INTERPRET"] = "1"
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("this process has loaded Triton for a GPU")
    # numpy warns of lanes that are masked afterwards.
    with switched(interpret=True), np.errstate(all="ignore"):
        yield
