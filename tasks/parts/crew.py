"""Shares a long job out: as many helpers as its work is worth and the request allows.

A helper is a run of the flow `upscale-part` on the pool of the job itself, below the job in
Prefect's UI. The job never waits for one to begin: it takes share after share of the segments
itself, and so does every helper that a worker has begun. A thread of its own keeps the number of
helpers, so a Prefect server that is away for minutes neither delays the work nor fails the job.
"""

import contextlib
import contextvars
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect import Task, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runtime import deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelling, Pending, Scheduled

from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims
from seedvr2_core.job.masters import wanted_masters
from seedvr2_core.job.sharing import Sharing
from seedvr2_core.planning.outline import PlanOutline
from tasks.child.pace import frame_seconds_of
from tasks.parts.afar import divided, withdraw
from tasks.parts.division import JobDivider
from tasks.parts.way import FLOW, NO_HELP, MadeWayError, job_without_helper, own_place
from tasks.run import current
from tasks.run.appointments import is_brought_back
from tasks.run.clock import server_now
from tasks.run.termination import termination_in
from tasks.schemas import PlannedJob
from tasks.settings import get_settings

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

TEND_SECONDS = 10.0
"""Time between two looks at the helpers."""
PART_SECONDS = 30.0
"""Expected seconds of work, not yet taken by anybody, for which a helper is worth its start."""
_NUMBER = "number"
"""The parameter of a helper that numbers the helpers of a job."""
_AWAY = (httpx.HTTPError, PrefectException, OSError)
"""Errors of a Prefect server that is away."""


@contextlib.contextmanager
def share_out(job: PlannedJob, max_workers: int) -> "Iterator[Shared]":
    """Let others help with the segments of a job, which this run holds, in the `with` block.

    Args:
        job: the job.
        max_workers: how many runs may make segments of it, this one included.

    Side effects: `sharing.json` in the job's directory; runs of `upscale-part`. When the block has
        ended or failed, those that have not begun are cancelled, and the others end by themselves.
        A run that is killed or cancelled leaves them: it may come back (see `end_parts`).
    """
    job_dir = JobDir(job.job_dir)
    crew = _crew_of(job, max_workers) if max_workers > 1 else None
    if crew is None:
        job_dir.sharing_path.unlink(missing_ok=True)  # of a run that was killed
        yield Shared(workers=1)
        return
    sharing = _sharing(job, crew.workers)
    with divided(job, sharing) as divider:
        if divider is None:
            write_record(job_dir.sharing_path, sharing)
        may_come_back = False
        crew.start(divider)
        try:
            yield Shared(workers=crew.workers, crew=crew, divided=divider is not None)
        except BaseException as error:
            may_come_back = not isinstance(error, Exception) or termination_in(error) is not None
            raise
        finally:
            crew.stop()
            if not may_come_back:
                _dismiss(job_dir, crew)


def _crew_of(job: PlannedJob, max_workers: int) -> "Crew | None":
    """Those who may help with a job; None if its work is too little, or nobody can."""
    logger = get_run_logger()
    if job.max_seconds or job.max_price:
        logger.warning("nobody helps: a job with a limit is made on one worker")
        return None
    if get_settings().store and job.keep_master:
        logger.warning(
            "nobody helps: with SEEDVR2_STORE the master is kept by the job's own worker"
        )
        return None
    plan = read_record(JobDir(job.job_dir).outline_path, PlanOutline)
    workers = min(max_workers, 1 + helpers_worth(job, plan))
    if workers == 1 or deployment.id is None or this_run.id is None:
        return None
    name = f"{FLOW}/{deployment.name}"
    try:
        with get_client(sync_client=True) as client:
            helpers = client.read_deployment_by_name(name).id
    except ObjectNotFound:
        logger.warning("nobody helps: %s is not deployed (make deploy)", name)
    except _AWAY as error:
        logger.warning("nobody helps in this attempt, Prefect does not answer: %s", error)
    else:
        return Crew(job, plan, helpers, workers=workers)
    return None


def helpers_worth(job: PlannedJob, plan: PlanOutline, taken: Collection[int] = ()) -> int:
    """How many helpers the unfinished work of a job is worth.

    Args:
        job: the job.
        plan: the outline of its plan.
        taken: segments that do not count, because somebody makes them now.
    """
    job_dir = JobDir(job.job_dir)
    pending = [s for s in plan.segments if not job_dir.sidecar_path(s.index).is_file()]
    taken = set(taken)
    if (wanted := wanted_masters(job_dir)) is not None:
        taken |= set(wanted.ready)  # they are coded again, which takes little
    frames = sum(segment.num_frames for segment in pending if segment.index not in taken)
    return int(frames * frame_seconds_of(plan).seconds / PART_SECONDS)


def _sharing(job: PlannedJob, workers: int) -> Sharing:
    return Sharing(
        run_id=str(this_run.id),
        workers=workers,
        device=job.device,
        source=job.source.path,
        source_name=job.source.name,
        source_bytes=job.source.num_bytes,
    )


def _dismiss(job_dir: JobDir, crew: "Crew") -> None:
    """Let nobody take another segment, and cancel the helpers that have not begun."""
    job_dir.sharing_path.unlink(missing_ok=True)
    withdraw(job_dir.path.name)
    with (
        crew.server_may_be_away("helpers that have not begun will find nothing to do"),
        get_client(sync_client=True) as client,
    ):
        for run in parts_of(client, crew.run_id):
            if run.state is not None and run.state.is_scheduled():
                client.set_flow_run_state(run.id, Cancelling(message=NO_HELP))


