"""The upscale flow: it restores and upscales one video and stores the result.

Each step is a task with its own retries and limits.
"""

import time

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.early import EarlyWork, may_begin_early, restore_early
from flows.form import arrange
from tasks.child import one_child
from tasks.early.begun import take_over
from tasks.estimate import delivery_url, estimate
from tasks.fetch import fetch
from tasks.inference import infer, session
from tasks.job import (
    find_finished,
    finish,
    hold_job,
    make_room,
    prepare_masters,
    store_masters,
)
from tasks.job.again import NO_MASTER, forgets_plan, master_to_code, wish_of
from tasks.job.hold import HeldElsewhere, leave_if_still_held
from tasks.parts import MadeWayError, end_parts, share_out
from tasks.probe import probe
from tasks.request.source import Rate
from tasks.request.video import (
    Alpha,
    Audio,
    Codec,
    ColorCorrection,
    Container,
    Deinterlace,
    Encoder,
    Model,
    Preset,
    Resolution,
    StitchMode,
    Text,
)
from tasks.run import keep_record
from tasks.run.attempts import end_earlier_attempts, end_with_run, leave_slot
from tasks.run.begin import begin_run
from tasks.run.callbacks.announce import announced
from tasks.run.callbacks.hook import call_back, check_callback
from tasks.run.failures import EXPECTED, completed, failed, moved, tell_in_sentences
from tasks.run.handover import (
    FetchedElsewhere,
    fetched_before,
    hand_over,
    may_leave_cuts,
    patience_for,
)
from tasks.run.record import DELIVERY_SECONDS, JobRecord
from tasks.run.routing import check_pool, move_job
from tasks.run.spending import limit_seconds
from tasks.run.termination import termination_heard
from tasks.run.unheard import NotOursError
from tasks.schemas import FetchedSource, ProbedSource, UpscaleRequest, UpscaleResult, check_request
from tasks.settings import get_settings
from tasks.sources.names import name_in
from tasks.stitch import stitch
from tasks.storage import check_storage, delivered_to
from tasks.upload import upload
from tasks.verify import report, verify


def run_name() -> str:
    """Name of a run: the video's file name, without directories or query string, and the target."""
    parameters = flow_run.parameters
    source = parameters.get("video_url") or parameters.get("video_path")
    if not source:
        source = "upload" if parameters.get("video_base64") else "no source"
    return f"{name_in(str(source))[:60] or 'video'} -> {parameters.get('resolution', '1080p')}"


@flow(
    name="upscale",
    flow_run_name=run_name,
    persist_result=False,
    on_completion=[call_back],
    on_failure=[end_parts, call_back],
    on_cancellation=[end_with_run, end_parts, call_back],
    on_crashed=[call_back],
)
def upscale(
    video_url: Text = "",
    video_path: Text = "",
    video_base64: Text = "",
    fps: Rate = "",
    resolution: Resolution = "1080p",
    model: Model = "auto",
    weights_file: Text = "",
    batch_size: int = 100,
    temporal_overlap: int | None = None,
    stitch_mode: StitchMode = "crossfade",
    seed: int = 100,
    deinterlace: Deinterlace = "auto",
    alpha: Alpha = "auto",
    start: Text = "",
    end: Text = "",
    preview: Text = "",
    color_correction: ColorCorrection = "auto",
    strength: float = 1.0,
    codec: Codec = "auto",
    container: Container = "auto",
    quality: int | None = None,
    audio: Audio = "keep",
    crf: int = 18,
    preset: Preset = "medium",
    encoder: Encoder = "software",
    grain: float = 0.0,
    allow_damaged: bool = False,
    fresh: bool = False,
    keep_master: bool = False,
    max_workers: int = 1,
    max_seconds: float | None = None,
    max_price: float | None = None,
    output_url: Text = "",
    callback_url: Text = "",
    callback_events: Text = "ended",
    tags: Text = "",
    metadata: Text = "",
    expires_in: float | None = None,
) -> State[UpscaleResult]:
    """Restore and upscale one video. Give exactly one of the three sources.

    Args:
        video_url: http(s) address of the video, such as https://example.org/clip.mp4.
        video_path: path on the machine that runs the flow, such as /data/clip.mp4, if allowed.
        video_base64: the bytes of a small video in base64, at most 350 KB of text.
        fps: makes one video of a folder, pattern or zip of pictures: 24, 29.97 or 24000/1001.
        resolution: 720p to 4k (area), short:720 to short:2160 (shorter side), 2x, or 1920x1080.
        model: auto, a SeedVR2 model, or one of the small engines span, waifu2x and lanczos.
        weights_file: name of the file in the folder of weights; empty means the best one there.
        batch_size: number of frames that the SeedVR2 model sees at once.
        temporal_overlap: number of frames shared by neighbouring batches; empty means 12.
        stitch_mode: shared frames: crossfade mixes both batches, later keeps the earlier batch's.
        seed: seed of the noise. The same seed gives the same pixels.
        deinterlace: auto makes a frame of each picture, bob of each field; film undoes pulldown.
        alpha: transparent sources: auto keeps it, flatten or flatten:#ffffff puts it on a colour.
        start: where the part begins: seconds, h:m:s or frame:1500; empty means the beginning.
        end: where that part ends; empty means the end.
        preview: make only a short piece first, such as 3s@0:42 or 90f@1200; empty: the whole video.
        color_correction: how the colours are brought back to those of the source.
        strength: how much of the model's detail is kept: 1 is all of it, 0 leaves the source's.
        codec: codec of the result; auto is h264 for 8-bit SDR, and hevc for all else.
        container: file format of the result; auto is mp4 or mkv, or png for a picture.
        quality: quality from 1 to 100, more is better, for all codecs; empty means as crf says.
        audio: keep copies the sound, aac encodes it anew, none leaves it out.
        crf: quality on x264's scale. A smaller number gives a better picture and a larger file.
        preset: speed of the encoder.
        encoder: what codes the pictures: software, or nvenc on a GPU that has a video unit.
        grain: how much film grain is added, from 0 to 1; 0 is none.
        allow_damaged: take a video whose end is missing, and upscale what is there.
        fresh: ignore finished segments that an earlier run left.
        keep_master: keep a lossless master, from which other codecs are made without the engine.
        max_workers: on how many workers a long video may be made at once.
        max_seconds: seconds that the job may hold its device, in all of its runs; empty means any.
        max_price: the same as a price, where SEEDVR2_HOUR_PRICE says what an hour costs.
        output_url: http(s) address that takes the video by a PUT, in the place of the storage.
        callback_url: address that is told what becomes of it, such as https://example.org/hook.
        callback_events: what it is told of, with commas between: started, progress, ended.
        tags: words of your own by which jobs can be found, with commas between.
        metadata: what you note on the job, a small JSON object such as {"order": 17}.
        expires_in: seconds after its end until the output is removed; 0 is never.

    Example: upscale(video_url="https://example.org/clip.mp4", resolution="4k")
    """
    asked = locals()
    begin_run(flow_run.id, flow_run.parameters)
    tell_in_sentences()
    began = time.monotonic()
    try:
        request = check_request(**asked)
        _check_here(request)
        with delivered_to(delivery_url(request)):
            check_storage(get_settings())
            return _made_or_moved(request, began)
    except (HeldElsewhere, FetchedElsewhere, MadeWayError) as elsewhere:
        leave_slot(elsewhere.leave())
    except EXPECTED as error:
        return failed(error)


