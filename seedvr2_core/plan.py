"""The plan of a job: target size, shots, segments, limits, encoder. Arithmetic only, no model.

A plan is made once, written to plan.json and obeyed from then on; nothing in it is recomputed on
resume. Ranges are half-open in file indices of presented frames.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import PurePath

from seedvr2_core import PIXEL_VERSION
from seedvr2_core.errors import PlanError
from seedvr2_core.video.info import ColorInfo, EncoderSettings, VideoInfo

PLAN_FORMAT = 1
KEYINT_SECONDS = 5
X264_THREADS = 8
STARTUP_SECONDS = 10.0
"""Starting the child, loading an engine without a large checkpoint, joining."""
LOAD_SECONDS = 600.0
STALL_SECONDS = 180.0

BT709, UNSPECIFIED = 1, 2
"""H.273 codes."""

MEASURED_CORES = 2
ENGINE_SECONDS_PER_MPX: Mapping[str, tuple[float, float]] = {
    "span": (2.9, 0.01),
    "lanczos": (0.0, 0.01),
}
"""Engine -> seconds per megapixel of (source, output) frame, measured on two CPU cores."""
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
"""x264 preset -> seconds per output megapixel on two cores (veryfast and medium measured)."""
GPU_SHARE = 0.1
"""Assumed share of the CPU engine's time on a GPU; not measured."""

BUDGETS_PX: Mapping[str, int] = {
    "720p": 1280 * 720,
    "1080p": 1920 * 1080,
    "2k": 2560 * 1440,
    "4k": 3840 * 2160,
}
"""Pixels of the output picture; the sides follow the displayed aspect ratio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """The frames between two cuts."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The part of a shot that lies in one segment."""

    shot: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The unit of durable work: whole shots, or a part of one long shot."""

    index: int
    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def num_frames(self) -> int:
        """Frames the segment owns."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds after which the watchdog acts."""

    load: float
    """For the child to load the model and say it is ready."""
    stall: float
    """Without a heartbeat."""
    segment: tuple[float, ...]
    """For each segment."""
    job: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the engine is told; every field changes bytes of the output."""

    name: str
    weights_digest: str
    seed: int
    window: int
    """Latents per DiT window (engines with latents)."""
    overlap: int
    """Latents shared by neighbouring windows."""
    stitch_mode: str
    color_correction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything the child needs to know; plan.json."""

    format: int
    pixel_version: int
    job_key: str
    source_sha256: str
    video: VideoInfo
    resolution: str
    width: int
    """Of the output."""
    height: int
    engine: EngineSettings
    device: str
    """Torch device string the plan was made for; a resume elsewhere may use another."""
    torch_threads: int
    shots: tuple[Shot, ...]
    segments: tuple[Segment, ...]
    encoder: EncoderSettings
    eta_seconds: float
    limits: Limits
    notes: tuple[str, ...] = ()
    """Sentences for the user: warnings, lowered values, what was not carried over."""


def target_size(info: VideoInfo, resolution: str) -> tuple[int, int]:
    """(width, height) of the output, both even.

    The displayed picture is scaled so that its area is the resolution's budget.
    """
    width, height = info.display_size
    scale = math.sqrt(BUDGETS_PX[resolution] / float(width * height))
    sides = (max(2, 2 * round(float(side) * scale / 2)) for side in (width, height))
    return next(sides), next(sides)


def plan_latent_windows(batch_size: int, temporal_overlap: int | None) -> tuple[int, int, str]:
    """Window and overlap in latents from the request's frames, and a note ("" if none).

    Args:
        batch_size: frames per window, >= 1.
        temporal_overlap: frames shared by neighbouring windows; None = 12, lowered if need be.

    Raises:
        PlanError: the overlap would put a latent into three windows.
    """
    window = (batch_size - 1) // 4 + 1
    overlap = math.ceil((12 if temporal_overlap is None else temporal_overlap) / 4)
    largest = (window + 1) // 3
    if overlap <= largest:
        return window, overlap, ""
    if temporal_overlap is None:
        note = f"temporal overlap lowered to {4 * largest} frames to fit batch_size {batch_size}"
        return window, largest, note
    raise PlanError(
        f"temporal_overlap {temporal_overlap} is too large for batch_size {batch_size}: "
        f"at most {4 * largest} frames fit; lower it or raise batch_size"
    )


def plan_segments(
    video: VideoInfo,
    shots: Sequence[Shot],
    *,
    segment_seconds: float,
    soft_boundaries: Mapping[int, Sequence[int]],
) -> tuple[Segment, ...]:
    """Cut the file into segments of about `segment_seconds` of presentation time.

    Args:
        video: times of all frames.
        shots: rising, without gaps.
        segment_seconds: a segment closes at the first boundary at which it has lasted this long.
        soft_boundaries: shot index -> rising frame indices inside the shot where it may be cut.

    Returns:
        Segments that cover every frame once; each is whole shots or a part of one shot.
    """
    min_ticks = Fraction(segment_seconds) / Fraction(*video.time_base)
    pieces_by_segment: list[list[Piece]] = []
    gathered: list[Piece] = []

    def flush() -> None:
        if gathered:
            pieces_by_segment.append(list(gathered))
            gathered.clear()

    for shot in shots:
        cuts = _divide_shot(video.pts, shot, soft_boundaries.get(shot.index, ()), min_ticks)
        if len(cuts) > 2:
            flush()
            pieces_by_segment += [
                [Piece(shot=shot.index, start=a, stop=b)] for a, b in itertools.pairwise(cuts)
            ]
            continue
        gathered.append(Piece(shot=shot.index, start=shot.start, stop=shot.stop))
        end = video.pts[shot.stop] if shot.stop < len(video.pts) else video.pts[-1]
        if end - video.pts[gathered[0].start] >= min_ticks:
            flush()
    flush()
    return tuple(
        Segment(index=k, start=pieces[0].start, stop=pieces[-1].stop, pieces=tuple(pieces))
        for k, pieces in enumerate(pieces_by_segment)
    )


