"""How much memory a process had at its most.

Not by `getrusage`: the figure there begins with the peak of the process that has started this one,
so that under a large pytest process whatever a small child needs counts as nothing.
"""

from pathlib import Path


def forget_peak() -> None:
    """Let this process's peak begin anew, at what it holds now. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_kib(pid: int | str = "self") -> int:
    """The most memory that a process held since it began, or since its peak began anew, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
