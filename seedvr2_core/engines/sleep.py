"""The engine `sleep` takes 50 ms for each frame on every machine, and restores nothing.

It serves tests and measurements of everything around an engine: the cost of a frame is known, and
the processor stays free. It is offered only where the setting TEST_ENGINES is on.
"""

import functools
import time
from pathlib import Path

import numpy as np

from seedvr2_core.beat import Beat
from seedvr2_core.engines.per_frame import PerFrameSession
from seedvr2_core.engines.protocol import Opener, Session
from seedvr2_core.planning import Plan

FRAME_SECONDS = 0.05


def open_session(
    plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None = None
) -> Session:
    """A session that repeats pixels up to the plan's size (see `protocol.EngineModule`)."""
    return load(plan, device=device, beat=beat, weights_dir=weights_dir)(plan, beat=beat)


def load(plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None = None) -> Opener:
    """What stands for weights: there is nothing to load, which a measurement may make slow."""
    return _open


def _open(plan: Plan, *, beat: Beat) -> PerFrameSession:
    enlarge = functools.partial(_enlarge, height=plan.height, width=plan.width)
    return PerFrameSession(enlarge, beat=beat)


def _enlarge(rgb: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Repeat pixels (nearest neighbour), and return when the frame's time has passed."""
    end = time.monotonic() + FRAME_SECONDS
    rows = np.arange(height) * rgb.shape[0] // height
    columns = np.arange(width) * rgb.shape[1] // width
    enlarged = rgb[rows[:, None], columns]
    time.sleep(max(0.0, end - time.monotonic()))
    return enlarged