def parts_of(client: SyncPrefectClient, run_id: UUID) -> "list[FlowRun]":
    """The helpers of a run, the newest first; not the oldest of more than two hundred."""
    return client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [FLOW]}}),
        flow_run_filter=FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [run_id]}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
    )


def end_parts(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Cancel the helpers of a run that was cancelled or has failed: a hook of the flow.

    A run that `recover` brings back is cancelled on the way; its helpers go on.
    """
    del flow
    if is_brought_back(flow_run.id):
        return
    with get_client(sync_client=True) as client:
        for part in parts_of(client, flow_run.id):
            if part.state is not None and not part.state.is_final():
                told = f"the job became {state.name}"
                client.set_flow_run_state(part.id, Cancelling(message=told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """How a job is shared."""

    workers: int
    """By how many runs at most; 1: nobody may help, or nobody could."""
    crew: "Crew | None" = None
    divided: bool = False
    """The flow's process says which segments are for its own child (`division`)."""

    def leave_if_a_job_waits(self) -> None:
        """Leave this run's worker to a job that waits for one, if no helper could.

        Called between two segments. A job that nobody may help with never leaves.

        Raises:
            MadeWayError: this run is to leave its worker's slot for a moment.
        """
        if self.crew is not None:
            self.crew.leave_if_a_job_waits()


class Crew:
    """The helpers of one job."""

    def __init__(self, job: PlannedJob, plan: PlanOutline, helpers: UUID, *, workers: int) -> None:
        """Look at nothing yet; `start` does.

        Args:
            job: the job, which this run holds.
            plan: the outline of its plan; it stays while the job is held.
            helpers: id of their deployment.
            workers: how many runs may make segments of it, this one included.
        """
        self.workers = workers
        self.run_id = UUID(str(this_run.id))
        self._job, self._plan = job, plan
        self._helpers, self._most = helpers, workers - 1
        self._label, self._record, self._logger = this_run.name, current(), get_run_logger()
        self._asked_at = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._divider: JobDivider | None = None

    def leave_if_a_job_waits(self) -> None:
        """See `Shared.leave_if_a_job_waits`; asks the Prefect server once in ten seconds."""
        if time.monotonic() - self._asked_at < TEND_SECONDS:
            return
        self._asked_at = time.monotonic()
        with self.server_may_be_away("who waits is not known"), get_client(sync_client=True) as api:
            job = job_without_helper(api, own_place(), get_settings())
            if job is not None:
                raise MadeWayError(job)

    def start(self, divider: JobDivider | None) -> None:
        """Start the thread that keeps the number of helpers.

        Args:
            divider: what divides the job between machines; None: they share a disk.
        """
        self._divider = divider
        context = contextvars.copy_context()  # it knows the API and the run
        self._thread = threading.Thread(
            target=context.run, args=(self._tend,), daemon=True, name="crew"
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits at most five seconds for it."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self._record.hands = 1

    @contextlib.contextmanager
    def server_may_be_away(self, so: str) -> Iterator[None]:
        """Log a failure to reach Prefect and go on.

        Args:
            so: what follows from the failure, in words.
        """
        try:
            yield
        except _AWAY as error:
            self._logger.warning("%s: %s", so, error)

    def _tend(self) -> None:
        """The thread: look at the helpers again and again."""
        while not self._ended.is_set():
            with self.server_may_be_away("no helper is asked for at this time"):
                self._look()
            self._ended.wait(TEND_SECONDS)

    def _look(self) -> None:
        """Ask for as many helpers as are worth it and not there."""
        if self._divider is not None and not self._divider.offered:
            return
        wanted = min(self._most, helpers_worth(self._job, self._plan, self._taken()))
        with get_client(sync_client=True) as client:
            runs = parts_of(client, self.run_id)
            states = [run.state for run in runs if run.state is not None]
            self._record.hands = 1 + sum(state.is_running() for state in states)
            # One that has failed is not replaced: the next would fail as well.
            used = sum(not state.is_final() or state.is_failed() for state in states)
            first = 1 + max((number_of(run) for run in runs), default=0)
            for number in range(first, first + max(0, wanted - used)):
                self._ask_for(client, number)

    def _taken(self) -> set[int]:
        """Segments that somebody makes now."""
        if self._divider is not None:
            return self._divider.taken
        with Claims(JobDir(self._job.job_dir)) as claims:
            return claims.taken_by_others([segment.index for segment in self._plan.segments])

    def _ask_for(self, client: SyncPrefectClient, number: int) -> None:
        """Create the run of a helper, as Prefect's `run_deployment` does for a subflow.

        That one numbers the subflows of a process; ours are numbered over all attempts of the job.
        """
        link = client.create_task_run(
            task=Task(fn=lambda: None, name=f"part-{number}"),
            name=f"part-{number}",
            flow_run_id=self.run_id,
            dynamic_key=f"part-{number}",
            state=Pending(),
        )
        client.create_flow_run_from_deployment(
            self._helpers,
            name=f"part {number} of {self._label}",
            parameters={
                "job_id": str(self.run_id),
                "job_key": self._job.job_key,
                _NUMBER: number,
            },
            state=Scheduled(scheduled_time=server_now(client)),
            idempotency_key=f"{FLOW}:{self.run_id}:{number}",
            parent_task_run_id=link.id,
        )
        self._logger.info("asked for helper %d of at most %d", number, self._most)


def number_of(run: "FlowRun") -> int:
    """The number of a helper."""
    return int(run.parameters.get(_NUMBER, 0))
