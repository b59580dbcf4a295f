"""Predicts how long a job takes and sets the limits after which it counts as hung."""

from collections.abc import Mapping, Sequence

from seedvr2_core.planning.plan import Limits, Options, Segment
from seedvr2_core.planning.sizes import budget_name
from seedvr2_core.video.info import VideoInfo

STARTUP_SECONDS = 10.0
"""Starting the child, loading an engine without a large checkpoint, joining."""
ENGINE_SECONDS_PER_MPX: Mapping[str, tuple[float, float]] = {
    "span": (2.9, 0.01),
    "lanczos": (0.0, 0.01),
    "seedvr2-3b": (0.0, 0.29),
    "seedvr2-7b": (0.0, 0.30),
    "seedvr2-7b-sharp": (0.0, 0.30),
    "tiny": (0.0, 3.0),
    "tiny-3b": (0.0, 3.0),
}
"""Seconds of each engine per megapixel of the (source, output) frame. The small engines: measured
on two CPU cores. SeedVR2: the replaced service's own figures on H100 and H200, not measured by
us."""
ENGINE_SECONDS_PER_FRAME: Mapping[str, float] = {"sleep": 0.05}
"""Seconds of engines that take the same time for every frame, whatever its size."""
ENCODE_SECONDS_PER_MPX: Mapping[str, float] = {
    "ultrafast": 0.008,
    "superfast": 0.011,
    "veryfast": 0.014,
    "faster": 0.022,
    "fast": 0.030,
    "medium": 0.037,
    "slow": 0.065,
    "slower": 0.13,
    "veryslow": 0.25,
}
"""Seconds of each x264 preset per output megapixel on two cores (veryfast and medium measured)."""
MEASURED_CORES = 2
"""Cores that the CPU figures above hold for."""
GPU_SHARE = 0.1
"""A small engine's time on a GPU as a share of its CPU time. Assumed, not measured."""

LOAD_SECONDS = 600.0
"""Limit for loading the engine."""
SEGMENT_FACTOR, MIN_SEGMENT_SECONDS = 5, 600.0
"""Limit for a segment: so many times its predicted seconds, and at least so many seconds."""
JOB_FACTOR, MIN_JOB_SECONDS = 3, 7200.0
"""The same for a job."""
WINDOW_SECONDS: Mapping[str, int] = {"720p": 50, "1080p": 70, "2k": 120, "4k": 250}
"""The replaced service's seconds for a window of 100 frames."""
MODEL_LOAD_SECONDS = 45
"""The replaced service's seconds for loading the model."""


def seconds_per_frame(video: VideoInfo, width: int, height: int, options: Options) -> float:
    """Predicted wall seconds for one frame.

    SeedVR2 runs beside the encoder, so the slower of the two counts. On a CPU a small engine shares
    the cores with the encoder, so their times are added.
    """
    cores = options.cpu_count / MEASURED_CORES
    source_mpx, output_mpx = video.width * video.height / 1e6, width * height / 1e6
    per_source, per_output = ENGINE_SECONDS_PER_MPX.get(options.engine.name, (0.0, 0.0))
    engine = per_source * source_mpx + per_output * output_mpx
    encode = ENCODE_SECONDS_PER_MPX[options.preset] * output_mpx / cores
    if options.engine.name in ENGINE_SECONDS_PER_FRAME:
        return max(ENGINE_SECONDS_PER_FRAME[options.engine.name], encode)
    if options.engine.name.startswith("seedvr2"):
        return max(engine, encode)
    return (engine / cores if options.device == "cpu" else engine * GPU_SHARE) + encode


def make_limits(
    segments: Sequence[Segment], per_frame: float, eta: float, options: Options
) -> Limits:
    """The limits of a job. They are generous: they end what hangs, not what is slow.

    Args:
        segments: of the job.
        per_frame: predicted seconds of a frame.
        eta: predicted seconds of the job.
        options: may set the stall limit and the job's limit.
    """
    seconds = [SEGMENT_FACTOR * per_frame * segment.num_frames for segment in segments]
    return Limits(
        load=LOAD_SECONDS,
        stall=options.stall_seconds or stall_limit(options.resolution, options.batch_size),
        segment=tuple(max(MIN_SEGMENT_SECONDS, limit) for limit in seconds),
        job=options.job_seconds or max(MIN_JOB_SECONDS, JOB_FACTOR * eta),
    )


def stall_limit(resolution: str, batch_size: int) -> float:
    """Seconds without a sign of life after which the child counts as hung.

    This is the rule of the service that this one replaces: one and a half times the seconds of a
    window and a model load, at least 180 s; for 2k and 4k three times, at least 360 s.
    """
    budget = budget_name(resolution)
    window = int(WINDOW_SECONDS[budget] * batch_size / 100)
    if budget in ("2k", "4k"):
        return float(max(int((window + MODEL_LOAD_SECONDS) * 3), 360))
    return float(max(int((window + MODEL_LOAD_SECONDS) * 1.5), 180))
