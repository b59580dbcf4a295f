"""Loaded weights that outlive a session: which jobs may share them, and how they are loaded."""

from pathlib import Path
from typing import Protocol

from seedvr2_core.beat import Beat
from seedvr2_core.engines.protocol import Opener, Session
from seedvr2_core.engines.table import load_engine
from seedvr2_core.files.durable import canonical_json
from seedvr2_core.planning import Plan
from seedvr2_core.planning.plan import EngineSettings, MemoryPlan


class WeightsWanted(Protocol):
    """What a plan, or its outline, says of the weights that it wants."""

    @property
    def engine(self) -> EngineSettings:
        """The engine, with the digest of its weights."""
        ...

    @property
    def memory(self) -> MemoryPlan | None:
        """How they lie in memory; None for engines without latents."""
        ...

    @property
    def weights_file(self) -> str:
        """Name of the file that the request names; "": any that serves."""
        ...


def reuse_key(plan: WeightsWanted, device: str) -> str:
    """Names the loaded weights that a plan wants: two plans with one key may share them.

    "" where they may not be shared: weights that wait in host memory while another phase runs, or
    come layer by layer, are where the last session has left them.
    """
    memory = plan.memory
    if memory is not None and (not memory.weights_resident or memory.streamed_layers):
        return ""
    return canonical_json(
        {
            "engine": plan.engine.name,
            "weights": plan.engine.weights_digest,
            "file": plan.weights_file,
            "dtype": memory.dit_dtype if memory is not None else "",
            "device": device,
        }
    )


def load_for(plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None) -> Opener:
    """Load the weights that a plan wants. An engine without `load` has none worth keeping.

    Raises:
        CheckpointError, ResourceError: as `EngineModule.open_session`.
    """
    module = load_engine(plan.engine.name)
    load = getattr(module, "load", None)
    if load is not None:
        return load(plan, device=device, beat=beat, weights_dir=weights_dir)

    def open_anew(plan: Plan, *, beat: Beat) -> Session:
        return module.open_session(plan, device=device, beat=beat, weights_dir=weights_dir)

    return open_anew
