"""Bounds the memory that the child may ask for, so that a hostile file ends the child and no other.

The bound is Linux's RLIMIT_DATA: private memory that can be written to. A library that asks for
more is refused, and the request fails with one sentence. RLIMIT_AS would count what is mapped to be
read and address space that is only reserved, of which CUDA takes more than any machine has memory.
Work on a GPU is not bounded at all: what its driver takes was never measured.
"""

import contextlib
import math
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from seedvr2_core.errors import ResourceError
from seedvr2_core.planning.plan import MemoryPlan

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of the container that we run in, cgroups version 2 and 1."""
_CGROUP_FILES = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
"""Of both versions: folder, limit, what is taken, and what of that can be had back."""
_KILLS = (
    (r"0::/(.*)", "sys/fs/cgroup", "memory.events"),
    (r"\d+:[^:]*\bmemory\b[^:]*:/(.*)", "sys/fs/cgroup/memory", "memory.oom_control"),
)
"""Of both versions: our line in /proc/self/cgroup, folder, and the file that counts the kills."""
_TORCH_REFUSED = "can't allocate memory"
"""Torch raises RuntimeError with these words where other libraries raise MemoryError."""


def machine_bytes() -> int:
    """Memory of this machine, or of the container that we run in if that is less."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such version, or "max"
            most = min(most, int(Path(path).read_text()))
    return most


def free_host_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may still take: what the machine has to give, or what the container
    is allowed and has not taken yet, if that is less.

    Args:
        root: where /proc and /sys are.
    """
    free = machine_bytes()
    with contextlib.suppress(OSError):
        found = _told_bytes((root / "proc/meminfo").read_text(), "MemAvailable")
        free = free if found is None else found
    left = _left_in_container(root)
    return free if left is None else min(free, left)


def _left_in_container(root: Path) -> int | None:
    """What the container is allowed and has not taken yet; None where it has no limit."""
    least: int | None = None
    for folder, limit, taken, reclaimed in _CGROUP_FILES:
        with contextlib.suppress(OSError, ValueError):  # no such version, or "max"
            allowed = int((root / folder / limit).read_text())
            held = int((root / folder / taken).read_text())
            for line in (root / folder / "memory.stat").read_text().splitlines():
                # The kernel gives up pages of files before it refuses anything.
                if line.startswith(f"{reclaimed} "):
                    held -= int(line.split()[1])
            left = max(0, allowed - max(0, held))
            least = left if least is None else min(least, left)
    return least


def most_taken() -> tuple[int, int]:
    """The most memory that this process has had since it began: of the host, and of its GPU.

    Not by `getrusage`, whose figure begins with the peak of the process that has started this one.

    Returns:
        Bytes of the host, 0 where the system does not tell them; bytes of one GPU that torch has
        reserved, 0 where it has used none.
    """
    host = 0
    with contextlib.suppress(OSError):  # no reason to lose what was just made
        host = _told_bytes(Path("/proc/self/status").read_text(), "VmHWM") or 0
    torch = sys.modules.get("torch")
    gpu = 0
    if torch is not None and torch.cuda.is_initialized():
        gpu = max(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count())))
    return host, gpu


def _told_bytes(text: str, name: str) -> int | None:
    """A size in the text of /proc/meminfo or /proc/self/status; None if it is not there."""
    found = re.search(rf"^{name}:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def check_host(memory: MemoryPlan | None, device: str, root: Path = Path("/")) -> None:
    """Look whether this process may take what a plan needs of the host, before an engine is loaded.

    The plan was made by another process, maybe days ago and on another machine. Work on the CPU is
    held against limits alone, which end it; without one the kernel can still swap.

    Args:
        memory: of the plan; None: the engine needs little.
        device: torch device string.
        root: where /proc and /sys are.

    Raises:
        ResourceError: it does not fit, with the numbers.
    """
    peaks = dict(memory.peaks) if memory is not None else {}
    need, left = peaks.get("host", 0), None
    if device == "cpu":
        need += max((size for phase, size in peaks.items() if phase != "host"), default=0)
        limits = (_left_in_container(root), _left_of_bound(root))
        left = min((limit for limit in limits if limit is not None), default=None)
    else:
        left = free_host_bytes(root)
    if left is not None and need > left:
        raise ResourceError(
            f"the plan of this job needs {need / 1e9:.1f} GB of host memory and "
            f"{left / 1e9:.1f} GB are free here; use a machine or container with "
            f"{math.ceil(need / 1e9)} GB free, or start the job afresh, which plans it for this one"
        )


def _left_of_bound(root: Path) -> int | None:
    """Private memory that this process may still take; None where it is not bounded."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        return None
    taken = _told_bytes((root / "proc/self/status").read_text(), "VmData") or 0
    return max(0, soft - taken)


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes the kernel has killed because memory ran out: those of our container or
    cgroup, or of the whole machine where it does not count ours by themselves.

    Args:
        root: where /proc and /sys are.
    """
    for path in [*_kill_counts(root), root / "proc/vmstat"]:
        with contextlib.suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE):
                return int(found[1])
    return 0


def _kill_counts(root: Path) -> Iterator[Path]:
    """Where our kills may be counted. Inside a container our own folder is the topmost one."""
    told = ""
    with contextlib.suppress(OSError):
        told = (root / "proc/self/cgroup").read_text()
    for ours, folder, name in _KILLS:
        if found := re.search(f"^{ours}$", told, re.MULTILINE):
            yield root / folder / found[1] / name
        yield root / folder / name


def bound_memory(num_bytes: int) -> None:
    """Let the kernel refuse this process more private memory than so many bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


@contextlib.contextmanager
def unbounded_memory(device: str) -> Iterator[None]:
    """No bound inside the block if it works on a GPU; on a CPU ("cpu") it stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if device == "cpu":
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def memory_refused(error: BaseException) -> str:
    """One sentence for an error that says that memory was refused; "" for any other."""
    if not isinstance(error, MemoryError) and _TORCH_REFUSED not in str(error):
        return ""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    bound = "" if soft == resource.RLIM_INFINITY else f", at most {soft / 1e9:.1f} GB"
    return (
        f"the video needs more memory than the process may have here{bound} "
        "(SEEDVR2_CHILD_MEMORY_BYTES); a smaller resolution or batch_size needs less"
    )
