"""The child's operations: each carries out one request and returns the event that answers it.

Imports stand inside the functions where they are heavy: a child that probes or joins would
otherwise spend half of its time on loading numpy and torch.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from seedvr2_core.child.memory import free_host_bytes, unbounded_memory
from seedvr2_core.child.progress import Emitter, Events
from seedvr2_core.child.protocol import (
    CheckPlan,
    Compare,
    Compared,
    CutExcerpt,
    CutsFound,
    Event,
    ExcerptFound,
    FindCuts,
    FindExcerpt,
    FindSize,
    Idle,
    Join,
    Joined,
    MakePlan,
    MakeReport,
    Measure,
    Measured,
    PlanChecked,
    PlanMade,
    Preview,
    Previewed,
    Probe,
    Probed,
    ReportMade,
    Request,
    Restore,
    SizeFound,
)
from seedvr2_core.errors import SegmentError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.kernels.devices import GPU, FoundDevice, ability_of, gpus, runs_own_kernels
from seedvr2_core.planning import Plan
from seedvr2_core.planning.plan import CutList
from seedvr2_core.video.foreign import media_errors_told
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.wanted import wanted_frames

if TYPE_CHECKING:
    from seedvr2_core.child.warm.kept import Kept


def find_size(request: FindSize, emitter: Emitter) -> SizeFound:
    """Decode the first picture of a video, to know how large it is displayed."""
    from seedvr2_core.video.probe import displayed_size

    emitter.beat("probe", 0, 1)
    with media_errors_told(request.path, "its first picture is decoded"):
        width, height = displayed_size(request.path)
    return SizeFound(width=width, height=height)


def probe(request: Probe, emitter: Emitter) -> Probed:
    """Read every packet of a video, and describe the frames that are wanted of it.

    A job that comes back, and another one of the same video, has its record already. Also tells
    which devices this machine has.
    """
    info = _probed_before(request)
    if info is None:
        info = _probe_now(request, emitter)
        write_record(request.out, info)
    cores = len(os.sched_getaffinity(0))
    return Probed(video=info.outline, devices=_devices(), cpu_count=cores)


def _probe_now(request: Probe, emitter: Emitter) -> VideoInfo:
    """Read the file."""
    from seedvr2_core.video.probe import probe_video, prober

    with media_errors_told(request.path, "its packets are read"):
        info = probe_video(
            request.path,
            beat=emitter.beat,
            max_frames=request.max_frames,
            max_seconds=request.max_seconds,
        )
    return replace(wanted_frames(info, request.wanted), prober=prober())


def _probed_before(request: Probe) -> VideoInfo | None:
    """What the same probe has found before; None where there is no such record.

    The caller names the record by the file's digest and the frames that are wanted. Where limits
    may have become narrower, the probe itself refuses the file.
    """
    from seedvr2_core.video.probe import prober

    try:
        info = read_record(request.out, VideoInfo)
    except (FileNotFoundError, SegmentError):
        return None
    frames = max(map(len, (info.pts, info.reading.pts, info.reading.film)))
    is_within = (request.max_frames is None or frames <= request.max_frames) and (
        request.max_seconds is None or _whole_seconds(info) <= request.max_seconds
    )
    is_same = (info.prober, info.size_bytes) == (prober(), request.path.stat().st_size)
    return info if is_same and is_within else None


def _whole_seconds(info: VideoInfo) -> float:
    """From the first to the last frame of the video, of which this may be a part."""
    times = info.reading.film or info.pts
    return float((times[-1] - times[0]) * Fraction(*info.time_base))


def find_cuts(request: FindCuts, emitter: Emitter) -> CutsFound:
    """Find the cuts of a probed video."""
    from seedvr2_core.video.cuts import CutMarks
    from seedvr2_core.video.shots import find_shots

    def settled(mark: int, frames: tuple[int, ...]) -> None:
        told = CutList(detector=request.settled_by(mark), frames=frames)
        write_record(request.settled_path(mark), told)

    info = read_record(request.info, VideoInfo)
    with (
        unbounded_memory(request.device),
        media_errors_told(request.path, "its cuts are looked for"),
    ):
        found = find_shots(
            request.path,
            info,
            beat=emitter.beat,
            device=request.device,
            marks=CutMarks(request.marks, settled),
        )
    cuts = CutList(detector=request.detector, frames=found.cuts, began=found.began)
    write_record(request.out, cuts)
    return CutsFound(num_cuts=len(cuts.frames))


def make_plan(request: MakePlan, emitter: Emitter) -> PlanMade:
    """Plan a job and write its plan and outline."""
    from seedvr2_core.job.plan_file import read_outlines, write_plan
    from seedvr2_core.planning import build_plan
    from seedvr2_core.planning.outline import obeying

    info = read_record(request.info, VideoInfo)
    cuts = CutList(detector="", frames=())
    if request.cuts is not None:
        cuts = read_record(request.cuts, CutList)
    emitter.beat("plan", 1, 3)
    options = replace(request.options, cut_detector=cuts.detector)
    plan = build_plan(
        info,
        request.source_sha256,
        options,
        cuts=cuts.frames,
        began=cuts.began,
        rates=request.rates,
    )
    plan = obeying(plan, read_outlines(request.like))
    emitter.beat("plan", 2, 3)
    write_plan(request.out, plan)
    return PlanMade()


def check_plan(request: CheckPlan, emitter: Emitter) -> PlanChecked:
    """Look whether a plan that an earlier run has written can be obeyed; write its outline."""
    from seedvr2_core.job.plan_file import read_plan
    from seedvr2_core.planning.outline import PlanOutline, outline_of

    planned = read_record(request.planned, PlanOutline)
    try:
        plan = read_plan(request.plan, planned)
    except (SegmentError, FileNotFoundError) as error:
        return PlanChecked(fault=str(error))
    emitter.beat("plan", 1, 2)
    write_record(request.out, outline_of(plan))
    return PlanChecked(fault="")


def find_excerpt(request: FindExcerpt, emitter: Emitter) -> ExcerptFound:
    """Find the frames of a planned job that a preview shows."""
    from fractions import Fraction

    from seedvr2_core.preview import wanted

    plan = read_record(request.plan, Plan)
    emitter.beat("plan", 1, 2)
    frames = wanted.find_excerpt(plan, wanted.wanted_excerpt(request.wanted))
    video = plan.video
    ends = [*video.pts, video.pts[-1] + video.last_duration]
    start, end = (float(ends[k] * Fraction(*video.time_base)) for k in (frames.start, frames.stop))
    return ExcerptFound(first=frames.start, stop=frames.stop, start_seconds=start, end_seconds=end)


def measure(request: Measure, emitter: Emitter) -> Measured:
    """Find out what a frame of a job takes on this machine."""
    from seedvr2_core.child.frame_cost import measure_frames

    plan = read_record(request.plan, Plan)
    with unbounded_memory(request.device):
        engine_seconds, encoder_seconds = measure_frames(
            plan,
            source=request.source,
            device=request.device,
            folder=request.folder,
            beat=emitter.beat,
        )
    return Measured(engine_seconds=engine_seconds, encoder_seconds=encoder_seconds)


def restore(request: Restore, emitter: Emitter, kept: "Kept | None" = None) -> Idle:
    """Make segments of a job, in order; `kept` is used and stays loaded."""
    from seedvr2_core.child.segments import restore_segments
    from seedvr2_core.child.shares import Work

    job_dir = JobDir(request.job_dir)
    with unbounded_memory(request.device):
        restore_segments(
            read_record(job_dir.plan_path, Plan),
            job_dir,
            source=request.source,
            device=request.device,
            weights_dir=request.weights_dir,
            lock_dir=request.lock_dir,
            work=Work(
                indices=request.segments,
                workers=request.workers,
                helps=request.helps,
                waits=request.waits,
                left_out=request.left_out,
            ),
            events=emitter,
            kept=kept,
        )
    return Idle()


def join(request: Join, emitter: Events) -> Joined:
    """Join the finished segments of a job and carry the source's other streams over."""
    from seedvr2_core.files.space import check_room, full_disk_told
    from seedvr2_core.job.sidecar import finished_sizes
    from seedvr2_core.job.space import bytes_needed
    from seedvr2_core.planning.outline import outline_of
    from seedvr2_core.video.join import JoinPart, join_segments

    job_dir = JobDir(request.job_dir)
    plan = read_record(job_dir.plan_path, Plan)
    outline = outline_of(plan)
    need = bytes_needed(outline, [], finished_sizes(job_dir, outline))
    check_room(job_dir.path, need, doing="joining the segments")
    parts = [
        JoinPart(
            path=job_dir.video_path(segment.index),
            first_pts=plan.video.pts[segment.start],
            num_frames=segment.num_frames,
        )
        for segment in plan.segments
    ]
    told = media_errors_told(request.source, "its sound and text are carried over")
    with full_disk_told("the segments are joined"), told:
        result = join_segments(
            parts,
            request.source,
            plan.video,
            plan.encoder,
            request.out,
            metadata=request.metadata,
            wanted=plan.output,
            on_bytes=partial(emitter.beat, "join"),
        )
    return Joined(notes=tuple(result.notes))