def _divide_shot(
    pts: Sequence[int], shot: Shot, candidates: Sequence[int], min_ticks: Fraction
) -> list[int]:
    """Boundaries of the shot's parts, its own start and stop included."""
    cuts = [shot.start]
    for frame in candidates:
        if pts[frame] - pts[cuts[-1]] >= min_ticks:
            cuts.append(frame)
    return [*cuts, shot.stop]


def job_key(options: Mapping[str, object]) -> str:
    """SHA-256 over everything that changes a byte of the output, as canonical JSON."""
    text = json.dumps(options, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def output_name(source_name: str, resolution: str, key: str) -> str:
    """`<stem, sanitised>_<resolution>_<12 digits of the key>.mp4`."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePath(source_name).stem).strip("._-")[:80]
    return f"{stem or 'video'}_{resolution}_{key[:12]}.mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a request asks for, resolved: the input of `build_plan`."""

    resolution: str
    engine: EngineSettings
    device: str
    cpu_count: int
    crf: int
    preset: str
    segment_seconds: float
    stall_seconds: float | None = None
    """Overrides the default stall limit."""
    job_seconds: float | None = None
    """Overrides the default job limit."""
    notes: tuple[str, ...] = ()


def build_plan(video: VideoInfo, source_sha256: str, options: Options) -> Plan:
    """Plan a job whose engine has no latents: the file is one shot, cut at any frame."""
    width, height = target_size(video, options.resolution)
    encoder = _encoder_settings(video, width, height, options)
    shots = (Shot(index=0, start=0, stop=video.num_frames),)
    segments = plan_segments(
        video,
        shots,
        segment_seconds=options.segment_seconds,
        soft_boundaries={0: range(1, video.num_frames)},
    )
    per_frame = seconds_per_frame(video, width, height, options)
    eta = STARTUP_SECONDS + per_frame * video.num_frames
    return Plan(
        format=PLAN_FORMAT,
        pixel_version=PIXEL_VERSION,
        job_key=_plan_key(source_sha256, options, encoder, segments),
        source_sha256=source_sha256,
        video=video,
        resolution=options.resolution,
        width=width,
        height=height,
        engine=options.engine,
        device=options.device,
        torch_threads=options.cpu_count,
        shots=shots,
        segments=segments,
        encoder=encoder,
        eta_seconds=round(eta, 1),
        limits=_limits(segments, per_frame, eta, options),
        notes=(*video.warnings, *options.notes, *_size_notes(video, width, height)),
    )


def seconds_per_frame(video: VideoInfo, width: int, height: int, options: Options) -> float:
    """Predicted wall seconds for one frame: the slower of the engine and the encoder."""
    cores = options.cpu_count / MEASURED_CORES
    source_mpx, output_mpx = video.width * video.height / 1e6, width * height / 1e6
    per_source, per_output = ENGINE_SECONDS_PER_MPX[options.engine.name]
    engine = per_source * source_mpx + per_output * output_mpx
    if options.device != "cpu":
        engine *= GPU_SHARE
    return (engine + ENCODE_SECONDS_PER_MPX[options.preset] * output_mpx) / cores


def _encoder_settings(
    video: VideoInfo, width: int, height: int, options: Options
) -> EncoderSettings:
    """How every segment is encoded.

    The matrix is BT.709, which players assume for HD; primaries and transfer are the source's,
    because the engines work on the coded R'G'B' and do not convert between them.
    """
    rate = Fraction(*video.nominal_rate)
    return EncoderSettings(
        codec="h264",
        preset=options.preset,
        crf=options.crf,
        pix_fmt="yuv420p",
        width=width,
        height=height,
        time_base=video.time_base,
        rate=video.nominal_rate,
        keyint=max(1, math.ceil(rate * KEYINT_SECONDS)),
        threads=X264_THREADS,
        color=ColorInfo(
            full_range=False,
            matrix=BT709,
            primaries=_tagged(video.color.primaries),
            transfer=_tagged(video.color.transfer),
        ),
    )


def _tagged(code: int) -> int:
    """An H.273 code, BT.709 where the source does not say."""
    return BT709 if code in (0, UNSPECIFIED) else code


def _plan_key(
    source_sha256: str,
    options: Options,
    encoder: EncoderSettings,
    segments: Sequence[Segment],
) -> str:
    """The job key: everything that changes a byte of the output on one kind of device."""
    return job_key(
        {
            "source": source_sha256,
            "pixel_version": PIXEL_VERSION,
            "engine": asdict(options.engine),
            "encoder": asdict(encoder),
            "segments": [segment.start for segment in segments],
        }
    )


def _limits(segments: Sequence[Segment], per_frame: float, eta: float, options: Options) -> Limits:
    """Generous limits: they end what hangs, not what is slow."""
    return Limits(
        load=LOAD_SECONDS,
        stall=options.stall_seconds or STALL_SECONDS,
        segment=tuple(max(600.0, 5 * per_frame * s.num_frames) for s in segments),
        job=options.job_seconds or max(7200.0, 3 * eta),
    )


def _size_notes(video: VideoInfo, width: int, height: int) -> tuple[str, ...]:
    """Say so when the picture gets smaller."""
    display_width, display_height = video.display_size
    if display_width * display_height <= width * height:
        return ()
    return (
        f"the source ({float(display_width):g}x{float(display_height):g}) is larger than the "
        f"target ({width}x{height}) and is scaled down",
    )