arrange(upscale)


def _check_here(request: UpscaleRequest) -> None:
    """Refuse what this pool and this installation do not do."""
    check_pool(request.resolution)
    limit_seconds(request.max_seconds, request.max_price, get_settings())
    if request.callback_url:
        check_callback(request.callback_url)


def _made_or_moved(request: UpscaleRequest, began: float) -> State[UpscaleResult]:
    """The state of a run that has made its output, or has created its job where that can be.

    A run that was cancelled, or goes on elsewhere, ends here if nobody has told its process.
    """
    try:
        with termination_heard(), announced(request), keep_record() as record:
            try:
                return completed(_make(request, record, began))
            except NO_MASTER as error:
                return moved(move_job(request.resolution, str(error)))
    except NotOursError as ended:
        return ended.leave()


@one_child()
def _make(request: UpscaleRequest, record: JobRecord, began: float) -> UpscaleResult:
    """Make the output of a request, or find it made; `began` is when the run did.

    On a CPU one child probes the source, restores it and does what comes after that. With a GPU one
    restores that does nothing else.
    """
    end_earlier_attempts()
    leave_if_still_held()
    made = master_to_code(request)
    source = fetched_before(get_settings()) or _fetch(request)
    probed, early = _probe(source, request)
    check_pool(request.resolution, probed.video.display_size)
    job = early.go_on(estimate(request, probed, made))
    record.planned(job)
    with hold_job(job, fresh=request.fresh), forgets_plan(job):
        take_over(job, probed, fresh=request.fresh and not early.began)
        if finished := find_finished(job, seconds=time.monotonic() - began):
            return finished
        prepare_masters(job, fresh=request.fresh)
        make_room(job)
        with (
            share_out(job, 1 if job.preview else request.max_workers) as shared,
            session(job, workers=shared.workers, divided=shared.divided) as inference,
        ):
            for index in job.segments:
                shared.leave_if_a_job_waits()
                infer(index, job.preview.of_segments if job.preview else job.num_segments)
        record.enter("deliver", stall_seconds=DELIVERY_SECONDS)
        joined = stitch(job)
        stored = verify(upload(joined, job.output_name), joined)
        reported = report(job, joined, stored, began=began)
        if job.keep_master:
            store_masters(job, wish_of(request))
        return finish(
            job,
            joined,
            stored,
            seconds=time.monotonic() - began,
            kept=early.without(inference.kept),
            account=early.in_all(inference.account),
            reported=reported,
        )


def _fetch(request: UpscaleRequest) -> FetchedSource:
    """Fetch the source here, or leave it to a run without a GPU if it takes long."""
    source = fetch(request, patience=patience_for(request))
    if source is None:
        raise FetchedElsewhere(hand_over())
    return source


def _probe(source: FetchedSource, request: UpscaleRequest) -> tuple[ProbedSource, EarlyWork]:
    """Probe the source; leave the cuts of a long video to a run without a GPU, if there is one.

    On one machine the beginning of such a video is restored while its cuts are looked for.
    """
    leaves = may_leave_cuts()
    may_wait = leaves or may_begin_early(request, get_settings())
    probed = probe(source, request, cuts="short" if may_wait else "all")
    if not probed.leaves_cuts:
        return probed, EarlyWork()
    if leaves:
        raise FetchedElsewhere(hand_over(source))
    return restore_early(probed, request)
