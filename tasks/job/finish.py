"""Tasks on a job's directory: look for an output that is finished, make room, record the result."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.runtime import deployment, flow_run
from pydantic import ValidationError

from seedvr2_core.errors import StorageError
from seedvr2_core.files import file_sha256, read_record
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.files.space import check_room, is_full
from seedvr2_core.files.writing import copy_file
from seedvr2_core.job import JobDir, deviations
from seedvr2_core.job.sidecar import finished_sizes
from seedvr2_core.job.space import bytes_needed, bytes_per_frame
from seedvr2_core.kernels.choice import chosen_in
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.words import counted
from tasks.job.again import note_master
from tasks.job.beside import keep_all_beside, keep_before
from tasks.job.masters import copy_masters, kept_masters, master_room, tell_wanted
from tasks.job.sweep import bound_copies, remove_pieces, sweep
from tasks.request.shared import KeptWork
from tasks.run import current, publish_result
from tasks.run.record import DELIVERY_SECONDS
from tasks.run.retention import callers_own, keep_output
from tasks.schemas import Account, JoinedVideo, PlannedJob, StoredVideo, UpscaleResult
from tasks.settings import get_settings
from tasks.step import step
from tasks.storage import Stored, open_storage
from tasks.storage.base import translated
from tasks.storage.open import makes_folder, storage_folder

_NO_MASTER = (
    "keep_master has kept nothing now, because the video was there already; with fresh it is made "
    "anew, and its master with it"
)


@step(name="find-finished", retries=3, retry_delay_seconds=[2, 8, 30])
def find_finished(job: PlannedJob, *, seconds: float) -> UpscaleResult | None:
    """The job's output, if an earlier run stored it and the storage still has the same bytes.

    Args:
        job: the job, which this run holds.
        seconds: how long this run has taken so far.

    Returns:
        The result, as this run's; None if the output must be made.

    Side effects: as `finish`, where there is a result.
    Raises: StorageError (retried).
    """
    if job.preview is not None and (whole := _whole_film(job)):
        publish_result(whole)
        return whole
    earlier = _read_result(job.own_dir)
    if earlier is None:
        return None
    found = _find_stored(job, earlier)
    if found is None:
        get_run_logger().warning(
            "%s is not in storage any more; it is made again", earlier.filename
        )
        return None
    get_run_logger().info("%s is there already", found.name)
    preview = Path(earlier.preview_path) if earlier.preview_path else None
    page = Path(earlier.report_path) if earlier.report_path else None
    beside = keep_all_beside(JobDir(job.own_dir), found, preview=preview, page=page)
    changes = {
        "job_id": str(flow_run.id),
        "filename": found.name,
        "cdn_url": found.url,
        "output_path": str(found.path) if found.path else None,
        **beside._asdict(),
        "source_name": job.source.name,
        "seconds": round(seconds, 2),
        "segments_reused": job.num_segments,
        "frames_reused": job.num_frames,
        "already_done": True,
        "estimated_seconds": None,  # of the run that made it
        "taken_seconds": None,
        "notes": (*earlier.notes, *([_NO_MASTER] if job.keep_master else [])),
        **_callers_own(job),
    }
    return _close(job, earlier.model_copy(update=changes))


def _find_stored(job: PlannedJob, earlier: UpscaleResult) -> Stored | None:
    """The earlier output where this run wants it; None if its bytes are nowhere any more.

    An earlier run may have stored it elsewhere on this machine: in a file that its caller named, or
    in the folder while now a file is named. Then it is stored again from there.
    """
    alive = current().still_alive
    storage = open_storage(get_settings(), on_bytes=alive)
    found = storage.stat(earlier.filename)
    if found is not None and found.sha256 == earlier.sha256:
        return found
    elsewhere = Path(earlier.output_path) if earlier.output_path else None
    if elsewhere is None or not elsewhere.is_file():
        return None
    if file_sha256(elsewhere, on_bytes=alive) != earlier.sha256:
        return None
    # Storages may link the file they are given, and who edits one of two files must not change the
    # other. So they get a copy.
    job_dir = JobDir(job.own_dir)
    with translated(f"copying {elsewhere}"):
        copy_file(elsewhere, job_dir.output_part_path, on_bytes=alive)
        job_dir.output_part_path.replace(job_dir.output_path)
    return storage.put(job_dir.output_path, job.output_name, sha256=earlier.sha256)


def _whole_film(job: PlannedJob) -> UpscaleResult | None:
    """The whole job's result, where a preview is asked for and the film is there already."""
    earlier = _read_result(job.job_dir)
    if earlier is None:
        return None
    path = Path(earlier.output_path) if earlier.output_path else None
    stored = open_storage(get_settings()).stat(earlier.filename) if path is None else None
    if not (stored or (path and path.is_file())):
        return None
    told = "the whole video is there already, so no preview is made"
    get_run_logger().info("%s", told)
    changes = {"job_id": str(flow_run.id), "already_done": True, "notes": (*earlier.notes, told)}
    return earlier.model_copy(update=changes)


