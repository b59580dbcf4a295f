"""What an engine is: the protocol of its sessions and of the module that opens them.

The child process opens one session and restores shot after shot with it, piece by piece (a piece
is the part of a shot that lies in one segment). A run of neighbouring pieces of one shot goes:
`reads` says which frames and committed latents to fetch, `begin` makes the state at the first
piece, then `restore` and `take_commit` for every piece in order.

Imports no torch, so that reading the protocol stays cheap.

Shape legend: Z latents, h w latent grid (H/8, W/8).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from seedvr2_core.beat import Beat
from seedvr2_core.frames import Frame

if TYPE_CHECKING:
    from seedvr2_core.planning import Piece, Plan, Shot


@dataclass(slots=True)
class ShotState:
    """What an engine carries from piece to piece of one shot; engines with memory subclass it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What has to be read to restore a run of neighbouring pieces of one shot."""

    frames: range
    """File indices of the source frames. They begin before the run where its state is rebuilt, and
    end behind it by what its last piece shares with the next one; never outside the shot."""
    latents: range
    """The committed latents, counted from the shot's first, that `begin` needs. Empty at a shot's
    start and for engines without latents."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What is kept of a finished piece beside its frames, so that work can go on behind it."""

    latents: Any | None = None
    """Final latents, torch float16 (Z, h, w, 16) on the CPU; None for engines without latents."""
    tail: Any | None = None
    """The last window's own output on the latents that the next piece shares with it, float32
    (Z, h, w, 16) on the CPU; None at the end of a shot and for engines without latents."""
    precision: str = ""
    """What it was computed in, for the sidecar: "float16 vae, bfloat16 dit"."""
    rung: str = ""
    """How it was fitted into less memory than planned, for the sidecar; "" if it was not."""


class Session(Protocol):
    """A loaded engine. It works on one shot at a time; frames come out in order, lazily."""

    def reads(self, shot: "Shot", pieces: "Sequence[Piece]", *, unaided: bool = False) -> Reads:
        """What to read for a run. Changes nothing, so any thread may ask.

        Args:
            shot: the shot.
            pieces: neighbouring pieces of the shot, in order, at least one.
            unaided: nothing that was committed before the run may be asked for, because another
                process is still making it. The run then begins further ahead.
        """
        ...

    def begin(
        self,
        frames: Iterator[Frame],
        *,
        shot: "Shot",
        piece: "Piece",
        before: Commit | None = None,
        unaided: bool = False,
    ) -> ShotState:
        """The state at the start of a piece: fresh at a shot's start, else rebuilt.

        With or without what was committed before the state has the same bits.

        Args:
            frames: the source frames that `reads` names, in order; consumed as far as the state
                reaches.
            shot: the shot.
            piece: the one that is restored next.
            before: what the earlier pieces of the shot committed: exactly the latents that
                `reads` names, and tail and precision of the piece right before. None where
                `reads` names no latents.
            unaided: as `reads` was asked: make the latents that are needed once more.

        Raises:
            SegmentError: frames, latents or tail are not those that are needed.
        """
        ...

    def restore(
        self, frames: Iterator[Frame], *, shot: "Shot", piece: "Piece", state: ShotState
    ) -> Iterator[Frame]:
        """Restore exactly the piece's frames, in order.

        Args:
            frames: source frames that `state` has not read yet, in order; may be read past the
                piece's end by what the next piece shares with it, never past the shot's end.
            shot: the shot.
            piece: half-open range of file indices to yield.
            state: from `begin`, or as `restore` left it after the piece before. It is complete
                for the next piece when the iterator is exhausted.

        Returns:
            Frames of the target size, same pts and index as their sources, uint8 or uint16.
        """
        ...

    def take_commit(self) -> Commit:
        """What the piece that was exhausted last leaves; its latents are those that it owns."""
        ...

    def step_down(self) -> str:
        """After a NumericalError or DeviceMemoryError: one step down the ladder of what failed.

        Returns:
            The precision and the rung of memory from now on, in words; "" if no step is left.
            After a step all unfinished pieces are done again, from `begin` on.
        """
        ...

    def close(self) -> None:
        """Free the device."""
        ...


class Opener(Protocol):
    """Loaded weights: opens one session after another with them, each as if it were the first."""

    def __call__(self, plan: "Plan", *, beat: Beat) -> Session:
        """A session that obeys the plan; the sessions before it are closed.

        Raises:
            CheckpointError, ResourceError: as `EngineModule.open_session`.
        """
        ...


class EngineModule(Protocol):
    """What the module behind a table row offers.

    One whose weights take long to load also has `load`: it takes what `open_session` takes and
    returns an `Opener`, by which the weights outlive a session (`engines/reuse.py`).
    """

    def open_session(
        self, plan: "Plan", *, device: str, beat: Beat, weights_dir: Path | None = None
    ) -> Session:
        """Load the weights onto the device and return a session that obeys the plan.

        Args:
            plan: target size, seed, windows, thread count ...
            device: a torch device string, "cpu" or "cuda:0".
            beat: called by the working thread at least once a frame, slice or window.
            weights_dir: folder of the SeedVR2 weights; other engines have no use for it.

        Raises:
            CheckpointError: weights missing or wrong.
            ResourceError: the device cannot hold what the plan asks for.
        """
        ...
