"""A report that grows line by line, so that a run which is cut keeps what it has."""

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class LineReport:
    """Writes one line of JSON for each measurement, to a file and to stdout."""

    def __init__(self, path: Path, *, began: float, seconds: float) -> None:
        """Write to a new file.

        Args:
            path: replaced if it is there.
            began: by `time.perf_counter`.
            seconds: after which no part is begun.
        """
        self._stream = path.open("w")
        self._began, self._seconds = began, seconds
        self._part = ""
        self.exit_code = 0
        """1 once a part failed or a result was wrong."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    @property
    def seconds_left(self) -> float:
        """Until the limit."""
        return self._seconds - (time.perf_counter() - self._began)

    def line(self, name: str, **figures: Any) -> None:
        """Write a measurement of the part at hand; it is on disk when this returns."""
        at = round(time.perf_counter() - self._began, 2)
        text = json.dumps({"part": self._part, "name": name, "at": at, **figures}, default=str)
        print(text, flush=True)
        self._stream.write(text + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def wrong(self) -> None:
        """A result is not what it should be."""
        self.exit_code = 1

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the run. An error ends the part and not the run."""
        self._part, began = name, time.perf_counter()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is in the report, and in the exit code
            self.exit_code = 1
            self.line("error", error=f"{type(error).__name__}: {error}"[:2000])
            traceback.print_exc()
        self.line("done", seconds=round(time.perf_counter() - began, 2))
