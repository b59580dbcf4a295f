"""The requests about the child's own life: it gets ready, outlives its job, or ends."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from seedvr2_core.child.messages.fields import Event, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Resting(Event):
    """The child lets go of its flow process; it closes its pipes when that one has."""

    refused: str
    """Why it does not, as a sentence; "" if it does. It then ends when it is told to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest(Request[Resting]):
    """Keep the engine loaded, and wait for a job that wants it."""

    answer: ClassVar = Resting
    seat: Path
    """Where it waits (see `seat.py`), without an ending."""
    terms: str
    """What the next job must name: it wants the same engine, code, environment and limits."""
    seconds: float
    """How long it waits at the most."""
    keeper: int
    """Id of the process with which it ends in any case: the worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare(Request[Event]):
    """Load torch beside the requests that follow, as segments will be made. There is no answer.

    It is left out on a machine with a GPU: there, another child makes them.
    """

    answer: ClassVar = Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Request[Event]):
    """End the process. There is no answer."""

    answer: ClassVar = Event