def _read_result(folder: Path) -> UpscaleResult | None:
    """The result that an earlier run has written; None if there is none that can be read."""
    path = JobDir(folder).result_path
    if not path.is_file():
        return None
    try:
        return UpscaleResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        get_run_logger().warning(
            "%s is no readable result (%d errors) and is ignored", path, error.error_count()
        )
        return None


@step(name="prepare-masters", retries=3, retry_delay_seconds=[2, 8, 30])
def prepare_masters(job: PlannedJob, *, fresh: bool) -> None:
    """Find the masters that the job's segments can be coded from, unless all is made anew.

    Side effects: see `tasks.job.masters.tell_wanted`.
    Raises: ResourceError (final); StorageError (retried): the store does not answer.
    """
    plan = read_record(JobDir(job.job_dir).outline_path, PlanOutline)
    alive = current().still_alive
    if num_ready := tell_wanted(job, plan, get_settings(), fresh=fresh, on_bytes=alive):
        told = counted(len(plan.segments), "segment")
        get_run_logger().info("%d of %s have a master", num_ready, told)


@step(name="store-masters")
def store_masters(job: PlannedJob, wish: str = "") -> None:
    """Wait until the store has the masters that the job keeps; the video is delivered already.

    A store that does not take them fails nothing: the result says how many it has.

    Args:
        job: the job.
        wish: what doors find the master by, of its request (`tasks.job.again.wish_of`).
    """
    plan = read_record(JobDir(job.job_dir).outline_path, PlanOutline)
    try:
        copy_masters(job, plan, get_settings(), on_bytes=current().still_alive)
        note_master(job, plan, wish, get_settings())
    except (StorageError, OSError) as error:
        get_run_logger().warning("masters stay here alone: %s", error)


@step(name="make-room", retries=1, retry_delay_seconds=2)
def make_room(job: PlannedJob) -> None:
    """Remove what is older than SEEDVR2_KEEP_DAYS, then check that the job fits on the disk.

    Side effects: see `tasks.job.sweep`.
    Raises: ResourceError: the disk has too little room; the message has both numbers (final).
    """
    for what in sweep(get_settings()):
        get_run_logger().info("removed %s, unused for %g days", what, get_settings().keep_days)
    digest = job.source.sha256
    for what in bound_copies(get_settings(), job_key=job.job_key, source_sha256=digest):
        get_run_logger().info("removed %s here, which the store has", what)
    job_dir = JobDir(job.job_dir)
    plan = read_record(job_dir.outline_path, PlanOutline)
    # Digests are compared when the work begins; for an estimate the sidecars are enough.
    pending = [s for s in plan.segments if not job_dir.sidecar_path(s.index).is_file()]
    finished = finished_sizes(job_dir, plan)
    need = bytes_needed(plan, pending, finished) + master_room(job, plan)
    check_room(job_dir.path, need, doing="the job")
    folder = storage_folder(get_settings())
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    elsewhere = folder.stat().st_dev != job_dir.path.stat().st_dev  # else it will be a link
    if elsewhere or makes_folder():
        size = round(bytes_per_frame(plan, finished) * plan.num_frames)
        check_room(folder, size, doing="the finished video")


