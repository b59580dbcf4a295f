"""What `recover` can find about a run, and what follows from each finding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal[
    "waiting",
    "alive",
    "crashed",
    "silent",
    "overdue",
    "stuck",
    "interrupted",
    "abandoned",
    "ended",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What follows from a verdict."""

    lost: bool = False
    """Nobody works on the run any more: something has to be done about it."""
    why: str = ""
    """Why the run is lost, for the messages of the states that `recover` sets: "it crashed"."""
    may_requeue: bool = False
    """Another attempt can succeed."""
    watch: Literal["wait", "stall limit"] = "wait"
    """How long nothing must happen before the run counts as lost: the setting
    `recover_wait_seconds`, or the run's own stall limit and `recover_margin_seconds`."""
    beat_refutes: bool = False
    """A new beat during that time proves that the run is alive."""


MEANINGS: Mapping[Verdict, Meaning] = {
    # It has not begun, or somebody is cancelling it.
    "waiting": Meaning(),
    # It is running, and its last beat is not too old.
    "alive": Meaning(),
    # Its state is Crashed.
    "crashed": Meaning(lost=True, why="it crashed", may_requeue=True, beat_refutes=True),
    # It is running, and its last beat is older than its stall limit.
    "silent": Meaning(
        lost=True,
        why="it gave no sign of life",
        may_requeue=True,
        watch="stall limit",
        beat_refutes=True,
    ),
    # It is running past its time limit. Its process may beat, but should have ended.
    "overdue": Meaning(lost=True, why="it passed its time limit"),
    # A worker took it and never started it.
    "stuck": Meaning(lost=True, why="its worker took it and never started it", may_requeue=True),
    # An earlier `recover` cancelled it and did not finish.
    "interrupted": Meaning(lost=True, why="it was lost", may_requeue=True),
    # Somebody cancelled it, and its worker is not there to end it.
    "abandoned": Meaning(lost=True, why="it was cancelled, and its worker was gone"),
    # Its state is final.
    "ended": Meaning(),
}
