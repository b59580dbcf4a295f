"""Choices between ways to the same result, made by measuring them on the device, once.

What is fastest on a device cannot be told from its name, and to choose anew in every process would
change last bits from run to run. So a job writes down what was chosen, in its directory, and obeys
that when it is resumed, whatever it would measure then. The key of a choice names the kind of
device, the shape and the dtype.

Imports no torch, so that reading what was chosen stays cheap.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seedvr2_core.files import hold_lock
from seedvr2_core.files.durable import write_bytes

logger = logging.getLogger(__name__)

Seconds = Callable[[], float]
"""Runs a way and tells how long it takes."""


class Choices:
    """What was chosen, in memory and in a file."""

    def __init__(self, path: Path | None = None) -> None:
        """Read what an earlier process chose.

        Args:
            path: of the JSON file, which may be missing; None: nothing is kept.
        """
        self._path = path
        self._made = _read(path) if path is not None else {}

    def choose(self, key: str, ways: Mapping[str, Seconds]) -> str:
        """The way that was chosen before, or the fastest of all, which is written down.

        Args:
            key: of the choice.
            ways: name -> what measures it. The first one must run; others may raise a
                RuntimeError and are then left out.
        """
        known = self._known(key, ways)
        if known is not None or self._path is None:
            return known or self._measure(key, ways)
        # Several processes may begin on one job: the first one chooses for all.
        lock = self._path.with_suffix(".lock")
        with hold_lock(lock, timeout=math.inf, on_wait=lambda: None):
            self._made = _read(self._path) | self._made
            known = self._known(key, ways) or self._measure(key, ways)
            write_bytes(self._path, json.dumps(self._made, indent=1).encode())
        return known

    def _known(self, key: str, ways: Mapping[str, Seconds]) -> str | None:
        """The way that was chosen before, if it is one of these."""
        known = self._made.get(key)
        return known["way"] if known is not None and known["way"] in ways else None

    def _measure(self, key: str, ways: Mapping[str, Seconds]) -> str:
        """Choose the fastest way."""
        seconds: dict[str, float] = {}
        for name, measure in ways.items():
            try:
                seconds[name] = measure()
            except RuntimeError as error:
                if not seconds:
                    raise
                logger.warning("%s: %s does not run here: %s", key, name, error)
        way = min(seconds, key=lambda name: seconds[name])
        self._made[key] = {"way": way, "seconds": seconds}
        logger.info("%s: %s of %s", key, way, seconds)
        return way


_current = Choices()


def choices() -> Choices:
    """The choices of the job at hand, for all threads."""
    return _current


@contextmanager
def kept_choices(path: Path) -> Iterator[Choices]:
    """For a block, obey what the file holds, and write down there what is chosen."""
    global _current
    before = _current
    _current = Choices(path)
    try:
        yield _current
    finally:
        _current = before


def chosen_in(path: Path) -> list[str]:
    """A sentence for each choice that a file holds; [] if there is none."""
    return [
        f"{key}: {choice['way']} was fastest ("
        + ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in choice["seconds"].items())
        + ")"
        for key, choice in _read(path).items()
    ]


def _read(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is missing or damaged, which is logged."""
    try:
        made = json.loads(path.read_bytes())
        assert all(choice["way"] in choice["seconds"] for choice in made.values())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AssertionError, AttributeError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read, so it is chosen anew: %r", path, error)
        return {}
    return made
