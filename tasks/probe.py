"""Probe: find out what the source really is.

Containers may lie, so a child process reads every packet. It runs under limits, because a damaged
file can make a decoder hang or crash.
"""

from dataclasses import asdict
from pathlib import Path

from seedvr2_core.child.protocol import FindCuts, Probe
from seedvr2_core.errors import InvalidVideoError, SegmentError
from seedvr2_core.files import read_record
from seedvr2_core.planning.plan import CutList
from seedvr2_core.video.info import VideoInfo, ends_early
from tasks.child import run_operation
from tasks.job.engine_choice import choose_device, choose_engine
from tasks.schemas import Device, FetchedSource, ProbedSource
from tasks.settings import Settings, get_settings
from tasks.sources import discard
from tasks.sources.names import called_by_name
from tasks.step import step


@step(name="probe", retries=1, retry_delay_seconds=2)
def probe(source: FetchedSource, model: str, *, allow_damaged: bool = False) -> ProbedSource:
    """Read every packet of the source in a child process; find its cuts if the engine needs them.

    A source that ends before its header or index says is refused unless `allow_damaged` is set.

    Side effects: writes WORK_DIR/probes/<sha256>.json and <sha256>.cuts.json; removes a download or
        upload that is no video.
    Raises: InvalidVideoError, UnsupportedFormatError, InvalidRequestError, CheckpointError
        (final); child failures (retried once).
    """
    settings = get_settings()
    folder = settings.probes_dir
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with called_by_name(source):
            return probe_source(source, model, folder, settings, allow_damaged=allow_damaged)
    except InvalidVideoError:
        discard(source, settings)  # strangers must not be able to fill the disk with other files
        raise


def probe_source(
    source: FetchedSource,
    model: str,
    folder: Path,
    settings: Settings,
    *,
    allow_damaged: bool = False,
) -> ProbedSource:
    """Probe the source in child processes; what they find is written into `folder`.

    Raises: as `probe`.
    """
    out = folder / f"{source.sha256}.json"
    request = Probe(
        path=source.path,
        out=out,
        max_frames=settings.max_frames,
        max_seconds=settings.max_video_seconds,
    )
    found = run_operation(request, doing="probing the source")
    info = read_record(out, VideoInfo)
    if info.ends_early and not allow_damaged:
        raise ends_early(source.name, info.ends_early)
    width, height = info.upright_size
    probed = ProbedSource(
        source=source,
        info_path=out,
        width=width,
        height=height,
        num_frames=info.num_frames,
        duration_seconds=info.duration_seconds,
        devices=tuple(Device(**asdict(device)) for device in found.devices),
        cpu_count=found.cpu_count,
    )
    device = choose_device(settings.device, probed.devices)
    spec, _ = choose_engine(model, device, settings)
    if not spec.has_latents:
        return probed
    return probed.model_copy(update={"cuts_path": find_cuts(probed, device.name)})


def _detector_of(cuts_path: Path) -> str | None:
    """The detector that found the cuts in this file; None if it holds no readable cuts."""
    try:
        return read_record(cuts_path, CutList).detector
    except (FileNotFoundError, SegmentError):
        return None


def find_cuts(probed: ProbedSource, device: str) -> Path:
    """Find the source's cuts, unless this detector has done so before; returns their file.

    Raises: as `probe`.
    """
    from seedvr2_core.video.cuts import cut_detector

    detector, out = cut_detector(), probed.info_path.with_suffix(".cuts.json")
    if _detector_of(out) == detector:
        return out
    request = FindCuts(
        path=probed.source.path,
        info=probed.info_path,
        device=device,
        detector=detector,
        out=out,
    )
    run_operation(request, doing="looking for cuts")
    return out
