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
from functools import partial
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
        "spilled": ptx.count("st.local"),
        "warps": kernel.metadata.num_warps,
        "registers": int(registers[1]) if registers else None,
        "stack": int(stack[1]) if stack else None,
        "loads": sorted(set(re.findall(r"ld\.global\S*", ptx))),
        "stores": sorted(set(re.findall(r"st\.global\S*", ptx))),
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
    }


def production_calls(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls of every kernel with shapes and layouts of 1080p."""
    yield from _vae_calls(dtype)
    yield from _dit_calls(dtype)
    if dtype == torch.bfloat16:  # colour knows nothing of the model's dtype
        yield from _color_calls()


def _vae_calls(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    from seedvr2_core.kernels import attention_triton, norm_triton

    tokens = torch.empty((8, 32640, 512), dtype=dtype, device=META)
    for tile in attention_triton.TILES:
        yield (
            f"frame_attention 512 {tile}",
            partial(
                attention_triton.frame_attention, tokens, tokens, tokens, out_FNC=tokens, tile=tile
            ),
        )
    for channels, height, width in ((128, 1104, 1920), (256, 552, 960), (512, 276, 480)):
        how = {"dtype": dtype, "device": META, "memory_format": LAYOUT}
        x = torch.empty((1, channels, 4, height, width), **how)
        # A part of a larger buffer, and a frame of a ring whose rows come first.
        buffer = torch.empty((1, channels, 6, height, width), **how)[:, :, 2:]
        ring = torch.empty((1, channels, height + 2, 3, width), **how).transpose(2, 3)
        vector = torch.empty(channels, dtype=dtype, device=META)
        for name, given, out in (
            ("into a buffer", x, buffer),
            ("into a ring", x[:, :, :1], ring[:, :, 1:2, 1 : height + 1]),
        ):
            norm = partial(
                norm_triton.norm_silu,
                given,
                vector,
                vector,
                out_BCTHW=out,
                input_bias_C=vector,
                num_groups=32,
                eps=1e-6,
                silu=True,
            )
            yield f"norm_silu {channels} {name}", norm
        add = partial(norm_triton.add_bias, x, vector, residual_BCTHW=x, out_BCTHW=x)
        yield f"add_bias {channels}", add


def _dit_calls(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], object]]]:
    """65,536 rows of the 3B and the 7B; 23 windows of 2,835 tokens and 58 of text."""
    from seedvr2_core.kernels import dit_triton

    rows = torch.empty(65_536, dtype=torch.int64, device=META)
    for width, heads in ((2560, 20), (3072, 24)):
        x = torch.empty((200_000, width), device=META)
        y = torch.empty((len(rows), width), dtype=dtype, device=META)
        yield f"norm_rows {width}", partial(dit_triton.norm_rows, y, x, rows, eps=1e-5)
        yield f"add_rows {width}", partial(dit_triton.add_rows, x, rows, y)
        yield f"add_norm_rows {width}", partial(dit_triton.add_norm_rows, y, x, rows, y, eps=1e-5)
        sizes = {
            "joined_3WJHK": (3, 23, 2893, heads, 128),
            "qkv_M3HK": (23 * 2835, 3, heads, 128),
            "text_3LHK": (3, 58, heads, 128),
        }
        given = {k: torch.empty(size, dtype=dtype, device=META) for k, size in sizes.items()}
        tables = {"weights_2K": (2, 128), "rotation_S2P": (2835, 2, 64)}
        given |= {name: torch.empty(size, device=META) for name, size in tables.items()}
        yield f"join_heads {heads}", partial(dit_triton.join_heads, **given, eps=1e-5)


def _color_calls() -> Iterator[tuple[str, Callable[[], object]]]:
    from seedvr2_core.kernels import color_triton

    planes = torch.empty((3, 1080, 1920), device=META)
    reach = (63, 15)
    bands_y, bands_x = (
        tuple(torch.empty((length, taps), device=META) for taps in reach) for length in (1080, 1920)
    )
    for dtype in (torch.uint8, torch.uint16, torch.float32):
        out = torch.empty((1080, 1920, 3), dtype=dtype, device=META)
        yield (
            f"wavelet_color {dtype}",
            partial(color_triton.wavelet_color, out, planes, planes, planes, bands_y, bands_x),
        )


def main() -> int:
    """Compile everything that runs on a GPU."""
    for dtype in (torch.float16, torch.bfloat16):
        for call_name, call in production_calls(dtype):
            for name, kernel in compile_call(call):
                about = {"call": call_name, "dtype": str(dtype)} | describe(name, kernel)
                print(json.dumps(about), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
