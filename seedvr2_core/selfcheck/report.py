"""The results of a selfcheck, the names of its checks, and the clock that they run against.

Plain data and arithmetic. It loads no torch, so that the command can list the checks at once.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from seedvr2_core.errors import DeadlineError

if TYPE_CHECKING:
    import numpy as np

Status = Literal["ok", "failed", "reported", "skipped"]
"""ok and failed are verdicts. reported: measured, for people to judge. skipped: not run to the
end."""

OUT_OF_TIME = "out of time"
NOT_ASKED_FOR = "not asked for"

FLOAT16, LOWER_RUNG = "float16", "bfloat16"
"""Dtypes of the VAE: what a job uses, and what it goes on with where that overflows."""

LOAD = "load"
CHECK_NAMES: Mapping[str, str] = {
    LOAD: "weights found, read strictly, folded",
    "activations": "largest float16 values at every level of the VAE",
    "restore": "the clip as a job restores it: pictures, seconds and memory of each stage",
    "resume": "a shot in one go and taken up from its commits: the same bits",
    "color": "colour methods: picture and shift of the mean against the source",
    "posterior": "latents as the posterior's mean against a sample of it",
    "black_rows": "padding with and without black rows below the picture",
    "overlap": "windows that share 1, 2 and 3 latents: what is seen at the join",
    "fresh_windows": "windows as slices of the shot's latents against windows encoded anew",
    "resume_long": "as resume, half size, in a shot so long that its start is not read again",
}
"""Name of a check -> what it looks at. They run in this order, the most important first."""

SavePicture = Callable[[str, "np.ndarray"], str]
"""Called with a name and a picture, (H, W, 3) uint8 RGB; returns the path that it was saved to."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a check returns."""

    status: Status
    told: str
    """One line for people."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What was measured; values are JSON, with one level of nesting."""
    pictures: list[str] = field(default_factory=list)
    """Paths of the saved pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A finished or skipped check, as it is reported."""

    name: str
    status: Status
    told: str
    seconds: float
    numbers: Mapping[str, Any]
    pictures: tuple[str, ...]


class Clock:
    """Wall time of the whole selfcheck; it starts when the clock is made."""

    def __init__(self, seconds: float) -> None:
        """Start; the whole selfcheck has `seconds`."""
        self._started = time.monotonic()
        self._seconds = seconds

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._started

    def tick(self) -> None:
        """Stop if the time is up. Called after slices and windows, which cannot be interrupted.

        Raises:
            DeadlineError: the time is up.
        """
        if self.elapsed >= self._seconds:
            raise DeadlineError(
                f"the {self._seconds:g} s of the selfcheck are over; give it more, or fewer checks"
            )


def tidy(value: float) -> float | str:
    """A number rounded for JSON. NaN and infinities, which JSON does not have, become words."""
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)
