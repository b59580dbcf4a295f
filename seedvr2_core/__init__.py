"""SeedVR2 restoration: the model and the media, without orchestration.

The public names are loaded on first use, so that importing the package loads neither torch nor av.
"""

import importlib
from typing import TYPE_CHECKING, Any

from seedvr2_core.config import PIXEL_VERSION

if TYPE_CHECKING:
    from seedvr2_core.config import ENGINES
    from seedvr2_core.engines.table import load_engine
    from seedvr2_core.errors import SeedVR2Error
    from seedvr2_core.frames import Frame
    from seedvr2_core.planning.plan import Plan
    from seedvr2_core.video.info import VideoInfo
    from seedvr2_core.video.probe import probe_video
    from seedvr2_core.video.reader import read_frames


_HOME = {
    "Plan": "seedvr2_core.planning.plan",
    "VideoInfo": "seedvr2_core.video.info",
    "Frame": "seedvr2_core.frames",
    "SeedVR2Error": "seedvr2_core.errors",
    "probe_video": "seedvr2_core.video.probe",
    "read_frames": "seedvr2_core.video.reader",
    "load_engine": "seedvr2_core.engines.table",
    "ENGINES": "seedvr2_core.config",
}

__all__ = [
    "ENGINES",
    "PIXEL_VERSION",
    "Frame",
    "Plan",
    "SeedVR2Error",
    "VideoInfo",
    "load_engine",
    "probe_video",
    "read_frames",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'seedvr2_core' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
