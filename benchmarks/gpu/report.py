"""A report that grows line by line, so that a run which is cut keeps what it has."""

import json
import os
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from benchmarks.gpu.watch import Signs


class DeviceLostError(Exception):
    """A kernel has ended this process's use of the device; only a new process can go on."""

    def __init__(self, attempt: str) -> None:
        super().__init__(f"the device answers no more after {attempt}")
        self.attempt = attempt
        """"part/attempt", or the name of a part."""


def device_is_lost() -> bool:
    """Whether every later call would fail too, as after an illegal address in a kernel."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def finished_parts(path: Path) -> list[str]:
    """Parts of an earlier report that came to their end."""
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines() if _is_whole(line)]
    left_out = {line["part"] for line in lines if line["name"] == "left out"}
    return [x["part"] for x in lines if x["name"] == "done" and x["part"] not in left_out]


def _is_whole(line: str) -> bool:
    """Whether a line was written to its end."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class LineReport:
    """Writes one line of JSON for each measurement, to a file and to stdout."""

    def __init__(
        self,
        path: Path,
        *,
        began: float,
        seconds: float,
        skip: Collection[str] = (),
        go_on: bool = False,
        signs: Signs | None = None,
    ) -> None:
        """Write to a new file, or go on with one.

        Args:
            path: replaced if it is there, unless the report goes on.
            began: by `time.perf_counter`.
            seconds: after which no part is begun.
            skip: names of attempts that are not made, as `DeviceLostError.attempt` has them.
            go_on: lines are added to those that are there.
            signs: told of each step and each line; None: nobody watches.
        """
        self._signs = signs or Signs(None, path)
        self._stream = path.open("a" if go_on else "w")
        self._skip = set(skip)
        self._began, self._seconds = began, seconds
        self._part = ""
        self.exit_code = 1 if skip else 0
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
        self._signs.beat()

    def beat(self, *_: object) -> None:
        """A sign of life of the step at work."""
        self._signs.beat()

    def wrong(self) -> None:
        """A result is not what it should be."""
        self.exit_code = 1

    def skips(self, part: str) -> bool:
        """Whether a part is to be left out."""
        return part in self._skip

    def attempt(self, name: str, work: Callable[[], object]) -> bool:
        """A piece of work whose error ends nothing else.

        Returns:
            Whether it was done.

        Raises:
            DeviceLostError: after the error the device answers nothing any more.
        """
        key = f"{self._part}/{name}"
        if key in self._skip:
            self.line(name, reason="left out: it made the device fail")
            return False
        self._signs.step(key)
        try:
            work()
        except (Exception, SystemExit) as error:
            self.exit_code = 1
            self.line(name, error=f"{type(error).__name__}: {error}"[:2000])
            traceback.print_exc()
            if device_is_lost():
                raise DeviceLostError(key) from error
            return False
        finally:
            self._signs.step(self._part)
        return True

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the run. An error ends the part and not the run."""
        self._part, began = name, time.perf_counter()
        self._signs.step(name)
        try:
            yield
        except DeviceLostError:
            self.line("device lost", seconds=round(time.perf_counter() - began, 2))
            raise
        except (Exception, SystemExit) as error:
            self.exit_code = 1
            self.line("error", error=f"{type(error).__name__}: {error}"[:2000])
            traceback.print_exc()
            if device_is_lost():
                raise DeviceLostError(name) from error
        self.line("done", seconds=round(time.perf_counter() - began, 2))
