"""Probe: find out what the source really is.

Containers may lie, so a child process reads every packet. It runs under limits, because a damaged
file can make a decoder hang or crash.
"""

import contextlib
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from seedvr2_core.child.protocol import FindCuts, Probe
from seedvr2_core.config import EngineSpec
from seedvr2_core.errors import InvalidVideoError, SegmentError, StorageError
from seedvr2_core.files import read_record
from seedvr2_core.files.durable import canonical_json
from seedvr2_core.planning import Options
from seedvr2_core.planning.outputs import chosen_codec, encoder_name, refuse_alpha
from seedvr2_core.planning.plan import EngineSettings
from seedvr2_core.planning.sizes import target_size
from seedvr2_core.planning.timing import frame_seconds, job_seconds
from seedvr2_core.video.info import ends_early
from seedvr2_core.video.wanted import ALL_FRAMES, WantedFrames
from tasks.child import run_operation
from tasks.child.rates import known_rates
from tasks.child.warm import warm_engines, with_returned
from tasks.job.cost import refuse_excess
from tasks.job.engine_choice import choose_device, choose_engine
from tasks.schemas import Device, FetchedSource, ProbedSource, UpscaleRequest
from tasks.settings import Settings, get_settings
from tasks.sources import discard
from tasks.sources.kept import keep_found, recall_found
from tasks.sources.names import called_by_name
from tasks.step import step

CutsWanted = Literal["all", "short", "none"]
MOST_FRAMES_HERE = 3000
"""Of a longer video the cuts are looked for before a GPU is taken, where somebody can. It takes
about 5 s of a machine with many cores (predicted), two minutes of film."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What we need of a file of cuts; the cuts, which grow with the video, are skipped."""

    detector: str


@step(name="probe", retries=1, retry_delay_seconds=2)
def probe(
    source: FetchedSource, request: UpscaleRequest, *, cuts: CutsWanted = "all"
) -> ProbedSource:
    """Read every packet of the source in a child process; find its cuts if the engine needs them.

    A source that ends before its header or index says is refused unless the request allows it.

    Args:
        source: the file.
        request: how it is to be read.
        cuts: of which videos the cuts are looked for here: of all, of short ones, or of none.

    Returns:
        What was found. It leaves the cuts to others if the video is not short, and they are
        needed and not known.

    Side effects: writes WORK_DIR/probes/<sha256>.json and <sha256>.cuts.json; removes a download or
        upload that is no video.
    Raises: InvalidVideoError, UnsupportedFormatError, InvalidRequestError, PlanError,
        CheckpointError (final); child failures (retried once).
    """
    settings = get_settings()
    folder = settings.probes_dir
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with called_by_name(source):
            probed = probe_source(
                source,
                folder,
                settings,
                allow_damaged=request.allow_damaged,
                wanted=request.wanted_frames,
            )
            refuse_alpha(probed.video, request.codec, request.container)
            return probed if cuts == "none" else _with_cuts(probed, request, settings, cuts)
    except InvalidVideoError:
        discard(source, settings)  # strangers must not be able to fill the disk with other files
        raise


def probe_source(
    source: FetchedSource,
    folder: Path,
    settings: Settings,
    *,
    allow_damaged: bool = False,
    wanted: WantedFrames = ALL_FRAMES,
) -> ProbedSource:
    """Probe the source in a child process; what it finds is written into `folder`.

    Raises: as `probe`; InvalidRequestError if the source does not have the frames that are wanted.
    """
    out = folder / f"{source.sha256}{_tag_of(wanted)}.json"
    if not out.exists():
        with contextlib.suppress(StorageError):  # then it is found out here
            recall_found(out, settings)
    request = Probe(
        path=source.path,
        out=out,
        max_frames=settings.max_frames,
        max_seconds=settings.max_video_seconds,
        wanted=wanted,
    )
    resting = warm_engines(settings)
    found = run_operation(request, doing="probing the source")
    devices = tuple(Device(**asdict(device)) for device in found.devices)
    video = found.video
    if video.ends_early and not allow_damaged:
        raise ends_early(source.name, video.ends_early)
    return ProbedSource(
        source=source,
        info_path=out,
        video=video,
        devices=tuple(with_returned(device, resting, settings) for device in devices),
        cpu_count=found.cpu_count,
    )


