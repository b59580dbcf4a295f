"""Compile our kernels for Hopper on a machine without a GPU, at production shapes.

`python -m tests.kits.gpu.compile_kernels` prints a line of JSON for each kernel of each call:
shared memory, registers, spilled bytes, and the widths of its accesses to global memory.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

META = torch.device("meta")
LAYOUT = torch.channels_last_3d


class Hopper:
    """As much of a driver as compiling needs."""

    def get_current_target(self) -> GPUTarget:
        """An H100."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """The only one."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default one."""
        return device


def compile_call(call: Callable[[], object]) -> list[tuple[str, Any]]:
    """The kernels that a call would launch, compiled; tensors may be on "meta"."""
    found: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, **kwargs: Any) -> Any:
        kernel = run(self, *args, **{**kwargs, "warmup": True})
        found.append((self.fn.__name__, kernel))
        return kernel

    driver.set_active(Hopper())
    JITFunction.run = compile_only
    try:
        call()
    finally:
        JITFunction.run = run
    return found


def describe(name: str, kernel: Any) -> dict[str, Any]:
    """Figures of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers = re.search(r"REG:(\d+)", usage)
    stack = re.search(r"STACK:(\d+)", usage)
    ptx = kernel.asm["ptx"]
    return {
        "kernel": name,
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
        "registers": int(registers[1]) if registers else None,
        "stack": int(stack[1]) if stack else None,
        "loads": sorted(set(re.findall(r"ld\.global\S*", ptx))),
        "stores": sorted(set(re.findall(r"st\.global\S*", ptx))),
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
    }


def production_calls(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls of every kernel with shapes and layouts of 1080p."""
    from seedvr2_core.kernels import attention_triton, norm_triton

    tokens = torch.empty((8, 32640, 512), dtype=dtype, device=META)

    def attend() -> None:
        attention_triton.frame_attention(tokens, tokens, tokens, out_FNC=tokens)

    yield "frame_attention 512", attend
    for channels, height, width in ((128, 1104, 1920), (256, 552, 960), (512, 276, 480)):
        x = torch.empty(
            (1, channels, 4, height, width), dtype=dtype, device=META, memory_format=LAYOUT
        )
        buffer = torch.empty(
            (1, channels, 6, height, width), dtype=dtype, device=META, memory_format=LAYOUT
        )
        vector = torch.empty(channels, dtype=dtype, device=META)

        def norm(x: Any = x, vector: Any = vector, out: Any = buffer[:, :, 2:]) -> None:
            norm_triton.norm_silu(
                x,
                vector,
                vector,
                out_BCTHW=out,
                input_bias_C=vector,
                num_groups=32,
                eps=1e-6,
                silu=True,
            )

        def join(x: Any = x, vector: Any = vector) -> None:
            norm_triton.add_bias(x, vector, residual_BCTHW=x, out_BCTHW=x)

        yield f"norm_silu {channels}", norm
        yield f"add_bias {channels}", join


def main() -> int:
    """Compile everything in half precision."""
    for dtype in (torch.float16, torch.bfloat16):
        for call_name, call in production_calls(dtype):
            for name, kernel in compile_call(call):
                about = {"call": call_name, "dtype": str(dtype)} | describe(name, kernel)
                print(json.dumps(about), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
