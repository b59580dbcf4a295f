"""Runs a Python module as a program that ends when its parent does, kill -9 included.

For programs that are not ours and know nothing of it: Prefect's worker, its flow runs, its
commands. The kernel is asked before the module is loaded, so there is no moment without a tie.

    python -m deployments.host.attached --parent=PID MODULE ARGUMENTS...
"""

import os
import runpy
import sys

from seedvr2_core.files.process import die_with_parent

PID_VARIABLE = "SEEDVR2_ATTACHED_PID"
"""Own process id, for what the module starts: a worker's job template names it as the parent."""


def attached(module: str, *arguments: str, parent: int | str | None = None) -> list[str]:
    """The command that runs a module attached.

    Args:
        module: as after `python -m`.
        arguments: of the module.
        parent: process that it ends with; this one if not given.
    """
    tie = f"--parent={os.getpid() if parent is None else parent}"
    return [sys.executable, "-m", "deployments.host.attached", tie, module, *arguments]


def main() -> None:
    """Entry point: tie, then become the module."""
    parent = sys.argv[1].removeprefix("--parent=")
    # A worker that was started by hand tells no id: whoever is the parent now.
    die_with_parent(int(parent) if parent else os.getppid())
    os.environ[PID_VARIABLE] = str(os.getpid())
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
