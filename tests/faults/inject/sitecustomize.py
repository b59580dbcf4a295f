"""Does things wrong inside real processes: fault tests put this folder on PYTHONPATH.

SEEDVR2_TEST_FAULTS is a JSON list of {"at": "module:name" or "module:Class.name", "call": n,
"do": what, "mark": file}. Each fault happens once in all processes together: whoever makes the
mark's file (with its process id in it) does it, at its n-th call of the named function. One with
"after" happens only in processes that begin when that mark's file is there, and of one with "since"
only calls count that are made when its file is there.

hold        never returns, so that the process can be killed right there
exit        ends the process with code 7
fill        fills the disk of the mark's file and goes on
enospc      raises what a full disk raises
eio, estale raise what a bad disk, a network share raises
slow        every call takes `call` milliseconds longer; no mark
garbage     writes lines that are no events before every event (at something that the child's
            main module calls before its first event; no mark)
small       makes 720p that many pixels (`call`), at seedvr2_core.planning.sizes:BUDGETS_PX; no mark
wait        the n-th call of each process waits for a file that matches the mark, a pattern
number      gives a number of a module another value (`call`); no mark
count       appends a byte to the mark's file when a call has returned (one may wait in it)
jump        the wall clock jumps back and forth by hours (no "at", no mark)
"""

import contextlib
import errno
import functools
import glob
import importlib.abc
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

FAULTS: list[dict[str, Any]] = json.loads(os.environ.get("SEEDVR2_TEST_FAULTS", "[]"))


def claim(mark: str) -> bool:
    """Whether this process is the one that does it."""
    try:
        handle = os.open(f"{mark}.part", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(handle, str(os.getpid()).encode())
    os.close(handle)
    os.rename(f"{mark}.part", mark)
    os.close(os.open(f"{mark}.part", os.O_CREAT))  # stays claimed
    return True


def act(what: str, mark: str) -> None:
    if what == "fill":
        with contextlib.suppress(OSError), Path(f"{mark}.ballast").open("wb", 0) as stream:
            while True:
                stream.write(bytes(2**16))
    if what == "exit":
        print("leaving on purpose", file=sys.stderr, flush=True)
        os._exit(7)
    if what in ("enospc", "eio", "estale"):
        number = getattr(errno, what.upper())
        raise OSError(number, os.strerror(number))
    while what == "hold":
        time.sleep(3600)


def faulty(function: Callable[..., Any], fault: dict[str, Any]) -> Callable[..., Any]:
    calls = itertools.count(1)
    begun = not fault["after"] or Path(fault["after"]).exists()

    def armed() -> bool:
        return begun and (not fault["since"] or Path(fault["since"]).exists())

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        if fault["do"] == "count":
            result = function(*args, **options)
            with Path(fault["mark"]).open("ab") as stream:
                stream.write(b".")
            return result
        if fault["do"] == "slow":
            time.sleep(fault["call"] / 1000)
        elif fault["do"] == "wait":
            is_it = next(calls) == fault["call"]
            while is_it and not glob.glob(fault["mark"]):
                time.sleep(0.05)
        elif fault["do"] == "garbage":
            make_noise(sys.modules["__main__"].Emitter)
        elif armed() and next(calls) == fault["call"] and claim(fault["mark"]):
            act(fault["do"], fault["mark"])
        return function(*args, **options)

    return wrapped


def make_noise(emitter: Any) -> None:
    """Noise in front of every event that these write."""
    emit = emitter.emit

    def noisy(self: Any, event: object) -> None:
        with self._lock:
            self._stream.write('{"event": "segment_d\n[1, 2]\n\nnull\n"ready"\n{"no": 1}\nnoise\n')
        emit(self, event)

    emitter.emit = noisy


def change(module: ModuleType) -> None:
    for fault in FAULTS:
        name, _, path = fault.get("at", ":").partition(":")
        if name == module.__name__ and fault["do"] == "small":
            setattr(module, path, {"720p": fault["call"]})
        elif name == module.__name__ and fault["do"] == "number":
            setattr(module, path, fault["call"])
        elif name == module.__name__:
            *owners, attribute = path.split(".")
            place: Any = functools.reduce(getattr, owners, module)
            setattr(place, attribute, faulty(getattr(place, attribute), fault))


class Finder(importlib.abc.MetaPathFinder):
    """Changes a module right after it was run."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if not any(fault.get("at", ":").startswith(f"{name}:") for fault in FAULTS):
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


def jump() -> None:
    real, jumps = time.time, itertools.cycle((0, 7 * 3600, -90_000, 30, 86_400 * 400))
    time.time = lambda: real() + next(jumps)


if FAULTS:
    sys.meta_path.insert(0, Finder())
    if any(fault["do"] == "jump" for fault in FAULTS):
        jump()
