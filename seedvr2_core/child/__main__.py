"""The child process: probes, restores and joins on request, and dies with its parent.

`python -m seedvr2_core.child PARENT_PID [--memory-bytes N] [--unconfined]`. It reads requests from
stdin and writes events to the original stdout, one JSON line each (`protocol.py` lists them);
nothing else can write to that stdout. Logs go to stderr. An operation that fails ends the process,
with the error as its last event: whatever it had loaded or held is gone with it, and the parent may
start a fresh child.
"""

import argparse
import contextlib
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import NoReturn, TextIO

from seedvr2_core.child.confine import confine
from seedvr2_core.child.memory import bound_memory, machine_bytes, memory_refused
from seedvr2_core.child.operations import OPERATIONS
from seedvr2_core.child.progress import Emitter
from seedvr2_core.child.protocol import Failed, Stop, decode_request
from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files.process import die_with_parent
from seedvr2_core.files.space import is_full

OOM_SCORE = 500
"""Added to the kernel's badness of this process (proc(5), oom_score_adj), which is 0 to 1000."""
CRASHED = 70
"""Exit code after an error that is none of ours; the traceback is in the log (EX_SOFTWARE)."""

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of the child."""
    emitter = Emitter(_own_stdout())
    told = _arguments()
    die_with_parent(told.parent)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not told.unconfined:
        confine()
    _die_first()
    bound_memory(told.memory_bytes or machine_bytes())
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    try:
        code = _serve(lines, emitter)
    except BaseException:  # noqa: BLE001 - the parent reads the traceback and the exit code
        traceback.print_exc()
        code = CRASHED
    sys.stderr.flush()
    os._exit(code)  # other threads may sit in a codec; everything worth keeping is on disk


def _arguments() -> argparse.Namespace:
    """Who has started us, and what we may have."""
    parser = argparse.ArgumentParser(prog="seedvr2_core.child")
    parser.add_argument("parent", type=int, help="its process id")
    parser.add_argument("--memory-bytes", type=int, help="most private memory; default all")
    parser.add_argument("--unconfined", action="store_true", help="keep network and rights")
    return parser.parse_args()


def _die_first() -> None:
    """Ask the kernel, when the machine's memory ends, to end this process and not our parent."""
    with contextlib.suppress(OSError):  # a container may have no /proc to write to
        Path("/proc/self/oom_score_adj").write_text(f"{OOM_SCORE}")


def _own_stdout() -> TextIO:
    """Keep the pipe to the parent for events; whatever prints to stdout goes to the log."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return events


def _read_lines(lines: "SimpleQueue[str]") -> None:
    """Reader thread: the end of stdin means that nobody waits for us any more."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _serve(lines: "SimpleQueue[str]", emitter: Emitter) -> int:
    """Carry out requests until told to stop or until one fails; returns the exit code."""
    while True:
        try:
            request = decode_request(lines.get())
            if isinstance(request, Stop):
                return 0
            emitter.emit(OPERATIONS[type(request)](request, emitter))
        except SeedVR2Error as error:
            emitter.emit(Failed(kind=type(error).__name__, message=str(error)))
            return 1
        except Exception as error:
            if not (message := _shortage(error)):
                raise
            emitter.emit(Failed(kind="ResourceError", message=message))
            return 1


def _shortage(error: Exception) -> str:
    """One sentence for a full disk, device or memory that nothing else has translated; else ""."""
    if is_full(error):
        return f"the disk is full ({error}); finished segments are kept: make room, run again"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; naming it would load torch
        return f"the device ran out of memory ({error}); free it, or use a smaller resolution"
    return memory_refused(error)


if __name__ == "__main__":
    main()
