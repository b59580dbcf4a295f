"""The kernels of transformer and colour compiled for Hopper, by a process that has no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seedvr2_core.kernels.kernel import has_triton

ROOT = Path(__file__).parents[3]
CODE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from seedvr2_core.kernels import color_triton, dit_triton

I32 = "i32"

def build(kernel, warps, constants, **types):
    # As a launch does it: pointers and sizes divide by 16, so that rows are read in wide loads.
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name not in constants and types[name] != "fp32"
    }
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    built = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    text = built.asm["ptx"]
    print(kernel.__name__, "cubin" in built.asm, text.count(".v4."), text.count("st.local"))

for dtype in ("*bf16", "*fp16", "*fp32"):
    row = dict(out=dtype, x="*fp32", rows="*i64", width=I32, eps="fp32")
    build(dit_triton._norm_rows, 8, {"BLOCK": 4096}, **row)
    for norm in (True, False):
        build(dit_triton._add_rows, 8, {"NORM": norm, "BLOCK": 4096}, y=dtype, **row)
    names = ("qkv_row", "video_len", "joined_len", "text_len", "heads", "channels")
    sizes = dict.fromkeys(names, I32)
    build(
        dit_triton._join_heads, 8, {"HEADS": 32, "BLOCK": 128}, joined=dtype, qkv=dtype, text=dtype,
        weights="*fp32", rotation="*fp32", eps="fp32", **sizes,
    )
tile = {"LUMA_REACH": 31, "CHROMA_REACH": 7, "ROWS": 16, "COLUMNS": 128}
planes = dict.fromkeys(("low", "content", "luma_band", "chroma_band"), "*fp32")
sizes = dict.fromkeys(("height", "width", "channel_stride", "row_stride", "column_stride"), I32)
build(color_triton._down, 4, tile, source="*fp32", **planes, **sizes)
for dtype in ("*u8", "*u16", "*fp32"):
    rounds = {"ROUND": dtype != "*fp32"}
    build(color_triton._across, 4, tile | rounds, out=dtype, white="fp32", **planes, **sizes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    """To machine code, without registers spilled; the transformer's rows in wide loads."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    built = [line.split() for line in done.stdout.splitlines()]
    assert len(built) == 3 * 4 + 1 + 3
    for name, has_code, wide, spilled in built:
        assert has_code == "True"
        assert int(spilled) == 0, name
        if "rows" in name or "heads" in name:
            assert int(wide) > 0, f"{name} reads number by number"
