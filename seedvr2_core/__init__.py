"""SeedVR2 restoration: the model and the media, without orchestration.

The public names are loaded on first use, so that importing the package loads neither torch nor av.
"""

from typing import TYPE_CHECKING

from seedvr2_core.lazy import loaded_on_use

if TYPE_CHECKING:
    from seedvr2_core.api.files import UpscaledFile, upscale_file
    from seedvr2_core.api.options import ModelOptions, Progress
    from seedvr2_core.api.restorer import Restorer, upscale_frames
    from seedvr2_core.config import ENGINES, PIXEL_VERSION
    from seedvr2_core.engines import load_engine
    from seedvr2_core.errors import SeedVR2Error
    from seedvr2_core.frames import Frame
    from seedvr2_core.planning import Plan
    from seedvr2_core.video.info import VideoInfo
    from seedvr2_core.video.probe import probe_video
    from seedvr2_core.video.reader import read_frames

__all__ = [
    "ENGINES",
    "PIXEL_VERSION",
    "Frame",
    "ModelOptions",
    "Plan",
    "Progress",
    "Restorer",
    "SeedVR2Error",
    "UpscaledFile",
    "VideoInfo",
    "load_engine",
    "probe_video",
    "read_frames",
    "upscale_file",
    "upscale_frames",
]

__getattr__ = loaded_on_use(
    __name__,
    {
        "upscale_file": "seedvr2_core.api.files",
        "UpscaledFile": "seedvr2_core.api.files",
        "ModelOptions": "seedvr2_core.api.options",
        "Progress": "seedvr2_core.api.options",
        "Restorer": "seedvr2_core.api.restorer",
        "upscale_frames": "seedvr2_core.api.restorer",
        "Plan": "seedvr2_core.planning.plan",
        "VideoInfo": "seedvr2_core.video.info",
        "Frame": "seedvr2_core.frames",
        "SeedVR2Error": "seedvr2_core.errors",
        "probe_video": "seedvr2_core.video.probe",
        "read_frames": "seedvr2_core.video.reader",
        "load_engine": "seedvr2_core.engines.table",
        "ENGINES": "seedvr2_core.config",
        "PIXEL_VERSION": "seedvr2_core.config",
    },
)
