"""Public names of a package that are loaded on first use, and imports that cost less.

Several packages show names whose modules need torch, av or Prefect. Importing such a package has to
stay cheap: the checks before a job and the children that only probe or join import it too.

What modules make at their import is used until the end. Python's garbage collector looks through
it again and again meanwhile, which takes a fifth to a third of the processor's time.
"""

import contextlib
import gc
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def loaded_on_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562) for public names that live in other modules.

    Args:
        package: `__name__` of the package that shows the names.
        homes: public name -> dotted name of the module that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return get


@contextlib.contextmanager
def collector_waits() -> Iterator[None]:
    """Let the garbage collector wait while the block imports something large."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        collector_works()


def collector_works() -> None:
    """Let the garbage collector work again, if it was waiting, without what is there now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
