"""What a helper does: it makes segments of a job that another run works on, until it is to end.

It ends when nothing is left that nobody else makes, when the job wants no help any more, or to make
way for a job that waits for a worker of the pool.
"""

import time
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectException

from seedvr2_core.child.protocol import Event, SegmentDone
from seedvr2_core.config import find_engine
from seedvr2_core.engines import known_weights
from seedvr2_core.errors import CheckpointError, ResourceError
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.sharing import Sharing, read_sharing
from seedvr2_core.kernels.devices import gpu_name
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.words import counted
from tasks.child.helper import Helper
from tasks.parts.afar import bring_job, helping
from tasks.parts.way import NO_HELP, make_way, own_place, waiting_jobs
from tasks.schemas import FetchedSource, PlannedJob, Record
from tasks.settings import Settings, get_settings
from tasks.step import step

ASK_SECONDS = 10.0
"""Shortest time between two questions to the Prefect server."""


class SharedJob(Record):
    """A job that wants help."""

    run_id: UUID
    """The run at work."""
    job: PlannedJob
    workers: int


@step(name="look-up-job", retries=1, retry_delay_seconds=2)
def look_up_job(job_id: UUID, job_key: str) -> SharedJob | None:
    """Find the job that a run wants help with; None if it does not want any (any more).

    Raises:
        ResourceError: this worker does not see the job's directory, or its disk is full (final).
        StorageError: the store, by which machines without a common disk work, does not answer.
        CheckpointError: its weights are not those of the job (final).
    """
    settings = get_settings()
    if settings.store:
        return _from_afar(job_id, job_key, settings)
    job_dir = JobDir(settings.job_dir(job_key))
    if not job_dir.outline_path.is_file():
        if not job_dir.path.is_dir() and _is_at_work(job_id):
            raise ResourceError(
                f"{job_dir.path} is not there; all workers of a pool must see the same work "
                "directory (SEEDVR2_WORK_DIR) for jobs with max_workers above 1"
            )
        return None
    sharing = read_sharing(job_dir, str(job_id))
    if sharing is None or not _is_at_work(job_id):
        return None
    plan = read_record(job_dir.outline_path, PlanOutline)
    _check_weights(plan, settings)
    job = _planned(job_dir, plan, sharing, settings)
    return SharedJob(run_id=job_id, job=job, workers=sharing.workers)


def _from_afar(job_id: UUID, job_key: str, settings: Settings) -> SharedJob | None:
    """The same where the machines share no disk."""
    brought = bring_job(job_key, job_id, settings) if _is_at_work(job_id) else None
    if brought is None:
        return None
    plan = read_record(brought.job_dir.outline_path, PlanOutline)
    _check_weights(plan, settings)
    job = _planned(brought.job_dir, plan, brought.sharing, settings)
    return SharedJob(run_id=job_id, job=job, workers=brought.sharing.workers)


def _planned(
    job_dir: JobDir, plan: PlanOutline, sharing: Sharing, settings: Settings
) -> PlannedJob:
    """The job as the helper's child is asked to make it."""
    return PlannedJob(
        job_key=plan.job_key,
        job_dir=job_dir.path,
        source=FetchedSource(
            path=sharing.source,
            sha256=plan.source_sha256,
            num_bytes=sharing.source_bytes,
            name=sharing.source_name,
        ),
        num_segments=len(plan.segments),
        num_frames=plan.num_frames,
        width=plan.width,
        height=plan.height,
        resolution=plan.resolution,
        engine=plan.engine.name,
        engine_label=find_engine(plan.engine.name).label,
        device=_device(sharing, settings),
        output_name="",
        eta_seconds=plan.eta_seconds,
        job_limit_seconds=None,
        stall_limit_seconds=settings.stall_seconds or plan.limits.stall,
        duration_seconds=0.0,
    )


def _device(sharing: Sharing, settings: Settings) -> str:
    """The device here that is of the kind of the job's: the machines of a pool are alike."""
    if settings.device != "auto":
        return settings.device
    return "cpu" if sharing.device == "cpu" else gpu_name(0)


def _check_weights(plan: PlanOutline, settings: Settings) -> None:
    """Refuse to make other bytes than the run at work."""
    here = known_weights(plan.engine.name, settings.weights_folder, plan.weights_file).digest
    if here != plan.engine.weights_digest:
        raise CheckpointError(
            f"the weights of {plan.engine.name} in {settings.weights_folder} have the digest "
            f"{here or 'of none'}, expected {plan.engine.weights_digest or 'none'} as the job was "
            "planned with; give all workers of a pool the same weights"
        )


def _is_at_work(job_id: UUID) -> bool:
    """Whether a run has not ended: it may be waiting to be started again."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(job_id).state
        except ObjectNotFound:
            return False
    return state is not None and (not state.is_final() or state.is_crashed())


@step(name="make-shares", retries=1, retry_delay_seconds=2)
def make_shares(shared: SharedJob, number: int) -> str:
    """Make segments, as the helper of this number, until there is a reason to end.

    Returns:
        What was made and why it ended, in words.

    Retries: a stall, a crash and anything else that may heal, once, on a fresh child.
    """
    lookout = _Lookout(shared)
    with helping(shared.job, workers=shared.workers, number=number) as divided:
        helper = Helper(
            shared.job,
            workers=shared.workers,
            helps=str(shared.run_id),
            helper=number,
            divided=divided,
        )
        try:
            helper.work(lookout.is_enough)
        finally:
            helper.close()
    return f"{counted(lookout.made, 'segment')} made; {lookout.why}"


class _Lookout:
    """Counts what a helper has made, and finds reasons to end."""

    def __init__(self, shared: SharedJob) -> None:
        self._shared, self._job_dir = shared, JobDir(shared.job.job_dir)
        self._asked_at = time.monotonic()
        self.made = 0
        self.why = "nothing is left that nobody makes"

    def is_enough(self, event: Event) -> bool:
        """Whether the helper is to end; asked after each segment and while it waits for a GPU."""
        if isinstance(event, SegmentDone):
            self.made += 1
        if read_sharing(self._job_dir, str(self._shared.run_id)) is None:
            self.why = NO_HELP
            return True
        if time.monotonic() - self._asked_at < ASK_SECONDS and not isinstance(event, SegmentDone):
            return False
        self._asked_at = time.monotonic()
        try:
            return self._server_says_so()
        except (httpx.HTTPError, PrefectException, OSError) as error:
            get_run_logger().warning("helping goes on, Prefect does not answer: %s", error)
            return False

    def _server_says_so(self) -> bool:
        """Whether the job has ended, or another waits for a worker."""
        if not _is_at_work(self._shared.run_id):
            self.why = NO_HELP
            return True
        with get_client(sync_client=True) as client:
            jobs = waiting_jobs(client, own_place())
        first = make_way([run.id for run in jobs], get_settings())
        if first is not None:
            self.why = f"made way for job {first}, which waits for a worker"
        return first is not None
