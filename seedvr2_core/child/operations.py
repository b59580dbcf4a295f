"""What the child can do."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from seedvr2_core.child.protocol import Emitter, Request
from seedvr2_core.files import read_record, write_record
from seedvr2_core.planning import Plan
from seedvr2_core.planning.plan import CutList
from seedvr2_core.video.info import VideoInfo


def probe(request: Request, emitter: Emitter) -> None:
    """Read every packet of a source and write what was found as JSON."""
    from seedvr2_core.video.probe import probe_video

    info = probe_video(Path(request["path"]), beat=emitter.beat)
    write_record(Path(request["out"]), info)
    emitter.emit("probed", devices=_devices(), cpu_count=len(os.sched_getaffinity(0)))


def find_cuts(request: Request, emitter: Emitter) -> None:
    """Find the cuts of a probed source and write them as JSON."""
    from seedvr2_core.video.cuts import detect_cuts

    info = read_record(Path(request["info"]), VideoInfo)
    path, device = Path(request["path"]), request["device"]
    cuts = detect_cuts(path, info, beat=emitter.beat, device=device)
    write_record(Path(request["out"]), CutList(detector=request["detector"], frames=cuts))
    emitter.emit("cuts_found", num_cuts=len(cuts))


def restore(request: Request, emitter: Emitter) -> None:
    """Make the asked segments of a job, in order."""
    from seedvr2_core.child.restore import restore_segments

    job_dir = Path(request["job_dir"])
    plan = read_record(job_dir / "plan.json", Plan)
    restore_segments(
        plan,
        job_dir,
        source=Path(request["source"]),
        device=request["device"],
        weights_dir=Path(request["weights_dir"]),
        lock_dir=Path(request["lock_dir"]),
        indices=[int(k) for k in request["segments"]],
        events=emitter,
    )
    emitter.emit("idle")


def join(request: Request, emitter: Emitter) -> None:
    """Join the finished segments of a job and carry the source's other streams over."""
    from seedvr2_core.files.space import check_room, full_disk_told
    from seedvr2_core.job.sidecar import finished_sizes, video_path
    from seedvr2_core.job.space import bytes_needed
    from seedvr2_core.video.join import JoinPart, join_segments

    job_dir = Path(request["job_dir"])
    plan = read_record(job_dir / "plan.json", Plan)
    need = bytes_needed(plan, [], finished_sizes(job_dir, plan))
    check_room(job_dir, need, doing="joining the segments")
    parts = [
        JoinPart(
            path=video_path(job_dir, segment.index),
            first_pts=plan.video.pts[segment.start],
            num_frames=segment.num_frames,
        )
        for segment in plan.segments
    ]
    with full_disk_told("the segments are joined"):
        result = join_segments(
            parts,
            Path(request["source"]),
            plan.video,
            plan.encoder,
            Path(request["out"]),
            metadata=request["metadata"],
            beat=emitter.beat,
        )
    emitter.emit("joined", notes=list(result.notes))


def preview(request: Request, emitter: Emitter) -> None:
    """Draw the before/after picture of a joined job."""
    from seedvr2_core.video.preview import write_preview

    plan = read_record(Path(request["job_dir"]) / "plan.json", Plan)
    source, output = Path(request["source"]), Path(request["output"])
    write_preview(source, plan.video, output, Path(request["out"]))
    emitter.emit("previewed")


OPERATIONS: Mapping[str, Callable[[Request, Emitter], None]] = {
    "probe": probe,
    "find_cuts": find_cuts,
    "restore": restore,
    "join": join,
    "preview": preview,
}


def _devices() -> list[dict[str, object]]:
    """Torch devices of this machine, best first, with the memory that is free on them."""
    cpu: dict[str, object] = {"name": "cpu", "kind": "cpu", "free_bytes": None}
    if not Path("/dev/nvidiactl").exists():
        return [cpu]  # no driver, no GPU: saves importing torch
    import torch

    gpus: list[dict[str, object]] = [
        {
            "name": f"cuda:{i}",
            "kind": torch.cuda.get_device_name(i),
            "free_bytes": torch.cuda.mem_get_info(i)[0],
        }
        for i in range(torch.cuda.device_count())
    ]
    return [*gpus, cpu]
