"""The plan of a job, and its arithmetic: target size, windows, segments, keys. No model, no torch.

A plan is made once, written to plan.json and obeyed from then on; nothing in it is recomputed on
resume. Ranges are half-open in file indices of presented frames.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from seedvr2_core.errors import PlanError
from seedvr2_core.video.info import EncoderSettings, VideoInfo

PLAN_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CutList:
    """Where shots begin, as a detector found it."""

    detector: str
    frames: tuple[int, ...]
    """First frames of all shots but the first."""


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
class MemoryPlan:
    """How an engine with latents fits the device: chosen once, exact levers only.

    Every field can change last bits (not quality), so it is obeyed on resume.
    """

    vae_dtype: str
    """"float16", "bfloat16" or "float32"."""
    dit_dtype: str
    encoder_slice: int
    """Latents that the encoder takes at once."""
    decoder_slice: int
    encoder_level_frames: tuple[int, ...]
    """Most frames at once at each level of the encoder, top (full resolution) first; 0: all."""
    decoder_level_frames: tuple[int, ...]
    """Most frames at once at each level of the decoder, lowest resolution first; 0: all."""
    chunk_tokens: int
    """Tokens at once in attention batches and MLP of the DiT; 0: all."""
    park_caches: bool
    """VAE caches wait in host memory while another phase runs."""
    weights_resident: bool
    """DiT weights stay on the device while the VAE runs."""
    peaks: tuple[tuple[str, int], ...] = ()
    """(phase, predicted peak bytes)."""


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
    memory: MemoryPlan | None
    """None for engines without latents."""
    eta_seconds: float
    limits: Limits
    notes: tuple[str, ...] = ()
    """Sentences for the user: warnings, lowered values, what was not carried over."""


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


def job_key(options: Mapping[str, object]) -> str:
    """SHA-256 over everything that changes a byte of the output, as canonical JSON."""
    text = json.dumps(options, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
