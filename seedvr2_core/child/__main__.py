"""The child process: probes, restores and joins on request, and dies with its parent.

`python -m seedvr2_core.child PARENT_PID`. Requests are JSON lines on stdin, events JSON lines on
the original stdout (which nothing else can write to), logs go to stderr.

    {"op": "probe", "path": ..., "out": ...}                     -> probed
    {"op": "find_cuts", "path": ..., "info": ..., "device": ..., "detector": ..., "out": ...}
                                                  -> cuts_found
    {"op": "restore", "job_dir": ..., "source": ..., "device": ..., "weights_dir": ...,
     "lock_dir": ..., "segments": [0, ...]}
                                                  -> waiting ..., ready, heartbeat ...,
                                                     restored ..., segment_done ..., idle
    {"op": "join", "job_dir": ..., "source": ..., "out": ..., "metadata": {...}} -> joined
    {"op": "preview", "job_dir": ..., "source": ..., "output": ..., "out": ...}  -> previewed
    {"op": "stop"}                                               -> the process ends

Heartbeats {phase, done, total} come from the threads that do the work, never from a timer.
"""

import json
import logging
import os
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import NoReturn, TextIO

from seedvr2_core.child.operations import (
    OPERATIONS,
)
from seedvr2_core.child.protocol import Emitter, Request
from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files.process import die_with_parent
from seedvr2_core.files.space import is_full

logger = logging.getLogger(__name__)


def _read_requests(requests: "SimpleQueue[Request]") -> None:
    """Reader thread: the end of stdin means that nobody waits for us any more."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


def _serve(requests: "SimpleQueue[Request]", emitter: Emitter) -> int:
    """Carry out requests until told to stop; an error ends the process."""
    while True:
        request = requests.get()
        if request["op"] == "stop":
            return 0
        try:
            OPERATIONS[request["op"]](request, emitter)
        except SeedVR2Error as error:
            emitter.emit("error", kind=type(error).__name__, message=str(error))
            return 1
        except Exception as error:
            if not (told := _resource_words(error)):
                raise
            emitter.emit("error", kind="ResourceError", message=told)
            return 1


def _resource_words(error: Exception) -> str:
    """One sentence for a full disk or a full device that nobody else could do anything about."""
    if is_full(error):
        return f"the disk is full ({error}); finished segments are kept: make room, run again"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; naming it would load torch
        return f"the device ran out of memory ({error}); free it, or use a smaller resolution"
    return ""


def _own_stdout() -> TextIO:
    """Keep the pipe to the parent for events; whatever prints to stdout goes to the log."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return events


def main() -> NoReturn:
    """Entry point of the child."""
    emitter = Emitter(_own_stdout())
    die_with_parent(int(sys.argv[1]))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    try:
        code = _serve(requests, emitter)
    except BaseException:  # noqa: BLE001 - the parent reads the traceback and the exit code
        traceback.print_exc()
        code = 70
    sys.stderr.flush()
    os._exit(code)  # other threads may sit in a codec; everything worth keeping is on disk


if __name__ == "__main__":
    main()
