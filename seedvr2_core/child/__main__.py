"""The child process: probes, restores and joins on request, and dies with its parent.

`python -m seedvr2_core.child PARENT_PID [--memory-bytes N] [--unconfined]`. It reads requests from
stdin and writes events to the original stdout, one JSON line each (`protocol.py` lists them);
nothing else can write to that stdout. Logs go to stderr. An operation that fails ends the process,
with the error as its last event: whatever it had loaded or held is gone with it, and the parent may
start a fresh child. One that has made its segments may be asked to rest (`warm/`): it then waits
for another parent.
"""

import argparse
import contextlib
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from seedvr2_core.child.confine import confine
from seedvr2_core.child.memory import bound_memory, machine_bytes, memory_refused
from seedvr2_core.child.messages.fields import Event, Request
from seedvr2_core.child.messages.life import Prepare, Rest, Stop
from seedvr2_core.child.operations import OPERATIONS, restore
from seedvr2_core.child.progress import Emitter, alive_in
from seedvr2_core.child.protocol import OPENING, Failed, Restore, decode_request
from seedvr2_core.child.warm.line import Line, own_streams
from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files.process import die_with_parent
from seedvr2_core.files.reading import reads_told
from seedvr2_core.files.space import is_full
from seedvr2_core.kernels.devices import may_have_gpus
from seedvr2_core.lazy import collector_waits

if TYPE_CHECKING:
    from seedvr2_core.child.warm.kept import Kept

OOM_SCORE = 500
"""Added to the kernel's badness of this process (proc(5), oom_score_adj), which is 0 to 1000."""
CRASHED = 70
"""Exit code after an error that is none of ours; the traceback is in the log (EX_SOFTWARE)."""

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of the child."""
    line = own_streams()
    told = _arguments()
    die_with_parent(told.parent)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if not told.unconfined:
        confine()
    _die_first()
    bound_memory(told.memory_bytes or machine_bytes())
    line.start()
    try:
        code = _serve(line)
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


def _serve(line: Line) -> int:
    """Carry out requests until told to stop or until one fails; returns the exit code."""
    held: list[Kept] = []
    while True:
        try:
            request = decode_request(line.requests.get())
            if isinstance(request, Stop):
                return 0
            if isinstance(request, Prepare):
                _prepare()
                continue
            if isinstance(request, Rest):
                after = _rest(request, line, held)
                if after is None:
                    return 0
                line = after
                continue
            line.emitter.emit(_answer(request, line.emitter, held))
        except SeedVR2Error as error:
            line.emitter.emit(Failed(kind=type(error).__name__, message=str(error)))
            return 1
        except Exception as error:
            if not (message := _shortage(error)):
                raise
            line.emitter.emit(Failed(kind="ResourceError", message=message))
            return 1


def _prepare() -> None:
    """Load torch in a thread. Most of a probe and of a pause between two requests leaves it a core.

    Nothing else is loaded there: two threads that load modules of ours could wait for each other.
    """
    if not may_have_gpus():
        threading.Thread(target=_load_torch, daemon=True, name="torch").start()


def _load_torch() -> None:
    with collector_waits():
        import torch as torch


def _answer(request: Request[Any], emitter: Emitter, held: "list[Kept]") -> Event:
    """Carry out a request. What a restore has loaded is held for the next one."""
    if request.phase:
        emitter.beat(request.phase, 0, 0)
    if not isinstance(request, Restore):
        for kept in held:  # nothing else needs an engine, and it may need much memory
            kept.close()
            kept.tidy()
        held.clear()
        with reads_told(alive_in(request.phase, emitter)):
            return OPERATIONS[type(request)](request, emitter)
    with collector_waits():
        from seedvr2_core.child.warm.kept import Kept  # loads torch

    emitter.beat(OPENING, 0, 0)
    if not held:
        held.append(Kept())
    return restore(request, emitter, held[0])


def _rest(request: Rest, line: Line, held: "list[Kept]") -> Line | None:
    """Wait for the next parent (see `warm/rest.py`)."""
    from seedvr2_core.child.warm.kept import Kept
    from seedvr2_core.child.warm.rest import rest

    return rest(request, line, held[0] if held else Kept())


def _shortage(error: Exception) -> str:
    """One sentence for a full disk, device or memory that nothing else has translated; else ""."""
    if is_full(error):
        return f"the disk is full ({error}); finished segments are kept: make room, run again"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; naming it would load torch
        return f"the device ran out of memory ({error}); free it, or use a smaller resolution"
    return memory_refused(error)


if __name__ == "__main__":
    main()
