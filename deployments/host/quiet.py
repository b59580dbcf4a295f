"""What is done before Prefect is imported: telemetry off, log format, out of the caller's folder.

Telemetry and notices are off in what we start, unless the user turned them on. Prefect's client
reads DO_NOT_TRACK when it is imported, before it prints its notice;
PREFECT_SERVER_ANALYTICS_ENABLED is the server's setting. A variable that is set keeps its value,
and whoever turned the server's setting on, in the environment or in the active Prefect profile,
keeps both.

Prefect takes settings from .env, prefect.toml and pyproject.toml of the current folder, whenever it
looks at its settings. One of them names a file that says how to log, and that file can name any
function to call. So a folder with a stranger's video must not be the current one.
"""

import contextlib
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

ELSEWHERE = "/"
"""Only the administrator writes there."""
_PATHS = ("PREFECT_HOME", "PREFECT_PROFILES_PATH", "SEEDVR2_SECRETS_DIR")
"""Variables with paths that Prefect, and processes that we start, read later."""
_CLIENT, _SERVER = "DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"


_LOGS = "SEEDVR2_LOG_FORMAT"
LOG_HANDLER_VARIABLE = "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS"
"""Prefect's own variable for what writes its log to stderr."""
JSON_HANDLER = "tasks.json_logs.JsonConsole"
"""Its value for logs as JSON."""


def logs_as_json() -> bool:
    """Whether SEEDVR2_LOG_FORMAT asks for logs as JSON. Also told where other settings are wrong,
    because the sentence that says so is a line of the log.
    """
    return os.environ.get(_LOGS, "").strip().lower() == "json"


def set_prefect_logs() -> None:
    """Let Prefect log as JSON in this process and in those that it starts, if that is asked for."""
    if logs_as_json():
        os.environ.setdefault(LOG_HANDLER_VARIABLE, JSON_HANDLER)


def keep_prefect_quiet() -> None:
    """Turn telemetry off in this process and in those that it starts; before Prefect's import."""
    chosen = os.environ.get(_SERVER, _of_profile(_SERVER))
    if chosen.lower() in ("1", "true", "yes", "on"):
        return
    os.environ.setdefault(_CLIENT, "1")
    os.environ.setdefault(_SERVER, chosen or "false")


def _of_profile(name: str) -> str:
    """A variable's value in the active Prefect profile; "" if it has none."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()
    try:
        content = tomllib.loads(path.read_text())
        active = os.environ.get("PREFECT_PROFILE", content.get("active", ""))
        return str(content["profiles"][active].get(name, ""))
    except (OSError, ValueError, LookupError, AttributeError):  # Prefect itself says what is wrong
        return ""


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
