"""Predicts how long a job takes, and when it counts as hung.

A frame costs seconds of the engine, of the encoder and of the check (`FrameSeconds`). The tables
below have them for one machine; `Rates` corrects them for another, and the running job corrects
them by what it has taken so far (`tasks/child/time_left.py`).
"""

from collections.abc import Mapping

from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.outputs import chosen_codec
from seedvr2_core.planning.plan import FrameSeconds, Limits, Options, Rates
from seedvr2_core.planning.sizes import BUDGETS_PX, NAMED, budget_for, budget_of_size
from seedvr2_core.video.info import VideoInfo, VideoOutline
from seedvr2_core.video.output.formats import CODECS, NVENC

STARTUP_SECONDS = 1.8
"""Starting the child and loading an engine without a large checkpoint."""
DELIVERY_SECONDS = 0.6
"""Joining, checking and storing a short video."""
PICTURE_SECONDS_PER_MPX = 0.12
"""The before/after picture, per output megapixel."""
DELIVERY_SECONDS_PER_MPX = 0.0002
"""For each frame more, per output megapixel: its bytes are joined, stored and read again. These
three: measured with jobs of 200 to 400 frames at 720p to 4k, stored in a folder."""
FINISH_SECONDS = 0.5
"""From the report to the run's end, which Prefect keeps."""
CHECK_SECONDS_PER_MPX = 0.0016
"""Decoding a segment to count its frames, per frame and output megapixel, on two cores."""
LOOKAHEAD: Mapping[str, int] = {
    "ultrafast": 0,
    "superfast": 0,
    "veryfast": 10,
    "faster": 20,
    "fast": 30,
    "medium": 40,
    "slow": 50,
    "slower": 60,
    "veryslow": 60,
}
"""Frames that each x264 preset looks ahead: so many are taken before the first is encoded, and a
short clip seems to run fast at first."""
REPORT_SHARE, REPORT_SECONDS = 0.04, 0.25
"""Part of a job's time that its report may take, and what it takes at the least: one place is
looked at in any case. Measured on two CPU cores, in the process that has joined the segments."""
ENGINE_SECONDS_PER_MPX: Mapping[str, tuple[float, float]] = {
    "span": (5.0, 0.01),
    "waifu2x": (5.9, 0.02),
    "lanczos": (0.0, 0.002),
    "seedvr2-3b": (0.0, 0.29),
    "seedvr2-7b": (0.0, 0.30),
    "seedvr2-7b-sharp": (0.0, 0.30),
    "seedvr2-1.4b": (0.0, 0.28),
    "tiny": (0.0, 3.0),
    "tiny-3b": (0.0, 3.0),
}
"""Seconds of each engine per megapixel of the (source, output) frame. The small engines: measured
on two CPU cores (waifu2x takes 1.18 times span's CPU time). SeedVR2: the replaced service's own
figures on H100 and H200, not measured by us; for the 1.4B, which it did not have, the VAE's share
and a sixth of the rest."""
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
NVENC_SECONDS_PER_MPX = 0.004
"""The same of the video unit of a GPU, whose presets differ less. Assumed, not measured."""
PLAIN_PRESET = "medium"
"""What the slowness of a codec without presets is compared with."""
MEASURED_CORES = 2
"""Cores that the CPU figures above hold for."""
GPU_SHARE = 0.1
"""A small engine's time on a GPU as a share of its CPU time. Assumed, not measured."""

LOAD_SECONDS = 600.0
"""Longest silence while the engine is loaded: torch is imported and nothing beats meanwhile."""
PROGRESS_FACTOR, PROGRESS_STALLS = 10, 3
"""Work may stand still, with signs of life, for so many times the seconds of the longest piece, and
at least for so many stall limits. After a step down a ladder a piece is done once more."""
WINDOW_SECONDS: Mapping[str, int] = {"720p": 50, "1080p": 70, "2k": 120, "4k": 250}
"""The replaced service's seconds for a window of 100 frames."""
MODEL_LOAD_SECONDS = 45
"""The replaced service's seconds for loading the model."""


