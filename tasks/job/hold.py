"""Lets only one run at a time work on a job's directory.

Equal requests have the same job and so the same directory. The second run waits for the first and
then finds its output. A deployed run must not wait in its worker's slot, which may be a GPU's: it
ends its process in the state AwaitingRetry, and the first run wakes it. A run of the command has no
slot and waits where it is. A run that is asked to start afresh empties the directory first.
"""

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.runtime import deployment, flow_run
from prefect.states import AwaitingRetry

from seedvr2_core.errors import DeadlineError
from seedvr2_core.files import hold_lock
from seedvr2_core.files.durable import make_way, replace_file, write_bytes
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import nobody_else
from tasks.job.in_store import kept_in_store
from tasks.run import current
from tasks.run.attempts import note_wait, own_labels
from tasks.run.clock import due_in, server_now
from tasks.schemas import PlannedJob
from tasks.settings import get_settings

LABEL_WAITS_FOR = "waits_for_job"
"""Key of the job that a run has waited for."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 15.0, 120.0
"""Wait before a run looks again by itself; doubled each time. It is woken when the job is free; the
wait is for the case that the run at work was killed."""
_HELPERS_SECONDS = 600.0
"""Longest time that helpers of an earlier run may take to end."""
_SHOW_SECONDS = 2.0
"""Least time between two lines of progress while a run waits in its place."""


class HeldElsewhere(Exception):
    """Another run works on the same job, and this one is to wait outside of its worker's slot."""

    def __init__(self, job_key: str, holder: str) -> None:
        """Note the job and the words that name the run at work."""
        super().__init__(f"waiting for {holder}, which works on the same request")
        self.job_key = job_key

    def leave(self) -> State[Any]:
        """The state in which this run's process ends; a worker takes the run up again later.

        Side effects: labels the run, so that it looks at the job's lock first when it comes back;
        a file in the job's directory, by which the run at work finds it.
        """
        waits = note_wait(**{LABEL_WAITS_FOR: self.job_key})
        seconds = min(FIRST_WAIT_SECONDS * 2 ** min(waits, 8), LONGEST_WAIT_SECONDS)
        waiting = JobDir(get_settings().job_dir(self.job_key)).waiting_path
        waiting.mkdir(parents=True, exist_ok=True)
        (waiting / str(flow_run.id)).touch()
        return AwaitingRetry(scheduled_time=due_in(seconds), message=str(self))


def leave_if_still_held() -> None:
    """Raise HeldElsewhere at once if this run has waited for a job and another still holds it.

    So a run that looks again fetches and probes nothing before it is its turn.
    """
    job_key = str(own_labels().get(LABEL_WAITS_FOR, ""))
    if not job_key:
        return
    if is_held(job_key):
        raise _held_elsewhere(JobDir(get_settings().job_dir(job_key)))


def is_held(job_key: str) -> bool:
    """Whether a run holds this job now."""
    job_dir = JobDir(get_settings().job_dir(job_key))
    return job_dir.path.is_dir() and not _is_free(job_dir)


@contextlib.contextmanager
def hold_job(job: PlannedJob, *, fresh: bool) -> Iterator[None]:
    """Hold the job's directory for the length of a `with` block.

    Args:
        job: the job.
        fresh: remove what earlier runs left. A retry of the same run does not do so again.

    Raises:
        HeldElsewhere: another run holds it, and this one belongs to a worker.
    """
    job_dir = JobDir(job.job_dir)
    with contextlib.ExitStack() as stack:
        stack.callback(_wake, job_dir)
        try:
            stack.enter_context(_lock(job_dir))
        except DeadlineError:
            stack.pop_all()
            raise _held_elsewhere(job_dir) from None
        _sign(job_dir)
        stack.callback(job_dir.lock_path.write_bytes, b"")
        with kept_in_store(
            job_dir,
            fresh=fresh,
            begin_afresh=lambda: _begin_afresh(job_dir),
            wait=lambda holder: _wait_for_other_machine(job_dir, holder),
        ):
            yield


def _wait_for_other_machine(job_dir: JobDir, holder: str) -> None:
    """Show that a run on another machine works on the job, and end this one if it has a slot."""
    _show_waiting(holder)
    if deployment.id is not None:
        raise HeldElsewhere(job_dir.path.name, holder)


