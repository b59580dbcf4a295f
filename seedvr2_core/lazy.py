"""Public names of a package that are loaded on first use.

Several packages show names whose modules need torch, av or Prefect. Importing such a package has to
stay cheap: the checks before a job and the children that only probe or join import it too.
"""

import importlib
from collections.abc import Callable, Mapping
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
