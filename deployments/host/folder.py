"""Prefect is imported and used outside of the folder that a program is started in.

Prefect takes settings from .env, prefect.toml and pyproject.toml of the current folder, whenever it
looks at its settings. One of them names a file that says how to log, and that file can name any
function to call. So a folder with a stranger's video must not be the current one.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

ELSEWHERE = "/"
"""Only the administrator writes there."""
_PATHS = ("PREFECT_HOME", "PREFECT_PROFILES_PATH", "SEEDVR2_SECRETS_DIR")
"""Variables with paths that Prefect, and processes that we start, read later."""


@contextlib.contextmanager
def outside_the_folder() -> Iterator[None]:
    """Work in another folder than the caller's, also in processes that are started.

    Paths that the caller gave must be absolute by now; those of the environment are made so.
    """
    try:
        caller = os.getcwd()
    except FileNotFoundError:  # it was removed
        caller = ELSEWHERE
    for name in _PATHS:
        if given := os.environ.get(name):
            os.environ[name] = os.path.join(caller, Path(given).expanduser())
    os.chdir(ELSEWHERE)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # removed meanwhile
            os.chdir(caller)