@contextlib.contextmanager
def _lock(job_dir: JobDir) -> Iterator[None]:
    """Hold the job's lock.

    A run of a worker does not wait for it. Any other waits here, as long as the run at work takes.

    Raises:
        DeadlineError: another run holds it, and this one belongs to a worker.
    """
    shown = -math.inf

    def say_so() -> None:
        if deployment.id is None:
            get_run_logger().warning(
                "waiting for %s, which works on the same request", _holder(job_dir)
            )

    def show() -> None:
        nonlocal shown
        if time.monotonic() - shown >= _SHOW_SECONDS:
            shown = time.monotonic()
            _show_waiting(_holder(job_dir))

    timeout = math.inf if deployment.id is None else 0.0
    with hold_lock(job_dir.lock_path, timeout=timeout, on_wait=say_so, while_waiting=show):
        yield


def _held_elsewhere(job_dir: JobDir) -> HeldElsewhere:
    """Show in the record for whom this run waits; returns what ends its process."""
    holder = _holder(job_dir)
    _show_waiting(holder)
    return HeldElsewhere(job_dir.path.name, holder)


def _show_waiting(holder: str) -> None:
    """Show in the record for whom this run waits."""
    current().wait(f"{holder}, which works on the same request")


def _is_free(job_dir: JobDir) -> bool:
    """Whether nobody holds the job now."""
    try:
        with hold_lock(job_dir.lock_path, timeout=0, on_wait=lambda: None):
            return True
    except DeadlineError:
        return False


def _sign(job_dir: JobDir) -> None:
    """Write into the lock's file who holds it, for those who wait."""
    run = {"run_id": str(flow_run.id), "name": flow_run.name}
    job_dir.lock_path.write_bytes(json.dumps(run).encode())


def _holder(job_dir: JobDir) -> str:
    """The run that holds the job, in words: its name and its id."""
    try:
        run = json.loads(job_dir.lock_path.read_bytes())
        return f"job {run['run_id']} ({run['name']})"
    except (OSError, ValueError, KeyError, TypeError):  # it is writing this, or an older version
        return "another job"


def _wake(job_dir: JobDir) -> None:
    """Let the runs that wait for the job begin now. They come back by themselves if this fails."""
    waiting = job_dir.waiting_path
    run_ids = [path.name for path in waiting.glob("*")] if waiting.is_dir() else []
    if not run_ids:
        return
    shutil.rmtree(waiting, ignore_errors=True)
    with get_client(sync_client=True) as client:
        for run_id in run_ids:
            try:
                _begin_now(client, UUID(run_id))
            except (httpx.HTTPError, PrefectException, OSError, ValueError) as error:
                get_run_logger().warning("run %s comes back later: %s", run_id, error)


def _begin_now(client: SyncPrefectClient, run_id: UUID) -> None:
    """Schedule a waiting run for now, if it is still waiting."""
    state = client.read_flow_run(run_id).state
    if state is not None and state.name == "AwaitingRetry":
        told = "the job it waited for ended"
        now = AwaitingRetry(scheduled_time=server_now(client), message=told)
        client.set_flow_run_state(run_id, now)


def _begin_afresh(job_dir: JobDir) -> bool:
    """Remove results and segments and take the new plan; False if this run has done so before."""
    run_id, marker, planned = str(flow_run.id), job_dir.fresh_run_path, job_dir.fresh_plan_path
    outline = job_dir.fresh_outline_path
    if marker.is_file() and marker.read_bytes() == run_id.encode():
        planned.unlink(missing_ok=True)
        outline.unlink(missing_ok=True)
        return False
    job_dir.sharing_path.unlink(missing_ok=True)  # helpers of a run that was killed now end
    make_way(job_dir.result_path)
    job_dir.result_path.unlink(missing_ok=True)
    helpers = "helpers of an earlier run to end"
    with nobody_else(job_dir, timeout=_HELPERS_SECONDS, on_wait=lambda: current().wait(helpers)):
        shutil.rmtree(job_dir.segments_path, ignore_errors=True)
    # An equal run that has just started afresh may have taken them.
    if outline.exists():
        replace_file(outline, job_dir.outline_path)
    if planned.exists():
        replace_file(planned, job_dir.plan_path)
    write_bytes(marker, run_id.encode())
    return True
