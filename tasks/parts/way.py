"""Lets a helper, or else the long job itself, make way for a job that waits for a worker.

The queue of helpers comes after that of jobs, so a worker that is free takes a job first. But a
long film keeps all workers busy for hours. So a helper asks after each segment whether a job waits,
and ends for it. Each job that waits needs one worker: the first helper to come makes way, and says
so where all of them see it: in a file, or in the store of machines without a common disk. Nobody
makes way for a job in a queue that comes after its own: the worker would take up the run that has
left, and not the job that waits.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowRunFilter,
    WorkPoolFilter,
    WorkQueueFilter,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.states import AwaitingRetry

from seedvr2_core.errors import StorageError
from tasks.job.hold import LABEL_WAITS_FOR, is_held
from tasks.net.bucket import Bucket, Found
from tasks.run.attempts import note_wait
from tasks.run.clock import due_in, server_now
from tasks.settings import Settings

FLOW = "upscale-part"
"""The flow of a helper."""
NO_HELP = "the job needs no help"
"""Why a helper ends, or is not begun."""
_BACK_SECONDS = 5.0
"""When a long job that has made way is to go on; jobs that waited before that come first."""
_MOST = 50
"""Jobs to look at: as many helpers may make way between two looks of one."""
_AGAIN_SECONDS = 60.0
"""If a job still waits so long after somebody has made way, another took its place."""
_FORGOTTEN_SECONDS = 60 * _AGAIN_SECONDS
_WAY = "way"
"""Folder of the notes in the store."""


class MadeWayError(Exception):
    """A job waits for a worker, and this run leaves its worker's slot to it for a moment."""

    def __init__(self, job: UUID) -> None:
        """Note the job that waits."""
        super().__init__(f"waiting for a worker: it made way for job {job}")

    def leave(self) -> State[Any]:
        """The state in which this run's process ends; a worker takes the run up again later."""
        note_wait()
        return AwaitingRetry(scheduled_time=due_in(_BACK_SECONDS), message=str(self))


@dataclass(frozen=True, slots=True)
class WorkPlace:
    """Where a run waits for its worker."""

    pool: str
    """The work pool."""
    queue: str | None = None
    """Its queue; None: the last of them."""


def own_place() -> WorkPlace | None:
    """Where this run has waited for its worker; None outside of a work pool."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or run.work_pool_name is None:
        return None
    return WorkPlace(run.work_pool_name, run.work_queue_name)


def waiting_jobs(client: SyncPrefectClient, place: WorkPlace | None) -> list[FlowRun]:
    """The jobs that a worker of this pool could begin now, in the order in which workers take them.

    A second run of a request that is at work waits for that, not for a worker. Jobs in queues that
    come after the place's own are left out.
    """
    if place is None or not _due(client, place.pool):
        return []
    queues = client.read_work_queues(work_pool_name=place.pool)
    ranks = {queue.name: queue.priority or 0 for queue in queues}
    own = ranks.get(place.queue or "", max(ranks.values(), default=0))
    runs = _due(client, place.pool, [name for name, rank in ranks.items() if rank <= own])
    runs.sort(key=lambda run: ranks.get(run.work_queue_name or "", own))
    return [run for run in runs if not _waits_for_another(run)]


def _due(
    client: SyncPrefectClient, pool: str, queues: Sequence[str] | None = None
) -> list[FlowRun]:
    """The jobs of a pool, or of some of its queues, whose time has come, the longest waiting first.

    They are read for the queues that matter: the oldest fifty of all may be of the others.
    """
    due = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "expected_start_time": {"before_": server_now(client).isoformat()},
    }
    within = None if queues is None else {"name": {"any_": list(queues)}}
    return client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": ["upscale"]}}),
        flow_run_filter=FlowRunFilter.model_validate(due),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [pool]}}),
        work_queue_filter=WorkQueueFilter.model_validate(within) if within else None,
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=_MOST,
    )


def job_without_helper(
    client: SyncPrefectClient, place: WorkPlace | None, settings: Settings
) -> UUID | None:
    """A job for which a long job itself must make way; None if there is none.

    Helpers make way first. And only for a job that never began: two long jobs would otherwise make
    way for each other again and again.
    """
    jobs = [run.id for run in waiting_jobs(client, place) if not run.run_count]
    if not jobs or place is None:
        return None
    helping = client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [FLOW]}}),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [place.pool]}}),
        limit=len(jobs),
    )
    return make_way(jobs[len(helping) :], settings)


def _waits_for_another(run: FlowRun) -> bool:
    job_key = str(run.labels.get(LABEL_WAITS_FOR, ""))
    return bool(job_key) and is_held(job_key)


def make_way(jobs: Sequence[UUID], settings: Settings) -> UUID | None:
    """Choose the job to make way for; None if there is none, or others have done so already.

    Side effects: a file in WORK_DIR/locks/way, or an object below `way` in the store, for each job;
        those of an hour ago are removed.
    """
    if not jobs:
        return None
    if settings.store:
        try:
            return _noted_in_store(jobs, Bucket(settings.store, settings))
        except StorageError as error:
            told = "the store does not say whether another machine makes way as well: %s"
            get_run_logger().warning(told, error)
    folder = settings.locks_dir / "way"
    folder.mkdir(parents=True, exist_ok=True)
    _remove_old(folder.iterdir(), _FORGOTTEN_SECONDS)
    for job in jobs:
        path = folder / str(job)
        _remove_old([path], _AGAIN_SECONDS)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return job
    return None


def _noted_in_store(jobs: Sequence[UUID], bucket: Bucket) -> UUID | None:
    """The first job for which nobody has made way, and note that we do; by Prefect's clock."""
    now = due_in(0.0)
    noted = {name: found for name in bucket.names(_WAY) if (found := bucket.read(name))}
    ages = {name: (now - _time_in(found)).total_seconds() for name, found in noted.items()}
    bucket.delete(*(name for name, age in ages.items() if age > _FORGOTTEN_SECONDS))
    content = f"{now.isoformat()} {uuid4()}".encode()
    for job in jobs:
        name = f"{_WAY}/{job}"
        if name not in noted or ages[name] > _FORGOTTEN_SECONDS:
            tag = bucket.create(name, content)
        elif ages[name] > _AGAIN_SECONDS:
            tag = bucket.replace(name, content, noted[name].tag)
        else:
            continue
        if tag is not None:
            return job
    return None


def _time_in(found: Found) -> datetime:
    """The time that a note begins with; one that nobody can read is as old as can be."""
    try:
        return datetime.fromisoformat(found.content.decode().partition(" ")[0])
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _remove_old(paths: "Iterable[os.PathLike[str]]", seconds: float) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another helper was faster
            if time.time() - os.stat(path).st_mtime > seconds:
                os.unlink(path)
