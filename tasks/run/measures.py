"""What a job at work is measured by. The command, the artifact, the gateway and its page show these
numbers under the same names.
"""

from dataclasses import dataclass, fields
from typing import Any, get_args


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Numbers of one job; None: not known, or not measured."""

    segment: int | None = None
    """The segment at work, counted from 1; all before it are finished."""
    segments: int | None = None
    """How many segments the job has."""
    frames_per_second: float | None = None
    """Restored frames a second of the process at work, since its engine was ready."""
    seconds_left_low: float | None = None
    """The least that the seconds left may be, by what is known of this machine and this job."""
    seconds_left_high: float | None = None
    """The most that they may be."""
    estimated_seconds: float | None = None
    """What this run was expected to take from the plan to the stored output, when it began."""
    device: str | None = None
    """What the engine runs on: `cpu`, `cuda:0`."""
    seed: int | None = None
    """Seed of the noise; None for engines that draw none."""
    gpu_seconds: float | None = None
    """Seconds for which the job has held its GPU, in all of its runs; None on a CPU."""
    cost: float | None = None
    """What those seconds, or those of the CPU, cost by SEEDVR2_HOUR_PRICE; None: that is unset."""


def as_text(measures: Measures) -> dict[str, str]:
    """Those that are known, as strings, for the metadata of an artifact."""
    told = {one.name: getattr(measures, one.name) for one in fields(Measures)}
    return {name: str(value) for name, value in told.items() if value is not None}


def from_text(told: dict[str, str]) -> Measures:
    """Read what `as_text` wrote; other names, and values that are no numbers, are left out."""
    found: dict[str, Any] = {}
    for one in fields(Measures):
        kind: Any = get_args(one.type)[0]
        try:
            found[one.name] = kind(told[one.name])
        except (KeyError, ValueError):
            continue
    return Measures(**found)
