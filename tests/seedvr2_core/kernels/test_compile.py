"""Our kernels compile for Hopper as they are launched at 1080p; no GPU takes part."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seedvr2_core.kernels.kernel import has_triton

ROOT = Path(__file__).parents[3]
WIDE = ("_part_sums", "_map", "_add", "_attend", "_norm_rows", "_add_rows", "_join_heads")
"""Kernels that read rows of channels, which 16 bytes an access are right for."""
FIGURES = ("_join_parts", "_down", "_across")
"""Kernels that read a few numbers, or pictures of any width."""


@pytest.mark.long
@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_kernels_compile_for_hopper(tmp_path: Path) -> None:
    """In half precision: wide accesses to memory, nothing spilled, products by wgmma."""
    # A process of its own, which loads Triton for a GPU; this one may load it for the interpreter.
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
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
    assert {k["kernel"] for k in kernels} == {*WIDE, *FIGURES}
    for kernel in kernels:
        assert kernel["stack"] == kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= 227 * 1024, kernel
        assert kernel["registers"] <= 255, kernel
        if kernel["kernel"] in WIDE:
            assert any("v4.b32" in load for load in kernel["loads"]), kernel
        if kernel["kernel"] in ("_map", "_add", "_attend"):
            assert kernel["stores"] == ["st.global.v4.b32"], kernel
        if kernel["kernel"] == "_attend":
            assert kernel["wgmma"] > 0, kernel
