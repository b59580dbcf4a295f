"""Tells what is wrong with a request in sentences."""

import difflib
from collections.abc import Sequence

from seedvr2_core.planning.sizes import meant_resolution

_NOT_SHOWN = ("video_url", "video_base64", "callback_url")
"""Fields whose value is repeated in no message, because it may hold a secret or be huge."""


def sentence(error: object, models: Sequence[str]) -> str:
    """One of pydantic's validation errors in words.

    Args:
        error: as `ValidationError.errors` lists it.
        models: that may be named.
    """
    assert isinstance(error, dict)
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    if where.partition(".")[0] in _NOT_SHOWN or error["type"] == "extra_forbidden":
        return f"{where}: {message}"
    given = str(error["input"])[:80]
    return f"{where}: {message}, got {given!r}{_suggestion(where, given, models)}"


def _suggestion(field: str, given: str, models: Sequence[str]) -> str:
    """The end of a message that names the value which was probably meant; "" if none is close."""
    meant: str | None = None
    if field == "resolution":
        meant = meant_resolution(given)
    elif field == "model":
        close = difflib.get_close_matches(given.lower().strip(), models, n=1)
        meant = next(iter(close), None)
    return f"; did you mean {meant}?" if meant else ""
