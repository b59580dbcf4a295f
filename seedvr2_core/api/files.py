"""A whole video file, restored and upscaled by this process: no server, no flow.

What is finished is kept by segments of about ten seconds in a folder beside the output. The same
call goes on there after a crash, a full disk or a stop, and makes the same bytes.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seedvr2_core.api.options import (
    Cancellation,
    Coding,
    ModelOptions,
    OnProgress,
    Progress,
    check_resolution,
    crf_asked,
    ignore_progress,
)
from seedvr2_core.child.operations import join
from seedvr2_core.child.protocol import Event, Join, Progressed
from seedvr2_core.child.segments import restore_segments
from seedvr2_core.child.shares import Work
from seedvr2_core.config import find_engine
from seedvr2_core.errors import InvalidRequestError, SegmentError
from seedvr2_core.files import file_sha256, hold_lock
from seedvr2_core.files.place import place
from seedvr2_core.files.space import check_room
from seedvr2_core.job import JobDir, deviations, pending_segments
from seedvr2_core.job.output_file import OutputFile, check_output_file
from seedvr2_core.job.plan_file import read_plan, write_plan
from seedvr2_core.job.space import bytes_needed
from seedvr2_core.planning import Plan, build_plan
from seedvr2_core.planning.outline import outline_of
from seedvr2_core.video.cuts import cut_detector
from seedvr2_core.video.foreign import media_errors_told
from seedvr2_core.video.info import ends_early
from seedvr2_core.video.output.formats import container_of
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.sequence.pack import pack_source
from seedvr2_core.video.sequence.rate import parse_rate
from seedvr2_core.video.shots import FoundShots, find_shots
from seedvr2_core.video.wanted import WantedFrames, wanted_frames

RESTORE = "restore"
"""The phase in which engine and encoder work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaledFile:
    """What `upscale_file` has made."""

    path: Path
    width: int
    height: int
    num_frames: int
    frames_reused: int
    """Of these, frames that an earlier call had made."""
    seconds: float
    """Wall time of this call."""
    engine: str
    notes: tuple[str, ...]
    """Sentences for people: what was lowered, lost or not made as planned."""


