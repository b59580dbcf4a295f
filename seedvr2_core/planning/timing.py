"""Predicts how long a job takes, how much of it is left, and when it counts as hung.

A frame costs seconds of the engine and seconds of the encoder (`FrameSeconds`). The tables below
have them for one machine; `Rates` corrects them for another, and the running job corrects both by
what it has taken so far (`seconds_left`).
"""

import math
from collections.abc import Mapping

from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.outputs import chosen_codec
from seedvr2_core.planning.plan import FrameSeconds, Limits, Options, Rates
from seedvr2_core.planning.sizes import BUDGETS_PX, NAMED, budget_for, budget_of_size
from seedvr2_core.video.info import VideoInfo, VideoOutline
from seedvr2_core.video.output.formats import CODECS, NVENC

STARTUP_SECONDS = 1.8
"""Starting the child and loading an engine without a large checkpoint."""
DELIVERY_SECONDS = 2.0
"""Joining, checking and storing a short video."""
DELIVERY_SECONDS_PER_MPX = 0.001
"""The same for each frame more, per output megapixel: its segment is decoded once to be counted."""
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
SHARE_LOOKED_AT, SHARE_BEGUN, MOST_BEGUN = 0.1, 0.6, 12
"""How much of a frame's encoding is done when x264 has only looked at it, and when it is among the
frames that its threads have begun, which are so many at the most: what the engine has restored
beyond them waits in the queue in front of the encoder. Measured in seconds of a processor with
preset medium, 1080p, two segments of 100 frames: 40 were looked at, 12 begun, 8 waited."""
FIRST_SPREAD, GUESS_SPREAD, LAST_SPREAD, SPREAD_PACE = 1.6, 3.0, 1.15, 10.0
"""`spread` of the time left: at first, at first where nothing was measured, and in the end; after
SPREAD_PACE-th of the work it has come two thirds of the way."""
USUAL_SWAY, USUAL_WEIGHT = 0.3, 4.0
"""How unsteady a job is taken to be before it was watched (`Sway`), and for how many looks at it
that counts."""
SWAY_LOOK_SECONDS, SWAY_SECONDS = 3.0, 20.0
"""Time between two looks at a job's speed, and for how long a speed lasts on a machine that others
use too."""
SURE = 1.6
"""How many standard deviations a range holds, either way."""
DELIVERY_SPREAD = 2.0
"""By which factor delivery and report may be wrong: nothing of this job shows their speed."""
REPORT_SHARE, REPORT_SECONDS = 0.04, 0.25
"""Part of a job's time that its report may take, and what it takes at the least: one place is
looked at in any case. Measured on two CPU cores, in the process that has joined the segments."""
TRUST_SHARE, TRUST_SECONDS = 0.02, 1.0
"""A job's own speed counts as much as the predicted one after this share of its time, and after so
many seconds at the latest."""
ENGINE_SECONDS_PER_MPX: Mapping[str, tuple[float, float]] = {
    "span": (5.0, 0.01),
    "waifu2x": (5.9, 0.02),
    "lanczos": (0.0, 0.01),
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


def seconds_left(
    frame: FrameSeconds,
    num_frames: int,
    *,
    work: float,
    encoded: float,
    awake: float,
    hands: int = 1,
) -> float:
    """Seconds until the job's output is stored, from what the child has done so far.

    What was done should have taken some time. What it took, over that, is how much slower this job
    is than predicted, and the same holds for what is left.

    Args:
        frame: predicted seconds of a frame.
        num_frames: that the child was asked for.
        work: frames restored of these, parts included.
        encoded: of these, frames that have left the encoder.
        awake: seconds since the engine was ready.
        hands: how many processes share what is left.
    """
    encoder_work = _encoder_work(frame, work=work, encoded=encoded)
    done, total = frame.of(work, encoder_work), frame.of(num_frames, num_frames)
    slower = _times(awake, done, trust=_trust(frame, num_frames, done))
    left = slower * max(0.0, total - done) / hands
    return left + delivery_seconds(frame, num_frames) * _times_of_delivery(frame, slower)


def seconds_left_range(
    frame: FrameSeconds,
    num_frames: int,
    *,
    work: float,
    encoded: float,
    awake: float,
    hands: int = 1,
    report: float = 0.0,
    sway: float = USUAL_SWAY,
) -> tuple[float, float]:
    """The least and the most that `seconds_left` and the report may be.

    Engine and encoder have a spread each, because one of them may have shown its speed and the
    other not yet: the encoder's frames come out at the end. Only one time was measured, that of
    both. So the least is also what is left if the engine alone was slow, and the encoder is as
    predicted. `benchmarks/estimate.py` prints how often the truth lay inside.

    Args: as `seconds_left` has them; `report` is the report's predicted seconds, and `sway` how
        unsteady the job is (`Sway`).
    """
    encoder_work = _encoder_work(frame, work=work, encoded=encoded)
    done, total = frame.of(work, encoder_work), frame.of(num_frames, num_frames)
    trust = _trust(frame, num_frames, done)
    slower = _times(awake, done, trust=trust)
    measured, goes_on = frame.rates.measured, slower * max(0.0, total - done) / hands
    of_engine, of_encoder = (
        spread(frames / max(1, num_frames), measured=measured, awake=awake, left=goes_on, sway=sway)
        for frames in (work, encoded)
    )
    if frame.beside:
        left = slower * max(0.0, total - done)
        least, most = left / of_engine, left * of_engine
    else:
        engine = max(0.0, num_frames - work) * frame.engine
        encoder = max(0.0, num_frames - encoder_work) * frame.encoder
        least = slower * (engine / of_engine + encoder / of_encoder)
        most = slower * (engine * of_engine + encoder * of_encoder)
        of_it = awake - encoder_work * frame.encoder
        if (alone := _times(of_it, work * frame.engine, trust=trust)) > 1:
            least = min(least, (alone * engine + encoder) / of_engine)
    times = _times_of_delivery(frame, slower)
    rest = delivery_seconds(frame, num_frames) * times + report
    wrong = DELIVERY_SPREAD * math.sqrt(max(times, 1 / times))
    return least / hands + rest / wrong, most / hands + rest * wrong


def _times_of_delivery(frame: FrameSeconds, slower: float) -> float:
    """How many times as long as predicted delivery will take, by how slow the job is.

    Where the work runs on the cores that also deliver, part of its slowness is the machine's own.
    """
    return 1.0 if frame.beside else math.sqrt(slower)


def _trust(frame: FrameSeconds, num_frames: int, done: float) -> float:
    """How much a job's own speed counts, 0..1, after so many predicted seconds of it."""
    trusted = min(TRUST_SECONDS, TRUST_SHARE * frame.of(num_frames, num_frames))
    return done / (done + trusted) if done > 0 else 0.0


def _times(took: float, predicted: float, *, trust: float) -> float:
    """How many times as long as predicted something took, as far as that is trusted."""
    return (max(took, 1e-3) / predicted) ** trust if predicted > 0 else 1.0


def report_seconds(job: float) -> float:
    """Predicted seconds of the report of a job that takes so many seconds."""
    return max(REPORT_SECONDS, REPORT_SHARE * job)


def spread(share: float, *, measured: bool, awake: float, left: float, sway: float) -> float:
    """By which factor the time left may be wrong, either way: 2 means half to twice.

    It is wide at first, wider where nothing was measured on this machine, and narrows while the
    job's own speed shows. How far it narrows depends on how unsteady that speed is: what was seen
    for some seconds says little of the next ones, and of a long time only the middle counts.

    Args:
        share: of the work that is done, 0..1.
        measured: the predicted seconds of a frame rest on measurements of this machine.
        awake: seconds for which the job was watched.
        left: seconds that it goes on, about.
        sway: as `Sway` has it.
    """
    first = math.log(FIRST_SPREAD if measured else GUESS_SPREAD)
    own = math.exp(-SPREAD_PACE * share) * first
    seen, coming = (SWAY_SECONDS / (seconds + SWAY_SECONDS) for seconds in (awake, max(0.0, left)))
    by_sway = SURE * sway * math.sqrt(seen + coming)
    return math.exp(math.sqrt(own**2 + by_sway**2 + math.log(LAST_SPREAD) ** 2))


class Sway:
    """How unsteady a job's speed is: the standard deviation of its logarithm, of a few seconds."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._at = self._done = 0.0
        self._found: list[float] = []

    def note(self, *, awake: float, done: float) -> None:
        """Note that what should have taken `done` seconds was done after `awake` seconds."""
        if awake - self._at < SWAY_LOOK_SECONDS or done <= self._done:
            return
        self._found.append(math.log((awake - self._at) / (done - self._done)))
        self._at, self._done = awake, done

    @property
    def deviation(self) -> float:
        """The standard deviation; before the job was watched, that of a usual machine."""
        squares = USUAL_WEIGHT * USUAL_SWAY**2
        if not self._found:
            return USUAL_SWAY
        middle = sum(self._found) / len(self._found)
        squares += sum((one - middle) ** 2 for one in self._found)
        return math.sqrt(squares / (USUAL_WEIGHT + len(self._found) - 1))


def done_share(frame: FrameSeconds, num_frames: int, *, work: float, encoded: float) -> float:
    """How much of the work is done, 0..1: it rises with the engine's frames and the encoder's.

    Args:
        frame: predicted seconds of a frame.
        num_frames: that the child was asked for.
        work: frames restored of these, parts included.
        encoded: of these, frames that have left the encoder.
    """
    encoder_work = _encoder_work(frame, work=work, encoded=encoded)
    done = work * frame.engine + encoder_work * frame.encoder
    return min(1.0, done / max(1e-9, num_frames * (frame.engine + frame.encoder)))


def done_seconds(frame: FrameSeconds, *, work: float, encoded: float) -> float:
    """What the work so far should have taken; arguments as `seconds_left` has them."""
    return frame.of(work, _encoder_work(frame, work=work, encoded=encoded))


def _encoder_work(frame: FrameSeconds, *, work: float, encoded: float) -> float:
    """What the encoder has done, in frames: those it gave out, a part of those it works at."""
    inside = max(0.0, work - encoded)
    looked_at = min(inside, frame.lookahead)
    begun = min(inside - looked_at, MOST_BEGUN)
    return encoded + SHARE_LOOKED_AT * looked_at + SHARE_BEGUN * begun


def delivery_seconds(frame: FrameSeconds, num_frames: int) -> float:
    """Predicted seconds of joining, checking and storing."""
    by_table = DELIVERY_SECONDS + DELIVERY_SECONDS_PER_MPX * frame.mpx * num_frames
    return frame.rates.delivery * by_table


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
