"""Makes the plan of a job: shots, segments, encoder, memory, predicted time and limits.

Arithmetic only; the figures behind predictions stand at the top with where they come from.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

from seedvr2_core import PIXEL_VERSION
from seedvr2_core.config import DIT_CONFIGS, VAE_CONFIGS
from seedvr2_core.engines.protocol import EngineSpec, find_engine
from seedvr2_core.errors import PlanError
from seedvr2_core.planning.memory import MemoryRequest, plan_memory
from seedvr2_core.planning.plan import (
    PLAN_FORMAT,
    EngineSettings,
    Limits,
    MemoryPlan,
    Plan,
    Segment,
    Shot,
    job_key,
    plan_segments,
    target_size,
)
from seedvr2_core.planning.windows import num_latents, plan_windows, soft_boundaries
from seedvr2_core.video.info import ColorInfo, EncoderSettings, VideoInfo

KEYINT_SECONDS = 5
X264_THREADS = 8
STARTUP_SECONDS = 10.0
"""Starting the child, loading an engine without a large checkpoint, joining."""
LOAD_SECONDS = 600.0

WINDOW_SECONDS: Mapping[str, int] = {"720p": 50, "1080p": 70, "2k": 120, "4k": 250}
MODEL_LOAD_SECONDS = 45
"""The replaced service's seconds for a window of 100 frames and for loading the model."""

BT709, UNSPECIFIED = 1, 2
"""H.273 codes."""

MEASURED_CORES = 2
ENGINE_SECONDS_PER_MPX: Mapping[str, tuple[float, float]] = {
    "span": (2.9, 0.01),
    "lanczos": (0.0, 0.01),
    "seedvr2-3b": (0.0, 0.29),
    "seedvr2-7b": (0.0, 0.30),
    "seedvr2-7b-sharp": (0.0, 0.30),
    "tiny": (0.0, 3.0),
    "tiny-3b": (0.0, 3.0),
}
"""Engine -> seconds per megapixel of (source, output) frame. The small engines: measured on two
CPU cores. SeedVR2: the replaced service's own figures on H100 and H200, not measured by us."""
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
ENGINE_SECONDS_PER_FRAME: Mapping[str, float] = {"sleep": 0.05}
"""Engine -> seconds of every frame, whatever its size."""
GPU_SHARE = 0.1
"""Assumed share of a small engine's CPU time on a GPU; not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a request asks for, resolved: the input of `build_plan`."""

    resolution: str
    engine: EngineSettings
    device: str
    """Torch device string."""
    cpu_count: int
    crf: int
    preset: str
    segment_seconds: float
    device_kind: str = "cpu"
    """The device's name."""
    device_bytes: int | None = None
    """Its free memory; None: the host."""
    batch_size: int = 100
    """Frames per window, for the stall limit."""
    cut_detector: str = ""
    """Which detector made the cuts; "" where none ran."""
    stall_seconds: float | None = None
    """Overrides the default stall limit."""
    job_seconds: float | None = None
    """Overrides the default job limit."""
    notes: tuple[str, ...] = ()


def build_plan(
    video: VideoInfo,
    source_sha256: str,
    options: Options,
    *,
    cuts: Sequence[int] = (),
) -> Plan:
    """Plan a job.

    Args:
        video: of the source.
        source_sha256: its digest.
        options: of the request, resolved.
        cuts: first frames of all shots but the first; none for engines without latents, for
            which the file is one shot that may be divided at any frame.

    Raises:
        PlanError: windows that cannot be planned, or a colour mode that needs the whole shot.
        ResourceError: an engine with latents does not fit the device's free memory.
    """
    spec = find_engine(options.engine.name)
    width, height = target_size(video, options.resolution)
    encoder = _encoder_settings(video, width, height, options)
    shots = shots_between(cuts, video.num_frames)
    soft = {
        shot.index: range(shot.start + 1, shot.stop)
        if not spec.has_latents
        else _window_starts(shot, options)
        for shot in shots
    }
    segments = plan_segments(
        video, shots, segment_seconds=options.segment_seconds, soft_boundaries=soft
    )
    per_frame = seconds_per_frame(video, width, height, options)
    eta = STARTUP_SECONDS + per_frame * video.num_frames
    return Plan(
        format=PLAN_FORMAT,
        pixel_version=PIXEL_VERSION,
        job_key=_plan_key(source_sha256, options, encoder, shots, segments),
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
        memory=_memory(spec, video, (width, height), shots, segments, options),
        eta_seconds=round(eta, 1),
        limits=_limits(segments, per_frame, eta, options),
        notes=(*video.warnings, *options.notes, *_size_notes(video, width, height)),
    )


