"""Probe: what the source really is, found by guarded children that read every packet."""

from pathlib import Path

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.files import read_record
from seedvr2_core.planning.plan import CutList
from seedvr2_core.video.info import VideoInfo
from tasks.child import run_operation
from tasks.child.operation import LIMIT_SECONDS
from tasks.job.engine_choice import choose_device, choose_engine
from tasks.schemas import Device, FetchedSource, ProbedSource
from tasks.settings import Settings, get_settings
from tasks.sources import discard
from tasks.step import step


@step(name="probe", retries=1, retry_delay_seconds=2, timeout_seconds=2 * LIMIT_SECONDS + 60)
def probe(source: FetchedSource, model: str) -> ProbedSource:
    """Read every packet of the source in a child process; find its cuts if the model wants them.

    Side effects: writes WORK_DIR/probes/<sha256>.json and <sha256>.cuts.json; a download or upload
        that is no video is removed.
    Raises: InvalidVideoError, UnsupportedFormatError, InvalidRequestError, CheckpointError
        (final); child failures (retried once).
    """
    settings = get_settings()
    folder = settings.probes_dir
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return probe_source(source, model, folder, settings)
    except InvalidVideoError:
        discard(source, settings)  # nobody's bytes are kept for being sent to us
        raise


def probe_source(
    source: FetchedSource, model: str, folder: Path, settings: Settings
) -> ProbedSource:
    """Let children probe the source for a model; what they find is written into `folder`."""
    out = folder / f"{source.sha256}.json"
    request: dict[str, object] = {"op": "probe", "path": str(source.path), "out": str(out)}
    event = run_operation(request, until="probed", doing="probing the source")
    info = read_record(out, VideoInfo)
    width, height = info.upright_size
    probed = ProbedSource(
        source=source,
        info_path=out,
        width=width,
        height=height,
        num_frames=info.num_frames,
        duration_seconds=info.duration_seconds,
        devices=tuple(Device.model_validate(device) for device in event["devices"]),
        cpu_count=event["cpu_count"],
    )
    device = choose_device(settings.device, probed.devices)
    spec, _ = choose_engine(model, device, settings)
    if not spec.has_latents:
        return probed
    return probed.model_copy(update={"cuts_path": _find_cuts(probed, device.name)})


def _find_cuts(probed: ProbedSource, device: str) -> Path:
    """Where the source's cuts are, found now if this detector has not looked before."""
    from seedvr2_core.video.cuts import cut_detector

    detector, out = cut_detector(), probed.info_path.with_suffix(".cuts.json")
    if out.exists() and read_record(out, CutList).detector == detector:
        return out
    request: dict[str, object] = {
        "op": "find_cuts",
        "path": str(probed.source.path),
        "info": str(probed.info_path),
        "device": device,
        "detector": detector,
        "out": str(out),
    }
    run_operation(request, until="cuts_found", doing="looking for cuts")
    return out