def cut_excerpt(request: CutExcerpt, emitter: Emitter) -> Joined:
    """Cut a preview out of the finished segments of a job."""
    from seedvr2_core.files.space import full_disk_told
    from seedvr2_core.preview.clips import Cutting

    job_dir = JobDir(request.job_dir)
    cutting = Cutting(
        plan=read_record(job_dir.plan_path, Plan),
        job_dir=job_dir,
        source=request.source,
        first=request.first,
        stop=request.stop,
        beat=emitter.beat,
    )
    told = media_errors_told(request.source, "the preview is cut")
    with full_disk_told("the preview is cut"), told:
        notes = cutting.write_clips(request.out, request.before, dict(request.metadata))
        cutting.write_picture(request.out, request.picture)
    return Joined(notes=notes)


def preview(request: Preview, emitter: Emitter) -> Previewed:
    """Draw the before/after picture of a joined job."""
    from seedvr2_core.compare.before_after import STEPS, write_before_after
    from seedvr2_core.job.restored import near_middle, read_restored

    job_dir = JobDir(request.job_dir)
    plan, restored = read_record(job_dir.plan_path, Plan), None
    video = plan.video

    def told(done: int, total: int) -> None:
        emitter.beat("picture", done, STEPS * max(1, total))

    with media_errors_told(request.source, "the before/after picture is drawn"):
        if video.num_frames > 1:
            at, alpha = near_middle(plan), video.keeps_alpha
            frames = read_restored(plan, job_dir, at, at + 1, alpha=alpha, on_bytes=told)
            restored = at, next(frames)
        write_before_after(
            request.source,
            video,
            request.output,
            request.out,
            restored=restored,
            beat=emitter.beat,
        )
    return Previewed()


