"""What `recover` can find about a run, and what follows from each finding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal[
    "waiting",
    "alive",
    "crashed",
    "gone",
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
    watch: Literal["sign", "wait", "stall limit"] = "wait"
    """How long nothing must happen before the run counts as lost: three of the times in which its
    process shows a sign of life, the setting `recover_wait_seconds`, or the run's own stall limit
    and `recover_margin_seconds`."""
    beat_refutes: bool = False
    """A new beat during that time proves that the run is alive."""
    sign_refutes: bool = False
    """So does a new sign of life of its process, even if its work stands still."""
    has_process: bool = True
    """A worker may still have to end its process."""


MEANINGS: Mapping[Verdict, Meaning] = {
    # It has not begun, or somebody is cancelling it.
    "waiting": Meaning(),
    # It is running, and its last beat is not too old.
    "alive": Meaning(),
    # Its state is Crashed.
    "crashed": Meaning(
        lost=True,
        why="it crashed",
        may_requeue=True,
        watch="sign",
        beat_refutes=True,
        sign_refutes=True,
        has_process=False,
    ),
    # It is running, and its process has not renewed its record, or begun it, for too long.
    "gone": Meaning(
        lost=True,
        why="its process or machine was gone",
        may_requeue=True,
        watch="sign",
        sign_refutes=True,
    ),
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
