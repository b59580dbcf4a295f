"""The flow run as Prefect has it: record, artifacts, callback, routing, appointments, SIGTERM.

The names are loaded on first use, so that importing this package does not load Prefect.
"""

from typing import TYPE_CHECKING

from seedvr2_core.lazy import loaded_on_use

if TYPE_CHECKING:
    from tasks.run.artifacts import (
        PROGRESS_KEY,
        RESULT_KEY,
        publish_result,
        read_progress,
        read_result,
    )
    from tasks.run.record import current, keep_record

__all__ = [
    "PROGRESS_KEY",
    "RESULT_KEY",
    "current",
    "keep_record",
    "publish_result",
    "read_progress",
    "read_result",
]

__getattr__ = loaded_on_use(
    __name__,
    {
        "PROGRESS_KEY": "tasks.run.artifacts",
        "RESULT_KEY": "tasks.run.artifacts",
        "publish_result": "tasks.run.artifacts",
        "read_progress": "tasks.run.artifacts",
        "read_result": "tasks.run.artifacts",
        "current": "tasks.run.record",
        "keep_record": "tasks.run.record",
    },
)
