"""Prefect's telemetry and its notices: off in what we start, unless the user turned them on.

Prefect's client reads DO_NOT_TRACK when it is imported, before it prints its notice;
PREFECT_SERVER_ANALYTICS_ENABLED is the server's setting. A variable that is set keeps its value,
and whoever turned the server's setting on, in the environment or in the active Prefect profile,
keeps both.
"""

import os
import tomllib
from pathlib import Path

_CLIENT, _SERVER = "DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"


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
