"""How a run's end is told: a failure by one sentence, a success by what came out.

Prefect logs an error with its traceback where a task raises it and again where the flow does. Our
own errors say all that a reader needs, so their tracebacks are left out; any other error is a bug,
and its traceback is kept once.
"""

import logging
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from seedvr2_core.errors import BudgetError, SeedVR2Error, in_full
from seedvr2_core.words import counted
from tasks.run.routing import MOVED
from tasks.schemas import UpscaleResult

EXPECTED = (SeedVR2Error,)
"""Errors that a flow tells by one sentence; any other is a bug."""
OVER_BUDGET = "OverBudget"
"""State of a run that its caller's limit of time or price has stopped."""
_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
_TOLD = "_seedvr2_traceback_told"


def completed(result: UpscaleResult) -> State[UpscaleResult]:
    """The state of a run that has made its output; its message says what came out."""
    kept = result.segments_reused
    reused = f", {counted(kept, 'segment')} kept from an earlier run" if kept else ""
    told = (
        f"{result.filename}: {result.width}x{result.height}, {counted(result.frames, 'frame')}, "
        f"{result.output_size_mb:g} MB by {result.engine} in {result.seconds:g} s{reused}"
    )
    return Completed(message=told, data=result)


def moved(told: str) -> State[Any]:
    """The state of a run whose job was created elsewhere. No callback is sent for it."""
    return Completed(name=MOVED, message=told)


def failed(error: SeedVR2Error) -> State[Any]:
    """The state of a run without an output; its message has the error's sentence, code, remedy."""
    name = "TimedOut" if isinstance(error, TimeoutError) else "Failed"  # as Prefect itself does
    if isinstance(error, BudgetError):
        name = OVER_BUDGET
    return Failed(name=name, message=in_full(error), data=error)


class _OneTraceback(logging.Filter):
    """Leaves the tracebacks of our own errors out of a log, and the second one of any other."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, SeedVR2Error):
            retry = record.args[-1] if isinstance(record.args, tuple) and record.args else ""
            record.msg, record.args = "%s", (str(error),)
            if isinstance(retry, str) and "etry" in retry:
                record.msg, record.args = "%s (%s)", (str(error), retry)
            record.exc_info = record.exc_text = None
        elif error is not None:
            if getattr(error, _TOLD, False):
                record.exc_info = record.exc_text = None
            else:
                setattr(error, _TOLD, True)
        return True


def tell_in_sentences() -> None:
    """Let the logs of runs in this process tell failures as this module says; may be repeated."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _OneTraceback) for one in logger.filters):
            logger.addFilter(_OneTraceback())