def upscale_file(
    source: str | Path,
    output: str | Path,
    *,
    fps: str = "",
    resolution: str = "1080p",
    options: ModelOptions | None = None,
    codec: str = "auto",
    audio: str = "keep",
    quality: int | None = None,
    crf: int = 18,
    preset: str = "medium",
    encoder: str = "software",
    grain: float = 0.0,
    deinterlace: str = "auto",
    alpha: str = "auto",
    start: str = "",
    end: str = "",
    allow_damaged: bool = False,
    overwrite: bool = False,
    work_dir: Path | None = None,
    on_progress: OnProgress = ignore_progress,
    cancel: threading.Event | None = None,
) -> UpscaledFile:
    """Restore and upscale a video file; sound, subtitles and times are those of the source.

    The source is decoded in this process, so use the service for files that strangers send. While
    it runs, torch is set to deterministic operators for the whole process.

    Args:
        source: the video, or a picture (PNG, JPEG, TIFF, WebP, EXR); with `fps` a folder, a zip or
            a pattern ("frames/%05d.png") of pictures.
        output: the file to make, whose ending says its kind (.mp4, .png ...); whole or absent.
        fps: makes one video of pictures, so many of them a second: "24", "24000/1001".
        resolution: 720p to 4k, short:720 to short:2160, 2x or 1920x1080, as requests have it.
        options: model, device, seed and so on.
        codec: a name in `video.output.formats.CODECS`; "auto": h264, hevc, or png for a picture.
        audio: "keep", "aac" (all sound is encoded as AAC) or "none".
        quality: 1 to 100 for all codecs, more is better and larger; None: as `crf` says.
        crf: quality on the scale of x264, 0 to 51; a smaller number is better and larger.
        preset: speed of the encoder.
        encoder: what codes the pictures: "software", or "nvenc" on a GPU with a video unit.
        grain: how much film grain is added, 0 to 1, drawn from the options' seed.
        deinterlace: "auto" (a frame of each picture), "bob" (of each field), "film" or "off".
        alpha: "auto" (kept where transparent), "keep", "flatten", "flatten:#ffffff" or "refuse".
        start: where the part begins: "90" (seconds), "1:02:03.5" or "frame:1500"; `end` likewise.
        end: where it ends; "": the end.
        allow_damaged: take a video that ends before its header or index says.
        overwrite: replace a file that has the output's name. The source is never replaced.
        work_dir: folder for what is not finished; None: a hidden one beside the output.
        on_progress: called often, from several threads; an error that it raises ends the work.
        cancel: set it from another thread to stop; finished segments are kept.

    Raises:
        InvalidRequestError, InvalidVideoError: it cannot be made as asked; no video can be read.
        CheckpointError, ResourceError: weights, memory, disk or encoder are missing or too little.
        StoppedByCallerError: `cancel` was set; any other SeedVR2Error: see `errors.py`.
    """
    began = time.monotonic()
    target = Path(output).absolute()
    coding = Coding(
        codec=codec,
        container=container_of(target),
        audio=audio,
        crf=crf_asked(quality, crf),
        preset=preset,
        encoder=encoder,
        grain=grain,
        wanted=WantedFrames(deinterlace=deinterlace, start=start, end=end, alpha=alpha),
    )
    file = _checked(Path(source).absolute(), target, resolution, coding, overwrite, fps)
    folder = work_dir or target.with_name(f".{target.name}.seedvr2")
    folder.mkdir(parents=True, exist_ok=True)
    told, options = _Told(on_progress, Cancellation(cancel)), options or ModelOptions()
    with _one_file(file, fps, folder, told) as video:
        plan = _plan(video, resolution, options, coding, allow_damaged, told)
        job_dir = JobDir(folder / plan.job_key)
        job_dir.path.mkdir(exist_ok=True)
        with hold_lock(job_dir.lock_path, timeout=0, on_wait=lambda: None):
            plan = _obeyed(plan, job_dir)
            pending, notes = _make(plan, job_dir, video, options, told)
            _place(job_dir.output_path, target, plan.job_key, overwrite=overwrite)
    shutil.rmtree(folder if work_dir is None else job_dir.path, ignore_errors=True)
    return _upscaled(plan, target, pending, notes, time.monotonic() - began)


def _make(
    plan: Plan, job_dir: JobDir, source: Path, options: ModelOptions, told: "_Told"
) -> tuple[list[int], tuple[str, ...]]:
    """Make what is missing and join all; returns the segments that were missing, and notes."""
    kept = partial(told.beat, "hash")
    pending = pending_segments(job_dir, outline_of(plan), on_bytes=kept)
    _restore(plan, job_dir, source, pending, options, told)
    return pending, _join(plan, job_dir, source, told)


def _upscaled(
    plan: Plan, target: Path, pending: list[int], notes: Sequence[str], seconds: float
) -> UpscaledFile:
    """What has become of the plan in this call."""
    return UpscaledFile(
        path=target,
        width=plan.width,
        height=plan.height,
        num_frames=plan.video.num_frames,
        frames_reused=plan.video.num_frames - _frames_of(plan, pending),
        seconds=seconds,
        engine=plan.engine.name,
        notes=(*plan.notes, *notes),
    )


def _checked(
    source: Path, target: Path, resolution: str, coding: Coding, overwrite: bool, fps: str
) -> Path:
    """The source, if everything that can be checked before reading it is in order.

    Raises:
        InvalidRequestError: what is not.
    """
    check_resolution(resolution)
    coding.check()
    check_output_file(OutputFile(path=target, overwrite=overwrite, source=source))
    if not fps and not source.is_file():
        raise InvalidRequestError(
            f"{source} is no file; name a video file, or give fps to make a video of pictures"
        )
    return source


@contextmanager
def _one_file(source: Path, fps: str, folder: Path, told: "_Told") -> Iterator[Path]:
    """The source, or one file of its pictures, which is there for the `with` block.

    Raises:
        InvalidRequestError: `fps` is no rate.
        SourceRefusedError, SourceUnavailableError: the pictures are not all there.
        InvalidVideoError: they are no sequence.
    """
    if not fps:
        yield source
        return
    try:
        rate = parse_rate(fps)
    except ValueError as error:
        raise InvalidRequestError(f"fps: {error}") from error
    packed = folder / ".seedvr2-pictures"
    try:
        yield pack_source(source, rate, packed, on_bytes=partial(told.beat, "hash"))
    finally:
        shutil.rmtree(packed, ignore_errors=True)