@step(name="finish", retries=10, retry_delay_seconds=[1, 2, 5, 10, 30, 30, 30, 30, 30, 30])
def finish(
    job: PlannedJob,
    joined: JoinedVideo,
    stored: StoredVideo,
    *,
    seconds: float,
    kept: KeptWork,
    account: Account | None = None,
    reported: Path | None = None,
) -> UpscaleResult:
    """Record the result, on disk first and then in Prefect, and remove the job's pieces.

    Args:
        job: the job, which this run holds.
        joined: the joined file.
        stored: the same file in storage, verified.
        seconds: how long this run has taken.
        kept: what earlier runs had made.
        account: what the run was expected to take, and what it has taken.
        reported: the page of the job's report, if there is one.

    Side effects: writes jobs/<job_key>/result.json, the before/after picture and the report beside
        the output, if that is on this machine, and the result artifact; removes segments, latents
        and the joined file (unless SEEDVR2_KEEP_SEGMENTS is on).
    Retries: for about three minutes, in case the Prefect server is away.
    """
    current().enter("finish", stall_seconds=DELIVERY_SECONDS)
    job_dir = JobDir(job.job_dir)
    beside = keep_all_beside(job_dir, stored, preview=joined.preview, page=reported)
    shown = keep_before(job.preview, joined.before, stored) if job.preview else None
    result = UpscaleResult(
        job_id=str(flow_run.id),
        job_key=job.job_key,
        filename=stored.name,
        cdn_url=stored.url,
        output_path=str(stored.path) if stored.path else None,
        **beside._asdict(),
        source_name=job.source.name,
        input_size_mb=round(job.source.num_bytes / 1e6, 3),
        output_size_mb=round(stored.num_bytes / 1e6, 3),
        sha256=stored.sha256,
        engine=job.engine,
        width=job.width,
        height=job.height,
        frames=joined.num_frames,
        seconds=round(seconds, 2),
        segments_reused=kept.segments,
        frames_reused=kept.frames,
        **job.format.model_dump(),
        notes=tuple(_notes(job, joined, kept, job_dir)),
        preview=shown,
        **(account or Account()).model_dump(),
        **_callers_own(job),
    )
    return _close(job, result)


def _callers_own(job: PlannedJob) -> dict[str, Any]:
    """What the caller of this run has noted, and until when its output is kept.

    A run of the command is its user's own, and nothing would come back to it: its output stays.
    """
    expires_in = job.expires_in if deployment.id else 0.0
    return callers_own(job.tags, job.metadata, expires_in, get_settings().expires_in)


def _close(job: PlannedJob, result: UpscaleResult) -> UpscaleResult:
    """Record the result and remove the pieces that it was made of.

    The video is stored and verified, so a disk that takes no record does not fail the job.
    """
    job_dir = JobDir(job.own_dir)
    try:
        _write_result(job_dir, result)
    except OSError as error:
        note = (
            f"{job_dir.result_path} could not be written ({error.strerror}), so the same request "
            "would make the video again"
        )
        get_run_logger().warning("%s", note)
        result = result.model_copy(update={"notes": (*result.notes, note)})
    publish_result(result)
    _note_output(job, result)
    if not get_settings().keep_segments:
        remove_pieces(job_dir)
    return result


def _notes(job: PlannedJob, joined: JoinedVideo, kept: KeptWork, job_dir: JobDir) -> Iterator[str]:
    """What the result says in sentences: of the plan, the joined file, and how it was made."""
    plan = read_record(job_dir.outline_path, PlanOutline)
    yield from job.notes
    yield from joined.notes
    yield from deviations(job_dir, plan)
    if not job.preview:
        yield from kept_masters(job, plan, get_settings())
    yield from chosen_in(job_dir.kernels_path)
    yield from _kept_of_previews(kept)


def _kept_of_previews(kept: KeptWork) -> list[str]:
    """How many of the segments that were there before a preview has shown, as a sentence."""
    told = f"{counted(kept.previewed, 'segment')} kept from the preview"
    return [told] if kept.previewed else []


def _note_output(job: PlannedJob, result: UpscaleResult) -> None:
    """Note on the run which output it has and until when, so that it can be removed."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(result.job_id))
        keep_output(client, run, job.output_key, result.expires_at)


def _write_result(job_dir: JobDir, result: UpscaleResult) -> None:
    """Write result.json; on a full disk the job's pieces, which are not needed now, make room."""
    content = result.model_dump_json(indent=2).encode()
    try:
        write_bytes(job_dir.result_path, content)
    except OSError as error:
        if not is_full(error) or get_settings().keep_segments:
            raise
        remove_pieces(job_dir)
        write_bytes(job_dir.result_path, content)