def report(request: MakeReport, emitter: Emitter) -> ReportMade:
    """Compare a job's result with its source, and write the job's report."""
    from seedvr2_core.report.make import make_report

    with media_errors_told(request.source, "it is compared with the result"):
        made = make_report(
            JobDir(request.job_dir),
            request.source,
            request.about,
            seconds=request.seconds,
            beat=emitter.beat,
        )
    return ReportMade(warnings=made.warnings)


def compare(request: Compare, emitter: Emitter) -> Compared:
    """Put two videos side by side."""
    from seedvr2_core.compare.make import make_comparison
    from seedvr2_core.files.space import full_disk_told

    with full_disk_told("the comparison is made"):
        return Compared(result=make_comparison(request.wanted, beat=emitter.beat))


OPERATIONS: Mapping[type[Request[Any]], Callable[[Any, Emitter], Event]] = {
    FindSize: find_size,
    Probe: probe,
    FindCuts: find_cuts,
    MakePlan: make_plan,
    CheckPlan: check_plan,
    FindExcerpt: find_excerpt,
    Measure: measure,
    Restore: restore,
    Join: join,
    CutExcerpt: cut_excerpt,
    Preview: preview,
    MakeReport: report,
    Compare: compare,
}


def _devices() -> tuple[FoundDevice, ...]:
    """Torch devices of this machine, best first, with the memory that is free on them."""
    cpu = FoundDevice(name="cpu", kind="cpu", free_bytes=None)
    with unbounded_memory(GPU):
        found = [
            FoundDevice(
                name=name,
                kind=kind,
                free_bytes=free,
                dit_dtype=ability_of(name).dit_dtype,
                own_kernels=runs_own_kernels(name),
                host_bytes=free_host_bytes(),
            )
            for name, kind, free in gpus()
        ]
    return (*found, cpu)
