"""Where a video is coded again: on a pool without a GPU, if a master of its pixels was kept.

A door chooses a job's pool before anybody has seen its source. So a job that has kept a whole
master leaves a note under a digest of what its request says about pixels. A door that finds a note
for a new request, and the master that it names, sends the job to SEEDVR2_CODING_DEPLOYMENT. There
the job is planned as ever, with the engine and the weights that the note names, which need not be
on that machine. If the source or the depth has changed meanwhile, or a master is gone or damaged,
the run creates the job where it would have gone without the note (`tasks.run.routing.move_job`).
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefect.runtime import deployment, flow_run
from pydantic import TypeAdapter, ValidationError

from seedvr2_core.engines.table import EngineWeights
from seedvr2_core.errors import NoMasterError, SegmentError, StorageError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.job_dir import outline_beside
from seedvr2_core.job.masters import Masters
from seedvr2_core.planning.outline import PlanOutline
from tasks.net.bucket import Bucket
from tasks.schemas import PlannedJob, UpscaleRequest
from tasks.settings import Settings, get_settings
from tasks.store import copy_of
from tasks.store.master_copy import MasterCopy

logger = logging.getLogger(__name__)

_OF_PIXELS = (
    *("video_url", "video_path", "video_base64", "fps", "resolution", "model", "weights_file"),
    *("batch_size", "temporal_overlap", "stitch_mode", "seed", "deinterlace", "alpha"),
    *("start", "end", "color_correction", "strength", "allow_damaged"),
)
"""Fields of a request that decide its pixels, or which source they are of."""
_FOLDER = "again"
NO_MASTER = (NoMasterError,)
"""What a run that was to code a video again raises, where the job has to go elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterNote:
    """What a job has left for those that ask for the same pixels."""

    pixels_key: str
    num_segments: int
    engine: str
    """That has made the pixels."""
    weights_digest: str

    @property
    def weights(self) -> EngineWeights:
        """What a plan needs to know of the weights."""
        return EngineWeights(digest=self.weights_digest)


_NOTE = TypeAdapter(MasterNote)


def wish_of(request: UpscaleRequest) -> str:
    """A digest of what a request says about pixels."""
    told = request.model_dump(mode="json", include=set(_OF_PIXELS))
    asked = {name: value for name, value in told.items() if value not in (None, "")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def note_master(job: PlannedJob, plan: PlanOutline, wish: str, settings: Settings) -> None:
    """Leave the note of a job that has kept the master of its whole video.

    Raises:
        StorageError: the store does not take it.
    """
    if not wish:
        return
    note = MasterNote(
        pixels_key=plan.pixels_key,
        num_segments=job.num_segments,
        engine=plan.engine.name,
        weights_digest=plan.engine.weights_digest,
    )
    if not _is_whole(note, settings):
        return
    path = _path(wish, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, note)
    if settings.store:
        Bucket(settings.store, settings).write(f"{_FOLDER}/{path.name}", _NOTE.dump_json(note))


def find_master(request: UpscaleRequest, settings: Settings) -> MasterNote | None:
    """The note for a request whose master is there in whole; None if it has to be restored.

    Whether the source is still the same is not known before it was fetched. A store that does not
    answer has nothing.
    """
    if request.fresh or request.preview or settings.coding_deployment is None:
        return None
    wish = wish_of(request)
    try:
        note = _note_here(_path(wish, settings))
        if note is None and settings.store:
            note = _note_there(wish, Bucket(settings.store, settings))
        return note if note is not None and _is_whole(note, settings) else None
    except (StorageError, OSError) as error:
        logger.warning("whether a master was kept is not known: %s", error)
        return None


def _note_here(path: Path) -> MasterNote | None:
    try:
        note = read_record(path, MasterNote)
    except (FileNotFoundError, SegmentError):
        return None
    with contextlib.suppress(OSError):  # a door may not be allowed to write here
        os.utime(path)  # the sweep must see that it is in use
    return note


def _note_there(wish: str, bucket: Bucket) -> MasterNote | None:
    found = bucket.read(f"{_FOLDER}/{wish}.json")
    try:
        return _NOTE.validate_json(found.content) if found else None
    except ValidationError:
        return None


def _is_whole(note: MasterNote, settings: Settings) -> bool:
    """Whether every segment has a master, here or in the store."""
    masters = Masters(settings.masters_dir / note.pixels_key)
    wanted = set(range(note.num_segments))
    here = {index for index in wanted if masters.sidecar_path(index).is_file()}
    if here != wanted and settings.store:
        here |= MasterCopy(Bucket(settings.store, settings), note.pixels_key).indices()
    return wanted <= here


def _path(wish: str, settings: Settings) -> Path:
    return settings.again_dir / f"{wish}.json"


def master_to_code(request: UpscaleRequest) -> MasterNote | None:
    """What this run is to code again, if it is on the deployment for that; None anywhere else.

    Raises:
        NoMasterError: it is, and there is nothing; the run is to move the job.
    """
    settings = get_settings()
    here = f"{flow_run.flow_name}/{deployment.name}" if deployment.id else ""
    if settings.coding_deployment is None or here != settings.coding_deployment:
        return None
    note = find_master(request, settings)
    if note is None:
        raise NoMasterError("the master that this video was to be coded from is not there any more")
    return note


def check_masters(num_ready: int, plan: PlanOutline, note: MasterNote) -> None:
    """Refuse to plan a job here that not all masters are there for.

    Raises:
        NoMasterError: the source, or the depth of the frames, is another one than was noted.
    """
    if num_ready < len(plan.segments):
        raise NoMasterError(
            f"{num_ready} of {len(plan.segments)} segments have a master of these frames, although "
            f"{note.num_segments} were noted: the source or the depth is another one"
        )


@contextlib.contextmanager
def forgets_plan(job: PlannedJob) -> Iterator[None]:
    """Remove the plan of a job that, in the `with` block, turns out to need the engine.

    It was made without the engine's device. Who makes the job then plans it anew.
    """
    try:
        yield
    except NoMasterError:
        path = JobDir(job.job_dir).plan_path
        path.unlink(missing_ok=True)
        outline_beside(path).unlink(missing_ok=True)
        if (copy := copy_of(job.job_key, get_settings())) is not None:
            copy.bucket.delete(f"{copy.folder}/plan.json")
        raise
