"""What a job's report says: report.json, from which the page is drawn.

Levels are those of 8 bits (0 black, 255 white) on coded R'G'B'. A value that was not measured is
None. `format` rises when the meaning of a field changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

REPORT_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutJob:
    """What only the process that runs the job knows."""

    source_name: str
    """For people."""
    output_name: str
    output_sha256: str
    output_bytes: int
    stage_seconds: Mapping[str, float]
    """Stage -> seconds of this run, in the order in which they came."""
    seconds_so_far: float
    """Of this run."""
    notes: tuple[str, ...]
    """Sentences that the result holds already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """The source, or the output."""

    name: str
    sha256: str
    num_bytes: int
    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    num_frames: int
    duration_seconds: float
    settings: str = ""
    """How it was encoded; "" for a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What has restored the frames."""

    name: str
    weights_digest: str
    """"" for an engine without weights."""
    options: Mapping[str, str | int]
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTime:
    """How long one segment took."""

    index: int
    num_frames: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was measured at one place: frame `frame` and the one before it."""

    frame: int
    seconds: float
    """The frame's time."""
    join: bool
    """Whether two windows or two segments of one shot meet between the two frames."""
    flicker: float
    """Levels by which the low frequencies of (result - source) change from frame to frame."""
    drift: tuple[float, float, float]
    """Mean of (result - source) in Y', Cb, Cr, in levels."""
    difference: float
    """Mean absolute difference of the luma from the source, at the smaller of both sizes."""
    detail_db: float
    """Fine detail of the result against that of the source, both at the smaller size, in dB."""
    beyond: float
    """Standard deviation of the luma that the source's size cannot hold, in levels."""
    source_detail: float
    """Share of the finest octave in the source's luma; what is blurred has next to none."""
    black: bool
    """The result's frame is black and the source's is not."""
    frozen: bool
    """The result's two frames are the same, and the source's are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualitySummary:
    """Medians and counts over all sights; None where there was none of the kind."""

    places: int
    joins: int
    flicker_at_joins: float | None
    flicker_elsewhere: float | None
    drift: tuple[float, float, float] | None
    worst_drift: float | None
    """The largest absolute drift of one channel at one place."""
    difference: float | None
    detail_db: float | None
    beyond: float | None
    source_detail: float | None
    black: int
    frozen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """report.json."""

    format: int
    job_key: str
    source: VideoFacts
    output: VideoFacts
    resolution: str
    engine: EngineFacts
    versions: Mapping[str, str]
    stage_seconds: Mapping[str, float]
    segments: tuple[SegmentTime, ...]
    planned_peaks: Mapping[str, int]
    """Phase -> bytes of device memory, as predicted; empty for engines that plan none."""
    peak_bytes: int | None
    """Most host memory of a process that made segments; None where it was not measured."""
    gpu_peak_bytes: int | None
    """Most memory of its GPU, as torch reserved it; None without one."""
    summary: QualitySummary
    sights: tuple[Sight, ...]
    non_finite: str
    """What is known about values that are no numbers, as a sentence."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    report_seconds: float
    """What the measuring took."""