def _place(made: Path, target: Path, job_key: str, *, overwrite: bool) -> None:
    """Give the finished video the caller's name.

    Raises:
        InvalidRequestError: somebody has taken the name meanwhile; the message says where the
            video is.
    """
    if not place(made, target, part_name=f".{job_key}.part", replace=overwrite):
        raise InvalidRequestError(
            f"{target} has come into being meanwhile, and is not replaced; the finished video is "
            f"{made}"
        )


class _Told:
    """`child.progress.Events` for a caller in this process: tells it, and stops where it asks."""

    def __init__(self, on_progress: OnProgress, stop: Cancellation) -> None:
        self._on_progress, self._stop = on_progress, stop
        self.num_frames = 0
        """That are restored in this call."""

    def emit(self, event: Event) -> None:
        """What the pipeline tells of finished work."""
        self._stop.check()
        if isinstance(event, Progressed):
            done = min(event.restored, event.encoded) if self.num_frames else 0
            self._on_progress(Progress(phase=RESTORE, done=done, total=self.num_frames))

    def beat(self, phase: str, done: int, total: int) -> None:
        """A sign of life; those of engine and encoder tell less than `emit`."""
        self._stop.check()
        if phase in ("hash", "probe", "cuts", "load", "join"):
            self._on_progress(Progress(phase=phase, done=done, total=total))


def _plan(
    source: Path,
    resolution: str,
    options: ModelOptions,
    coding: Coding,
    allow_damaged: bool,
    told: _Told,
) -> Plan:
    """Read the source and plan the job."""
    spec = find_engine(options.model)
    detector = cut_detector() if spec.has_latents else ""
    planned = options.planned(resolution, coding=coding, detector=detector)
    sha256 = file_sha256(source, on_bytes=partial(told.beat, "hash"))
    with media_errors_told(source, "its packets are read"):
        info = probe_video(source, beat=told.beat)
    if info.ends_early and not allow_damaged:
        raise ends_early(source.name, info.ends_early)
    info = wanted_frames(info, coding.wanted)
    shots = FoundShots((), 0)
    if spec.has_latents:
        with media_errors_told(source, "its cuts are looked for"):
            shots = find_shots(source, info, beat=told.beat, device=planned.device)
    return build_plan(info, sha256, planned, cuts=shots.cuts, began=shots.began)


def _obeyed(plan: Plan, job_dir: JobDir) -> Plan:
    """The plan that an earlier call has written for this job; else this one, and it is kept."""
    try:
        return read_plan(job_dir.plan_path, outline_of(plan))
    except (FileNotFoundError, SegmentError):
        write_plan(job_dir.plan_path, plan)
        return plan


def _frames_of(plan: Plan, indices: list[int]) -> int:
    return sum(plan.segments[index].num_frames for index in indices)


def _restore(
    plan: Plan,
    job_dir: JobDir,
    source: Path,
    pending: list[int],
    options: ModelOptions,
    told: _Told,
) -> None:
    """Make the segments that are missing."""
    if not pending:
        return
    outline = outline_of(plan)
    need = bytes_needed(outline, [outline.segments[index] for index in pending])
    check_room(job_dir.path, need, doing="the job")
    told.num_frames = _frames_of(plan, pending)
    restore_segments(
        plan,
        job_dir,
        source=source,
        device=options.chosen_device(find_engine(plan.engine.name)),
        weights_dir=options.weights_dir,
        lock_dir=job_dir.path,
        work=Work(indices=tuple(pending)),
        events=told,
    )


def _join(plan: Plan, job_dir: JobDir, source: Path, told: _Told) -> tuple[str, ...]:
    """Join the segments; returns notes."""
    label = find_engine(plan.engine.name).label
    request = Join(
        job_dir=job_dir.path,
        source=source,
        out=job_dir.output_path,
        metadata={"comment": f"upscaled to {plan.resolution} by {label}"},
    )
    return (*deviations(job_dir, outline_of(plan)), *join(request, told).notes)
