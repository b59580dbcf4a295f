"""What the flow `recover` does: look at a run that may be lost, and bring it back.

`watch` looks at the run and makes sure, `output` looks for its output, `end` ends it, and `settle`
gives it its new state. `sweep` looks for ten minutes for what nothing else is checking: lost runs
(`forgotten`) and callbacks that wait (`callbacks`).
"""

from tasks.recovery.end import end_run, finish_cancel
from tasks.recovery.output import find_output
from tasks.recovery.settle import say_alive, settle
from tasks.recovery.sweep import sweep
from tasks.recovery.watch import another_looks, look, make_sure

__all__ = [
    "another_looks",
    "end_run",
    "find_output",
    "finish_cancel",
    "look",
    "make_sure",
    "say_alive",
    "settle",
    "sweep",
]
