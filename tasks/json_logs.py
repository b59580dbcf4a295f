"""Logs for programs: one JSON object a line on stderr, with the ids of job and run.

SEEDVR2_LOG_FORMAT=json turns it on. Flows call `begin_run`, our other programs `use_json_logs`.
Workers and servers that are started by Prefect's own command get the class `JsonConsole` by
Prefect's variable PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS. Nothing here imports Prefect.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import IO, Any

from tasks.settings import get_settings

_CONSOLES = ("PrefectConsoleHandler", "StreamHandler")
"""Classes of handlers that write lines for people."""

_ids: dict[str, str] = {}
"""Of the job and the run that this process works on."""


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_ids,
        }
        run_id = getattr(record, "flow_run_id", None)
        if run_id is not None and str(run_id) != _ids.get("run_id"):
            told |= {"job_id": str(run_id), "run_id": str(run_id)}
        if task_run_id := getattr(record, "task_run_id", None):
            told["task_run_id"] = str(task_run_id)
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json_line(told)


class JsonConsole(logging.StreamHandler[Any]):
    """A handler that writes JSON whatever formatter it is given."""

    def __init__(
        self, stream: "IO[str] | None" = None, styles: Mapping[str, str] | None = None
    ) -> None:
        """Write to a stream; `styles` is what Prefect gives its own handler."""
        del styles
        super().__init__(stream or sys.stderr)
        self._lines = JsonLines()

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        return self._lines.format(record)


def json_line(told: Mapping[str, Any]) -> str:
    """A log record as one line. Bytes that are no text are shown as escapes."""
    return json.dumps(told, default=str)


def begin_logs(run_id: str | None, parameters: Mapping[str, Any]) -> None:
    """Let a flow's process log as the settings say, with the ids of its run and job.

    Args:
        run_id: the flow run; None outside of one.
        parameters: of the run; those of helpers, `recover` and `fetch-source` name the job.
    """
    if get_settings().log_format != "json" or run_id is None:
        return
    job_id = parameters.get("job_id") or parameters.get("run_id") or run_id
    _ids.update(job_id=str(job_id), run_id=str(run_id))
    use_json_logs()


def use_json_logs() -> None:
    """Put handlers that write JSON in the place of those that write lines for people."""
    root = logging.getLogger()
    for log in [root, *_loggers()]:
        for handler in list(log.handlers):
            if type(handler).__name__ in _CONSOLES:
                log.removeHandler(handler)
                log.addHandler(_like(handler))
    if not root.handlers:
        root.addHandler(JsonConsole())


def _loggers() -> Iterator[logging.Logger]:
    """All loggers that were made so far."""
    made = logging.Logger.manager.loggerDict.values()
    return (log for log in list(made) if isinstance(log, logging.Logger))


def _like(handler: logging.Handler) -> JsonConsole:
    """A handler for the same records."""
    own = JsonConsole()
    own.setLevel(handler.level)
    for one in handler.filters:
        own.addFilter(one)
    return own
