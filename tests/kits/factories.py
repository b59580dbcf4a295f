"""Made-up videos and options for tests of plans and segments."""

import dataclasses

from seedvr2_core.planning.plan import EngineSettings, Options
from seedvr2_core.video.info import ColorInfo, VideoInfo

UNTAGGED = ColorInfo(full_range=False, matrix=6, primaries=2, transfer=2)


def make_info(
    width: int = 320,
    height: int = 180,
    *,
    pts: tuple[int, ...] = tuple(range(0, 300)),
    time_base: tuple[int, int] = (1, 25),
    rotation: int = 0,
    sar: tuple[int, int] = (1, 1),
) -> VideoInfo:
    """Describe an 8-bit H.264 video without colour tags; by default 300 frames at 25 per second."""
    return VideoInfo(
        format_name="mp4",
        size_bytes=1,
        stream_index=0,
        codec="h264",
        pix_fmt="yuv420p",
        bit_depth=8,
        width=width,
        height=height,
        rotation=rotation,
        sar=sar,
        color=UNTAGGED,
        time_base=time_base,
        pts=pts,
        last_duration=1,
        nominal_rate=(25, 1),
    )


def make_options(**changes: object) -> Options:
    """The options of a 720p job for `lanczos`, with changes to fields of `Options`."""
    engine = EngineSettings.without_latents("lanczos")
    options = Options(
        resolution="720p",
        engine=engine,
        device="cpu",
        cpu_count=2,
        crf=18,
        preset="medium",
        segment_seconds=10,
    )
    return dataclasses.replace(options, **changes)
