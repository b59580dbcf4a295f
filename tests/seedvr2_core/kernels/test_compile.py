"""Our kernels compile for Hopper as they are launched at 1080p; no GPU takes part."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seedvr2_core.kernels.kernel import has_triton

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_kernels_compile_for_hopper(tmp_path: Path) -> None:
    """In half precision: 16 bytes an access to memory, nothing spilled, products by wgmma."""
    # A process of its own, which loads Triton for a GPU; this one may load it for the interpreter.
    if not has_triton():
        pytest.skip("Triton is missing")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.kits.gpu.compile_kernels"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert {k["kernel"] for k in kernels} == {
        "_part_sums",
        "_join_parts",
        "_map",
        "_add",
        "_attend",
    }
    for kernel in kernels:
        assert kernel["stack"] == 0, kernel
        assert kernel["shared"] <= 227 * 1024, kernel
        assert kernel["registers"] <= 255, kernel
        if kernel["kernel"] != "_join_parts":
            assert "ld.global.v4.b32" in kernel["loads"], kernel
        if kernel["kernel"] in ("_map", "_add", "_attend"):
            assert kernel["stores"] == ["st.global.v4.b32"], kernel
        if kernel["kernel"] == "_attend":
            assert kernel["wgmma"] > 0, kernel
