"""Runs a Python module as a program that ends when its parent ends, even by kill -9.

This is for programs that are not ours: Prefect's worker, its flow runs and its commands. We ask the
kernel for it before the module is loaded, so the program is attached from its first moment on.

    python -P -m deployments.host.attached --parent=PID MODULE ARGUMENTS...
"""

import gc
import os
import runpy
import signal
import sys

from seedvr2_core.files.process import die_with_parent

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""With it Python does not import from the folder that it is started in, where a file named like a
module would be executed in the module's place. PYTHONPATH goes on working. Like the option -P, but
processes that the process starts inherit it."""
_ENGINE = "prefect.engine"
"""The module that runs a flow run."""
PID_VARIABLE = "SEEDVR2_ATTACHED_PID"
"""The attached program's own process id, so that what it starts can attach to it in turn."""


def attached(module: str, *arguments: str, parent: int | str | None = None) -> list[str]:
    """The command that runs a module attached to a process.

    Args:
        module: name of the module, as after `python -m`.
        arguments: arguments of the module.
        parent: id of the process that it ends with; by default this process.
    """
    tie = f"--parent={os.getpid() if parent is None else parent}"
    return [sys.executable, "-P", "-m", "deployments.host.attached", tie, module, *arguments]


def main() -> None:
    """Attach this process, then run the module in it."""
    parent = sys.argv[1].removeprefix("--parent=")
    # A worker that was started by hand gives no id; its runs then end with their parent.
    die_with_parent(int(parent) if parent else os.getppid())
    # A script's program in the background begins with SIGINT ignored, and hands that on. Prefect's
    # worker makes SIGINT of SIGTERM: it would end by nothing but SIGKILL.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ[PID_VARIABLE] = str(os.getpid())
    os.environ.update(SAFE_PATH)
    sys.argv = sys.argv[2:]
    if sys.argv[0] == _ENGINE:
        gc.disable()  # until the flow begins (`tasks/run/begin.py`): all before are imports
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
