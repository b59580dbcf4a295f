"""What a child keeps from one job to the next: the loaded engine, and the lock of its GPU."""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from seedvr2_core.beat import Beat
from seedvr2_core.engines.protocol import Opener, Session
from seedvr2_core.engines.reuse import load_for, reuse_key
from seedvr2_core.engines.seedvr2.parking import give_back
from seedvr2_core.files.process import give_memory_back
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.planning import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """The weights of an engine, loaded."""

    key: str
    opener: Opener
    name: str
    device: str


class Kept:
    """An engine and the locks of its device. At most one of each; all of it ends with `close`."""

    def __init__(self) -> None:
        """Nothing is loaded and nothing is held."""
        self.locks: dict[Path, tuple[int, int]] = {}
        """The lock files of the device, each with the device and number of its inode."""
        self.files: tuple[Path, ...] = ()
        """Directory and source of the last job."""
        self._held = ExitStack()
        self._weights: _Weights | None = None
        self._free_before: int | None = None
        """Free bytes of the device before anything was loaded."""

    @property
    def engine(self) -> str:
        """Name of the engine; "" if none is loaded, or if it may not be kept."""
        return self._weights.name if self._weights is not None and self._weights.key else ""

    @property
    def device(self) -> str:
        """Torch device string of the engine; "" if none is loaded."""
        return self._weights.device if self._weights is not None else ""

    def hold(self, path: Path, hold: Callable[[], AbstractContextManager[None]]) -> None:
        """Hold a lock from now on, unless it is held already.

        Args:
            path: of the lock's file.
            hold: holds it for the length of a `with` block.
        """
        if path not in self.locks:
            self._held.enter_context(hold())
            found = path.stat()
            self.locks[path] = found.st_dev, found.st_ino

    def open_session(
        self, plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None
    ) -> tuple[Session, bool]:
        """A session of the engine that a plan wants, and whether it was loaded before.

        Raises:
            CheckpointError, ResourceError: as `EngineModule.open_session`.
        """
        key, known = reuse_key(plan, device), self._weights
        warm = known is not None and known.key == key != ""
        if known is None or not warm:
            self._weights = known = None  # its memory first
            self.tidy()
            if self._free_before is None:
                self._free_before = free_bytes(device)
            opener = load_for(plan, device=device, beat=beat, weights_dir=weights_dir)
            known = _Weights(key=key, opener=opener, name=plan.engine.name, device=device)
            self._weights = known
        return known.opener(plan, beat=beat), warm

    def spoil(self) -> None:
        """Do not use the engine again: a session has changed how its weights lie in memory."""
        if self._weights is not None:
            weights = self._weights
            self._weights = _Weights(
                key="", opener=weights.opener, name=weights.name, device=weights.device
            )

    def tidy(self) -> None:
        """Give back all memory but the engine's."""
        gc.collect()
        if self.device:
            give_back(torch.device(self.device))
        give_memory_back()

    def device_bytes(self) -> int:
        """What the device has back when this process ends, but for what any process takes of it."""
        if self._free_before is None or not self.device:
            return 0
        return max(0, self._free_before - (free_bytes(self.device) or 0))

    def close(self) -> None:
        """Let go of engine and locks."""
        self._weights = None
        self._held.close()
        self.locks.clear()


def free_bytes(device: str) -> int | None:
    """Memory that is free on a GPU; None for any other device."""
    return torch.cuda.mem_get_info(device)[0] if on_gpu(device) else None
