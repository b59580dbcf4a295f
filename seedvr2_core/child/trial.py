"""Tries a device from a process that is confined as the child is: does the work of an engine pass?

`python -m seedvr2_core.child.trial DEVICE [--memory-bytes N]` takes the same rights from itself as
the child, in the same order, then does a little of what a session does: allocate, copy up and down
through pinned memory on a stream of its own, multiply, convolve, run a kernel of ours. The last
line that it prints says what it reached. It needs torch and numpy alone.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping

from seedvr2_core.child.confine import MISSING, confine
from seedvr2_core.child.memory import bound_memory, machine_bytes, unbounded_memory

REACHED = "reached "
"""What the last line of a trial that passed begins with."""
SECONDS = 300.0
"""Longest trial: the first kernel is compiled, and CUDA's libraries come from a slow disk."""


def try_device(device: str, *, environment: Mapping[str, str] | None = None) -> tuple[bool, str]:
    """Let a confined process of its own try a device.

    Args:
        device: torch device string.
        environment: of the process; None: this one's.

    Returns:
        Whether it passed, and what it reached or why it did not, in words.
    """
    command = [sys.executable, "-P", "-m", "seedvr2_core.child.trial", device]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {SECONDS:g} s"
    last = (ended.stdout.splitlines() or [""])[-1]
    if ended.returncode == 0 and last.startswith(REACHED):
        return True, last.removeprefix(REACHED)
    lines = [line for line in (ended.stderr or ended.stdout).splitlines() if line.strip()]
    return False, lines[-1][:300] if lines else f"exit code {ended.returncode}"


def main() -> int:
    """Confine this process and try the device."""
    parser = argparse.ArgumentParser(prog="seedvr2_core.child.trial")
    parser.add_argument("device", help="cuda:N or cpu")
    parser.add_argument("--memory-bytes", type=int, default=machine_bytes())
    told = parser.parse_args()
    parts = confine()
    bound_memory(told.memory_bytes)
    with unbounded_memory(told.device):
        name = _work_on(told.device)
    missing = [words for words, held in parts.items() if not held]
    if missing:
        print(MISSING + "; ".join(missing))  # noqa: T201 - the answer to who started us
    print(REACHED + name)  # noqa: T201
    return 0


def _work_on(device: str) -> str:
    """Do a little of everything that an engine does; returns what the device is called."""
    import torch
    from torch.nn import functional

    from seedvr2_core.kernels.devices import on_gpu
    from seedvr2_core.kernels.dit import add_rows

    where = torch.device(device)
    is_gpu = on_gpu(where)
    if is_gpu and not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU in a confined process")
    dtype = torch.float16 if is_gpu else torch.float32
    sent = torch.ones((256, 256), dtype=dtype, pin_memory=is_gpu)
    stream = torch.cuda.Stream(where) if is_gpu else None
    with torch.cuda.stream(stream):
        x = sent.to(where, non_blocking=True)
        product = x @ x
        picture = functional.conv3d(x.view(1, 4, 4, 64, 64), x.new_ones((4, 4, 3, 3, 3)))
        rows = torch.arange(256, device=where)
        total = product.float()
        add_rows(total, rows, x.float())
        back = torch.empty((256, 256), pin_memory=is_gpu)
        back.copy_(total, non_blocking=True)
        if stream is not None:
            stream.synchronize()
    if not bool((back == 257).all()) or not bool((picture == 108).all()):
        raise ArithmeticError(f"{device} computes wrong values in a confined process")
    return torch.cuda.get_device_name(where) if is_gpu else "cpu"


if __name__ == "__main__":
    sys.exit(main())
