"""What an engine is, and the table of engines. Imports no torch: the flow process reads it too.

An engine restores the frames of one shot after another. The child process opens a session once
and feeds it shot by shot, piece by piece (a piece is the part of a shot that lies in one segment).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from seedvr2_core.frames import Frame

if TYPE_CHECKING:
    from seedvr2_core.planning import Piece, Plan, Shot

Heartbeat = Callable[[str, int, int], None]
"""Called by the working thread as beat(phase, done, total), at least once a frame or slice."""


@dataclass(slots=True)
class ShotState:
    """What an engine carries from piece to piece of one shot; engines with memory subclass it."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What a finished piece leaves on disk beside its packets; None for engines without latents."""

    latents: Any | None = None
    """Final latents that the piece owns, torch float16 (T, H/8, W/8, 16) on the CPU."""
    tail: Any | None = None
    """The last window's own output on what the next piece shares with it, float32; None at the
    end of a shot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """What `Session.warm_up` needs to rebuild the state at the start of a piece."""

    first_frame: int
    """First source frame (file index) to read; piece.start if none before it is needed."""
    first_latent: int
    """First committed latent (of the shot) to hand over; 0 for engines without latents."""


class Session(Protocol):
    """A loaded engine. One shot at a time; frames come out in order, lazily."""

    @property
    def precision(self) -> str:
        """What it computes in now, for the sidecar ("float16 vae, bfloat16 dit")."""
        ...

    @property
    def rung(self) -> str:
        """How the last piece was fitted into less memory than planned; "" if it was not."""
        ...

    def fall_back(self) -> bool:
        """After a NumericalError or DeviceMemoryError: step down the ladder of what failed.

        Returns:
            Whether there was a step; pending pieces are then done again.
        """
        ...

    def adopt_precision(self, shot: "Shot", precision: str) -> None:
        """Go on with a shot as its earlier pieces were made, maybe by another process.

        Args:
            shot: before its first piece here.
            precision: of the piece before, from its sidecar.
        """
        ...

    def start(self, shot: "Shot") -> ShotState:
        """State for the first piece of a shot."""
        ...

    def plan_warm_up(self, shot: "Shot", piece: "Piece") -> WarmUp:
        """What `warm_up` needs for a piece inside a shot."""
        ...

    def read_stop(self, shot: "Shot", piece: "Piece") -> int:
        """One past the last source frame that `restore` reads for the piece."""
        ...

    def warm_up(
        self,
        frames: Iterator[Frame],
        latents: Any | None,
        tail: Any | None,
        *,
        shot: "Shot",
        piece: "Piece",
    ) -> ShotState:
        """Rebuild the state at the start of a piece inside a shot.

        Args:
            frames: source frames from `plan_warm_up`'s first on; consumed up to what the state
                holds.
            latents: final latents committed before the piece, from `plan_warm_up`'s first on
                (T, H/8, W/8, 16) float16; None for engines without latents.
            tail: tail committed by the piece before, float32; None likewise.
            shot: the shot.
            piece: the piece that comes next.
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
            state: of the piece before or from `start`/`warm_up`; complete for the next piece
                when the iterator is exhausted.

        Returns:
            Frames of the target size, same pts and index as their sources, uint8 or uint16.
        """
        ...

    def take_commit(self) -> Commit:
        """What the piece restored last leaves on disk."""
        ...

    def close(self) -> None:
        """Free the device."""
        ...


class EngineModule(Protocol):
    """What the module behind a table row offers."""

    def open_session(
        self, plan: "Plan", *, device: str, beat: Heartbeat, weights_dir: Path | None = None
    ) -> Session:
        """Load weights onto the device and return a session that obeys the plan.

        Args:
            plan: target size, seed, windows, thread count ...
            device: a torch device string, "cpu" or "cuda:0".
            beat: heartbeat callback.
            weights_dir: folder of the SeedVR2 weights; other engines have no use for it.

        Raises:
            CheckpointError: weights missing or wrong.
            ResourceError: the device cannot hold what the plan asks for.
        """
        ...
