"""What a flow process reads of a plan: everything but what grows with the frames of the video.

Times, shots and pieces stay in plan.json, which only child processes read. A small file that orders
a million frames costs the process that all jobs depend on nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from seedvr2_core.planning.plan import (
    EngineSettings,
    FrameSeconds,
    Limits,
    MemoryPlan,
    Plan,
    job_key,
    white_told,
)
from seedvr2_core.video.info import EncoderSettings, OutputSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOutline:
    """A segment without its pieces."""

    index: int
    start: int
    stop: int
    shot: tuple[int, int] | None
    """First frame and end of the shot that it is a part of; None: it has whole shots."""

    @property
    def num_frames(self) -> int:
        """Frames the segment owns."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOutline:
    """A plan without its lists of times, shots and pieces; the other fields are those of `Plan`."""

    format: int
    pixel_version: int
    job_key: str
    source_sha256: str
    num_frames: int
    num_shots: int
    longest_piece: int
    """Frames of the longest piece."""
    resolution: str
    width: int
    height: int
    engine: EngineSettings
    device: str
    torch_threads: int
    segments: tuple[SegmentOutline, ...]
    encoder: EncoderSettings
    memory: MemoryPlan | None
    eta_seconds: float
    limits: Limits
    frame_seconds: FrameSeconds | None
    notes: tuple[str, ...]
    weights_file: str = ""
    output: OutputSettings = field(default_factory=OutputSettings)
    deinterlace: str = ""
    """As `Reading.method`; "" also in outlines of earlier versions."""
    alpha: str = ""
    """As `Reading.alpha`; "" also in outlines of earlier versions."""
    deep: bool = False
    pixels_key: str = ""
    """As the function of this name; "" in outlines of earlier versions, which are made anew."""
    other_pixels_key: str = ""
    """The same for frames of the other depth, eight or sixteen bits."""


def outline_of(plan: Plan) -> PlanOutline:
    """The outline of a plan, whichever version has written that."""
    return PlanOutline(
        format=plan.format,
        pixel_version=plan.pixel_version,
        job_key=plan.job_key,
        source_sha256=plan.source_sha256,
        num_frames=plan.video.num_frames,
        num_shots=len(plan.shots),
        longest_piece=max(
            (piece.stop - piece.start for segment in plan.segments for piece in segment.pieces),
            default=0,
        ),
        resolution=plan.resolution,
        width=plan.width,
        height=plan.height,
        engine=plan.engine,
        device=plan.device,
        torch_threads=plan.torch_threads,
        segments=_segments_of(plan),
        encoder=plan.encoder,
        memory=plan.memory,
        eta_seconds=plan.eta_seconds,
        limits=plan.limits,
        frame_seconds=plan.frame_seconds,
        notes=plan.notes,
        weights_file=plan.weights_file,
        output=plan.output,
        deinterlace=plan.video.reading.method,
        alpha=plan.video.reading.alpha,
        deep=plan.deep,
        pixels_key=pixels_key(plan, deep=plan.deep),
        other_pixels_key=pixels_key(plan, deep=not plan.deep),
    )


def pixels_key(plan: Plan, *, deep: bool) -> str:
    """SHA-256 of everything that decides the frames that a codec gets, and nothing of the codec.

    Jobs with one key may share masters: they differ in codec, container, quality or sound.

    Args:
        plan: of a job.
        deep: whether the frames have 16 bits. Codecs of eight bits and of more get other frames.
    """
    return job_key(
        {
            "source": plan.source_sha256,
            "pixel_version": plan.pixel_version,
            "engine": asdict(plan.engine),
            "size": [plan.width, plan.height],
            "deep": deep,
            **white_told(plan.video, deep=deep),
            "reading": plan.video.reading.told(plan.video.num_frames),
            "frames": plan.video.num_frames,
            "shots": [shot.start for shot in plan.shots],
            **({"shot": "goes on"} if plan.shots[0].goes_on else {}),
            "segments": [segment.start for segment in plan.segments],
        }
    )


_OF_ALL_CUTS = ("num_shots", "segments", "longest_piece", "notes", "eta_seconds", "frame_seconds")
"""Fields that may be others where more cuts are known, or where the machine is known better."""


def is_same_work(one: PlanOutline, other: PlanOutline) -> bool:
    """Whether segments with the same frames of the same shots get the same bytes by both plans.

    That is so if they differ in nothing but how many of the cuts they know, their memory settings
    and number of threads aside, which `sidecar.plan_digest` compares.
    """
    left_out = {
        *("job_key", "pixels_key", "other_pixels_key", "memory", "torch_threads", "limits"),
        *("weights_file", *_OF_ALL_CUTS),
    }
    names = {field.name for field in fields(PlanOutline)} - left_out
    return all(getattr(one, name) == getattr(other, name) for name in names)


def obeying(plan: Plan, begun: Sequence[PlanOutline]) -> Plan:
    """The plan with the memory settings and threads of one that segments were made by already.

    Both can change the last bits of a segment. Of those `begun` the first one for the same work is
    obeyed; plans for other work change nothing.
    """
    outline = outline_of(plan) if begun else None
    for other in begun:
        if outline is not None and is_same_work(outline, other):
            return replace(plan, memory=other.memory, torch_threads=other.torch_threads)
    return plan


def _segments_of(plan: Plan) -> tuple[SegmentOutline, ...]:
    """The segments; each that has one piece, and not all of its shot, names the shot's bounds."""
    outlines: list[SegmentOutline] = []
    for segment in plan.segments:
        shot: tuple[int, int] | None = None
        if len(segment.pieces) == 1:
            piece = segment.pieces[0]
            whole = plan.shots[piece.shot]
            if (piece.start, piece.stop) != (whole.start, whole.stop):
                shot = (max(0, whole.start), whole.stop)
        outlines.append(
            SegmentOutline(index=segment.index, start=segment.start, stop=segment.stop, shot=shot)
        )
    return tuple(outlines)