def _tag_of(wanted: WantedFrames) -> str:
    """What the name of the probe's file has for these frames: two jobs may want different ones."""
    if wanted == ALL_FRAMES:
        return ""
    told = asdict(wanted)
    if wanted.start or wanted.end:
        told["cuts"] = "of the film"  # those of earlier versions were looked for in the part alone
    return "-" + hashlib.sha256(canonical_json(told).encode()).hexdigest()[:12]


def _with_cuts(
    probed: ProbedSource, request: UpscaleRequest, settings: Settings, cuts: CutsWanted = "all"
) -> ProbedSource:
    """The same with the source's cuts, if the engine looks at shots, or a word that it leaves them.

    To find cuts the whole video is decoded. So a job that takes more than is accepted is refused
    before.
    """
    device = choose_device(settings.device, probed.devices)
    spec, _ = choose_engine(request.model, device, settings, video=probed.video)
    if not spec.has_latents:
        return probed
    if _known_cuts(probed) is None:
        seconds = _expected_seconds(probed, request, spec, device, settings)
        refuse_excess(seconds, probed.video.num_frames, settings)
        if cuts == "short" and probed.video.num_frames > MOST_FRAMES_HERE:
            keep_found(probed.info_path, settings)  # whoever finds the cuts need not read it again
            return probed.model_copy(update={"leaves_cuts": True})
    return probed.model_copy(update={"cuts_path": find_cuts(probed, device.name)})


def _expected_seconds(
    probed: ProbedSource,
    request: UpscaleRequest,
    spec: EngineSpec,
    device: Device,
    settings: Settings,
) -> float:
    """Expected time of the job, as its plan will have it: cuts do not change it."""
    video = probed.video
    width, height = target_size(video, request.resolution)
    options = Options(
        resolution=request.resolution,
        engine=EngineSettings.without_latents(spec.name),
        device=device.name,
        cpu_count=probed.cpu_count,
        crf=request.wanted_crf,
        preset=request.preset,
        codec=request.codec,
        container=request.container,
        encoder=request.encoder,
        segment_seconds=settings.segment_seconds,
    )
    encoder = encoder_name(chosen_codec(video, options), request.preset, request.encoder)
    rates = known_rates(spec.name, encoder, device.kind, settings, size=(width, height))
    return job_seconds(frame_seconds(video, width, height, options, rates), video.num_frames)


def _known_cuts(probed: ProbedSource) -> Path | None:
    """The file of cuts that the detector of today has found before, here or on another machine."""
    out, today = _cuts_path(probed), _detector(probed)
    if _detector_of(out) == today:
        return out
    return out if recall_found(out, get_settings()) and _detector_of(out) == today else None


def _detector(probed: ProbedSource) -> str:
    """Today's detector; of frames that are no plain pictures of the file, with how they are made.

    The cuts of other frames may be others, and their numbers are.
    """
    from seedvr2_core.video.cuts import cut_detector

    return " of ".join(part for part in (cut_detector(), probed.video.reading) if part)


def _cuts_path(probed: ProbedSource) -> Path:
    return probed.info_path.with_suffix(".cuts.json")


def _detector_of(cuts_path: Path) -> str | None:
    """The detector that found the cuts in this file; None if it holds no readable cuts."""
    try:
        return read_record(cuts_path, _Found).detector
    except (FileNotFoundError, SegmentError):
        return None


def find_cuts(probed: ProbedSource, device: str) -> Path:
    """Find the source's cuts, unless this detector has done so before; returns their file.

    Raises: as `probe`.
    """
    if known := _known_cuts(probed):
        return known
    request = cuts_wanted(probed, device)
    run_operation(request, doing="looking for cuts")
    keep_found(request.out, get_settings())
    return request.out


def cuts_wanted(probed: ProbedSource, device: str, marks: tuple[int, ...] = ()) -> FindCuts:
    """What a child is asked that looks for the source's cuts, and tells of them at some marks."""
    return FindCuts(
        path=probed.source.path,
        info=probed.info_path,
        device=device,
        detector=_detector(probed),
        out=_cuts_path(probed),
        marks=marks,
    )