def frame_seconds(
    video: VideoInfo | VideoOutline,
    width: int,
    height: int,
    options: Options,
    rates: Rates | None = None,
) -> FrameSeconds:
    """Predicted seconds of one frame.

    SeedVR2 runs beside the encoder, so the slower of the two counts. On a CPU a small engine shares
    the cores with the encoder, so their times are added.

    Args:
        video: the source.
        width: of the output.
        height: of the output.
        options: engine, device, preset and number of cores.
        rates: of this machine; None: as the tables have it.
    """
    rates = rates or Rates()
    cores = options.cpu_count / MEASURED_CORES
    source_mpx, output_mpx = video.width * video.height / 1e6, width * height / 1e6
    codec = CODECS[chosen_codec(video, options)]
    per_mpx = ENCODE_SECONDS_PER_MPX[options.preset if codec.by_preset else PLAIN_PRESET]
    encoder = rates.encoder * per_mpx * codec.slowness * output_mpx / cores
    if options.encoder == NVENC:
        encoder = rates.encoder * NVENC_SECONDS_PER_MPX * output_mpx
    check = rates.encoder * CHECK_SECONDS_PER_MPX * output_mpx / cores
    name = options.engine.name
    beside = name.startswith("seedvr2") or name in ENGINE_SECONDS_PER_FRAME
    if name in ENGINE_SECONDS_PER_FRAME:
        engine = ENGINE_SECONDS_PER_FRAME[name]
    else:
        per_source, per_output = ENGINE_SECONDS_PER_MPX.get(name, (0.0, 0.0))
        engine = rates.engine * (per_source * source_mpx + per_output * output_mpx)
        if not beside:
            engine = engine / cores if options.device == "cpu" else engine * GPU_SHARE
    return FrameSeconds(
        engine=engine,
        encoder=encoder,
        check=check,
        beside=beside,
        lookahead=LOOKAHEAD[options.preset] if codec.by_preset and options.encoder != NVENC else 0,
        mpx=output_mpx,
        rates=rates,
    )


def job_seconds(frame: FrameSeconds, num_frames: int, *, coded: int = 0) -> float:
    """Predicted seconds of a whole job.

    Args:
        frame: of a frame.
        num_frames: of the job.
        coded: of these, frames that are coded from masters, without the engine.
    """
    work = frame.of(1, 1) * (num_frames - coded) + frame.of(0, 1) * coded
    return STARTUP_SECONDS + work + delivery_seconds(frame, num_frames)


def report_seconds(job: float) -> float:
    """Predicted seconds of the report of a job that takes so many seconds."""
    return max(REPORT_SECONDS, REPORT_SHARE * job)


def delivery_seconds(frame: FrameSeconds, num_frames: int) -> float:
    """Predicted seconds of joining, drawing the picture, checking and storing."""
    per_mpx = PICTURE_SECONDS_PER_MPX + DELIVERY_SECONDS_PER_MPX * num_frames
    return frame.rates.delivery * (DELIVERY_SECONDS + per_mpx * frame.mpx)


def make_limits(options: Options, width: int, height: int) -> Limits:
    """The limits of a job: they end what hangs and not what is slow.

    Args:
        options: may set the stall limit, and a limit of the whole job.
        width: of the output, in pixels.
        height: of the output.
    """
    return Limits(
        load=LOAD_SECONDS,
        stall=options.stall_seconds or _stall_limit(options, width, height),
        job=options.job_seconds,
    )


def progress_limit(plan: PlanOutline, *, stall_seconds: float, per_frame: float) -> float:
    """Seconds for which work may stand still although the child gives signs of life.

    A child that works finishes a slice, a window or a frame now and then. Only after a step down a
    ladder it says nothing new for as long as it takes to do a piece once more.

    Args:
        plan: of the job.
        stall_seconds: the stall limit in force.
        per_frame: seconds of a frame, predicted or as measured so far, whichever is more.
    """
    return max(PROGRESS_STALLS * stall_seconds, PROGRESS_FACTOR * per_frame * plan.longest_piece)


def stall_limit(resolution: str, batch_size: int) -> float:
    """Seconds without a sign of life after which the child counts as hung.

    This is the rule of the service that this one replaces: one and a half times the seconds of a
    window and a model load, at least 180 s; for 2k and 4k three times, at least 360 s.
    """
    return _stall_seconds(budget_for(resolution), batch_size)


def _stall_limit(options: Options, width: int, height: int) -> float:
    """The stall limit of a job; of a factor or a box by the pixels that come out."""
    if options.resolution in NAMED:
        return stall_limit(options.resolution, options.batch_size)
    budget = budget_of_size(width, height)
    times = max(1.0, width * height / BUDGETS_PX[budget])
    return _stall_seconds(budget, round(options.batch_size * times))


def _stall_seconds(budget: str, batch_size: int) -> float:
    """`stall_limit` for a budget."""
    window = int(WINDOW_SECONDS[budget] * batch_size / 100)
    if budget in ("2k", "4k"):
        return float(max(int((window + MODEL_LOAD_SECONDS) * 3), 360))
    return float(max(int((window + MODEL_LOAD_SECONDS) * 1.5), 180))