def shots_between(cuts: Sequence[int], num_frames: int) -> tuple[Shot, ...]:
    """Shots from the first frames of all shots but the first."""
    bounds = itertools.pairwise([0, *cuts, num_frames])
    return tuple(Shot(index=i, start=a, stop=b) for i, (a, b) in enumerate(bounds))


def _memory(
    spec: EngineSpec,
    video: VideoInfo,
    size: tuple[int, int],
    shots: Sequence[Shot],
    segments: Sequence[Segment],
    options: Options,
) -> MemoryPlan | None:
    """How an engine with latents fits the device; None for the others."""
    if not spec.has_latents:
        return None
    engine = options.engine
    pieces = [piece for segment in segments for piece in segment.pieces]
    longest = max(num_latents(piece.stop - piece.start) for piece in pieces)
    longest_shot = max(num_latents(shot.stop - shot.start) for shot in shots)
    on_cpu = options.device == "cpu"
    return plan_memory(
        MemoryRequest(
            dit_config=DIT_CONFIGS[spec.dit],
            vae_config=VAE_CONFIGS[spec.vae],
            width=size[0],
            height=size[1],
            num_latents_in_window=min(engine.window, longest_shot),
            overlap=engine.overlap,
            segment_latents=longest + engine.overlap,
            source_frame_bytes=video.width * video.height * (3 if video.bit_depth <= 8 else 6),
            device_bytes=options.device_bytes,
            device_kind=options.device_kind,
            # CPUs have no fast half precision.
            vae_dtype="float32" if on_cpu else "float16",
            dit_dtype="float32" if on_cpu else "bfloat16",
            color_correction=engine.color_correction,
        )
    )


def _window_starts(shot: Shot, options: Options) -> list[int]:
    """Frames inside a shot where a segment may end: the starts of its later windows."""
    engine = options.engine
    latents = num_latents(shot.stop - shot.start)
    windows = plan_windows(latents, window=engine.window, overlap=engine.overlap)
    if len(windows) > 1 and engine.color_correction == "lab":
        raise PlanError(
            f"color_correction lab matches colours over a whole shot, and the shot from frame "
            f"{shot.start} is longer than one window; choose wavelet or a larger batch_size"
        )
    return [shot.start + frame for frame in soft_boundaries(windows)]


def seconds_per_frame(video: VideoInfo, width: int, height: int, options: Options) -> float:
    """Predicted wall seconds for one frame; on a CPU engine and encoder share the cores."""
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
    shots: Sequence[Shot],
    segments: Sequence[Segment],
) -> str:
    """The job key: everything that changes a byte of the output on one kind of device."""
    return job_key(
        {
            "source": source_sha256,
            "pixel_version": PIXEL_VERSION,
            "engine": asdict(options.engine),
            "encoder": asdict(encoder),
            "cut_detector": options.cut_detector,
            "shots": [shot.start for shot in shots],
            "segments": [segment.start for segment in segments],
        }
    )


def _limits(segments: Sequence[Segment], per_frame: float, eta: float, options: Options) -> Limits:
    """Generous limits: they end what hangs, not what is slow."""
    return Limits(
        load=LOAD_SECONDS,
        stall=options.stall_seconds or stall_limit(options.resolution, options.batch_size),
        segment=tuple(max(600.0, 5 * per_frame * s.num_frames) for s in segments),
        job=options.job_seconds or max(7200.0, 3 * eta),
    )


def stall_limit(resolution: str, batch_size: int) -> float:
    """Seconds without a sign of life after which the child counts as hung.

    The rule of the service that this one replaces: one and a half (2k, 4k: three) times a window
    and a model load, at least 180 (360) s.
    """
    window = int(WINDOW_SECONDS[resolution] * batch_size / 100)
    if resolution in ("2k", "4k"):
        return float(max(int((window + MODEL_LOAD_SECONDS) * 3), 360))
    return float(max(int((window + MODEL_LOAD_SECONDS) * 1.5), 180))


def _size_notes(video: VideoInfo, width: int, height: int) -> tuple[str, ...]:
    """Say so when the picture gets smaller."""
    display_width, display_height = video.display_size
    if display_width * display_height <= width * height:
        return ()
    return (
        f"the source ({float(display_width):g}x{float(display_height):g}) is larger than the "
        f"target ({width}x{height}) and is scaled down",
    )
