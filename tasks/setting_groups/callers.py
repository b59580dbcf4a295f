"""What single callers of the gateway may do: a table with a line of its own for each token."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

PRIORITIES = ("high", "default", "low")
"""The queues of a work pool that jobs wait in, the one that workers take from first in front."""
_FIELDS = {"priority": "priority", "rate": "rate", "jobs": "open_jobs", "bytes": "quota_bytes"}


class CallerLimits(BaseModel, defer_build=True):
    """What one token may do; what is None follows the setting for all tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priority: Literal["high", "default", "low"] = "default"
    """The queue of the work pool that the token's jobs wait in."""
    rate: int | None = Field(default=None, gt=0)
    """Requests a minute."""
    open_jobs: int | None = Field(default=None, gt=0)
    """Jobs that wait or are at work at a time."""
    quota_bytes: int | None = Field(default=None, gt=0)
    """Bytes of sent videos that are kept."""


def _read(value: object) -> object:
    """Read 3f9a12bc4d5e:priority=low:rate=30,8c01d2e3f4a5:jobs=2."""
    if not isinstance(value, str):
        return value
    table: dict[str, dict[str, str]] = {}
    for entry in filter(None, (part.strip() for part in value.lower().split(","))):
        digits, *fields = entry.split(":")
        if not re.fullmatch("[0-9a-f]{12,64}", digits):
            raise ValueError(
                f"got {digits[:12]!r}; an entry begins with the first 12 or more hex digits of a "
                "token's digest: 3f9a12bc4d5e:priority=low:rate=30"
            )
        parts = [field.partition("=") for field in fields]
        pairs = {name: text for name, _, text in parts}
        if unknown := set(pairs) - set(_FIELDS):
            raise ValueError(f"{digits}: got {sorted(unknown)}; known are {', '.join(_FIELDS)}")
        table[digits] = {_FIELDS[name]: text for name, text in pairs.items()}
    return table


def _told_apart(value: dict[str, CallerLimits]) -> dict[str, CallerLimits]:
    """Refuse two entries for one token."""
    for one in value:
        if any(other != one and other.startswith(one) for other in value):
            raise ValueError(f"two entries begin with {one}; give each token one")
    return value


LimitsTable = Annotated[
    dict[str, CallerLimits], NoDecode, AfterValidator(_told_apart), BeforeValidator(_read)
]
"""First digits of a token's digest -> what it may do."""
