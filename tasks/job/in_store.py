"""Takes a job from the installation's object store and keeps its copy there, while a run holds it.

Without SEEDVR2_STORE nothing of this happens. The steps that ask the store have retries of their
own; beside the work a thread copies what is finished, and never holds it up (`tasks.store`).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

from prefect import get_run_logger
from prefect.runtime import flow_run

from seedvr2_core.errors import StorageError
from seedvr2_core.job import JobDir
from seedvr2_core.words import counted
from tasks.run import current
from tasks.settings import get_settings
from tasks.step import step
from tasks.store import JobCopy, Keeper, Lease, MasterKeeper, copy_of

_LOOK_SECONDS = 5.0
"""Time between two looks of a run that waits in its place."""


@contextlib.contextmanager
def kept_in_store(
    job_dir: JobDir,
    *,
    fresh: bool,
    begin_afresh: Callable[[], bool],
    wait: Callable[[str], None],
) -> Iterator[None]:
    """Hold the job in the store as well, and bring here what it has of it.

    Args:
        job_dir: of the job, whose lock this run holds.
        fresh: the job is to begin afresh.
        begin_afresh: does so in the directory; False if this run has done so before.
        wait: called with the words for a run that holds the job on another machine. It raises what
            ends this run, or returns: then this run waits in its place.

    Side effects: objects of the job; its segments in the directory. When the block ends well and
        there is a result, it takes the place of all other objects.
    """
    copy = copy_of(job_dir.path.name, get_settings())
    if copy is None:
        if fresh:
            begin_afresh()
        yield
        return
    holder, waits_for = uuid4().hex, ""
    while told := take_in_store(copy.job_key, holder):
        wait(told)
        if told != waits_for:
            get_run_logger().warning("waiting for %s, which works on the same request", told)
        waits_for = told
        time.sleep(_LOOK_SECONDS)
    lease = _lease_of(copy, holder)
    try:
        if fresh:
            bring_marker(copy.job_key)
            if begin_afresh():
                forget_in_store(copy.job_key)
        brought = bring_from_store(copy.job_key)
        if brought:
            get_run_logger().info("%s came from the store", counted(brought, "segment"))
        with _copied_meanwhile(copy, lease, job_dir):
            yield
        if not lease.lost and job_dir.result_path.is_file():
            _finish(copy, job_dir)
    finally:
        with _may_fail("the job is free for others after a while"):
            lease.give_back()


@contextlib.contextmanager
def _copied_meanwhile(copy: JobCopy, lease: Lease, job_dir: JobDir) -> Iterator[None]:
    """Copy what the work finishes, in threads beside it."""
    keepers = (Keeper(copy, lease, job_dir), MasterKeeper(copy, job_dir))
    for keeper in keepers:
        keeper.start()
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.stop()


def _finish(copy: JobCopy, job_dir: JobDir) -> None:
    """Leave the result in the store. The video is delivered: a store that fails fails nothing."""
    with _may_fail("on another machine the same request would make the video again"):
        copy.finish(job_dir)


@contextlib.contextmanager
def _may_fail(so: str) -> Iterator[None]:
    """Log a failure to reach the store and go on; `so`: what follows from it, in words."""
    try:
        yield
    except (StorageError, OSError) as error:
        get_run_logger().warning("%s: %s", so, error)


@step(name="take-in-store", retries=5, retry_delay_seconds=[2, 8, 30, 60, 60])
def take_in_store(job_key: str, holder: str) -> str:
    """Take the job's lease; returns the run that holds it, in words, or "" if this one does now.

    Raises: StorageRefusedError (final), StorageError (retried).
    """
    return _lease_of(_copy(job_key), holder).take()


@step(name="bring-from-store", retries=5, retry_delay_seconds=[2, 8, 30, 60, 60])
def bring_from_store(job_key: str) -> int:
    """Bring the job's result, or else its finished segments; returns how many of these came.

    Raises: StorageRefusedError, ResourceError (final), StorageError (retried).
    """
    copy, job_dir = _copy(job_key), _job_dir(job_key)
    copy.bring_result(job_dir)
    if job_dir.result_path.exists():
        return 0
    return copy.bring_segments(job_dir, on_bytes=current().still_alive)


@step(name="bring-marker", retries=5, retry_delay_seconds=[2, 8, 30, 60, 60])
def bring_marker(job_key: str) -> None:
    """Learn whether this run has started the job afresh on another machine."""
    _copy(job_key).bring_marker(_job_dir(job_key))


@step(name="forget-in-store", retries=5, retry_delay_seconds=[2, 8, 30, 60, 60])
def forget_in_store(job_key: str) -> None:
    """Remove what earlier runs have left of the job, and keep its new plan."""
    _copy(job_key).begin_afresh(_job_dir(job_key))


def _copy(job_key: str) -> JobCopy:
    copy = copy_of(job_key, get_settings())
    assert copy is not None
    return copy


def _job_dir(job_key: str) -> JobDir:
    return JobDir(get_settings().job_dir(job_key))


def _lease_of(copy: JobCopy, holder: str) -> Lease:
    run_id, label = str(flow_run.id), str(flow_run.name)
    return Lease(
        copy.bucket,
        copy.job_key,
        run_id=run_id,
        label=label,
        holder=holder,
        seconds=get_settings().store_lease_seconds,
    )
