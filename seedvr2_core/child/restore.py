"""Makes the segments of a job: waits for its turn, loads the engine, and runs the pipeline.

One pass of the pipeline (`pipeline.py`) makes all pending segments, unless values are not finite or
the device runs out of memory. Then the engine takes a step down (another precision, or smaller
slices of the picture), and another pass makes the segments that are still pending. There are only a
few steps, so this ends.
"""

import gc
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from math import inf
from pathlib import Path

import torch

from seedvr2_core.child.memory import check_host
from seedvr2_core.child.pipeline import Pipeline, RestoreJob
from seedvr2_core.child.progress import Events, ProgressCount, alive_while_reading
from seedvr2_core.child.protocol import Ready, Waiting
from seedvr2_core.child.shares import Shares, Work
from seedvr2_core.child.warm.kept import Kept
from seedvr2_core.engines.deterministic import deterministic
from seedvr2_core.engines.seedvr2.parking import give_back
from seedvr2_core.errors import DeviceMemoryError, NumericalError
from seedvr2_core.files import hold_lock
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims
from seedvr2_core.job.sidecar import read_segment, remove_leftovers
from seedvr2_core.kernels.choice import kept_choices
from seedvr2_core.kernels.devices import kind_of, on_gpu
from seedvr2_core.planning import Plan, Segment
from seedvr2_core.planning.outline import outline_of

logger = logging.getLogger(__name__)


def restore_segments(  # noqa: PLR0913 - what a child is told, and what it has
    plan: Plan,
    job_dir: JobDir,
    *,
    source: Path,
    device: str,
    weights_dir: Path | None,
    lock_dir: Path,
    work: Work,
    events: Events,
    kept: Kept | None = None,
) -> None:
    """Restore, encode and commit segments of a job.

    Where other processes work on the same job, each takes a share of what is left, and then the
    next one.

    Args:
        plan: of the job.
        job_dir: of the job.
        source: the video.
        device: torch device string.
        weights_dir: folder of the SeedVR2 weights; None for engines that need none.
        lock_dir: folder that all children of this machine share, for the locks of its GPUs.
        work: which segments are to be made, and with whom. The run's own process returns when all
            of them are there, whoever has made them.
        events: is told of the progress.
        kept: an engine that may be loaded already; what is loaded stays in it, with the lock of the
            GPU. None: all of that ends with the call.

    Raises:
        SeedVR2Error: the engine, a codec or the disk failed. Segments before that are committed.
    """
    job_dir.segments_path.mkdir(parents=True, exist_ok=True)
    own = not work.helps
    with (
        _lent(kept) as kept,
        alone(job_dir, device, lock_dir, events, own=own, kept=kept),
        Claims(job_dir) as claims,
        deterministic(plan.torch_threads),
        kept_choices(job_dir.kernels_path),
    ):
        shares = Shares(plan, job_dir, claims, work, events)
        remove_leftovers(job_dir, (), of_job=own)
        try:
            kept.files = (job_dir.path, source)
            _make_shares(plan, job_dir, shares, source, device, weights_dir, events, kept)
        finally:
            # On a full disk, half a segment would stay in the way.
            remove_leftovers(job_dir, shares.held, of_job=own)


def _make_shares(
    plan: Plan,
    job_dir: JobDir,
    shares: Shares,
    source: Path,
    device: str,
    weights_dir: Path | None,
    events: Events,
    kept: Kept,
) -> None:
    """Make all segments that this process gets; the engine is loaded when there is one."""
    progress = ProgressCount(events)
    job: RestoreJob | None = None
    try:
        for pending in shares:
            progress.take(sum(segment.num_frames for segment in pending))
            if job is None:
                check_host(plan.memory, device)
                session, warm = kept.open_session(
                    plan, device=device, beat=progress.beat, weights_dir=weights_dir
                )
                events.emit(Ready(engine=plan.engine.name, device=device, warm=warm))
                job = RestoreJob(
                    plan=plan,
                    job_dir=job_dir,
                    source=source,
                    device_kind=kind_of(device),
                    session=session,
                    events=events,
                    progress=progress,
                )
            while pending:
                pending = _run_until_step_down(job, pending, shares.elsewhere, kept)
                give_back(torch.device(device))
    finally:
        if job is not None:
            job.session.close()


def _run_until_step_down(
    job: RestoreJob, pending: Sequence[Segment], elsewhere: Collection[int], kept: Kept
) -> list[Segment]:
    """Make the segments in one pass.

    Args:
        job: what is made.
        pending: segments of the share at hand that are not made yet.
        elsewhere: indices of segments that other processes make.
        kept: the engine, which is used for no other job after a step.

    Returns:
        The segments that are left because the engine had to take a step down; [] if all are made.
    """
    try:
        Pipeline(job).run(pending, elsewhere=elsewhere)
        return []
    except (NumericalError, DeviceMemoryError) as error:
        kept.spoil()
        now = job.session.step_down()
        if not now:
            raise
        logger.warning("%s; what is left is done again: %s", error, now)
    # The error's traceback still refers to the pass that failed, and so to all of its tensors.
    gc.collect()
    outline, alive = outline_of(job.plan), alive_while_reading(job.events)
    return [
        segment
        for segment in pending
        if read_segment(job.job_dir, outline, outline.segments[segment.index], on_bytes=alive)
        is None
    ]


@contextmanager
def _lent(kept: Kept | None) -> Iterator[Kept]:
    """What is kept, or something that ends with the `with` block."""
    if kept is not None:
        yield kept
        return
    own = Kept()
    try:
        yield own
    finally:
        own.close()


@contextmanager
def alone(
    job_dir: JobDir,
    device: str,
    lock_dir: Path,
    events: Events,
    *,
    kept: Kept,
    own: bool = True,
) -> Iterator[None]:
    """Hold the job's directory for the length of a `with` block, and the GPU as long as `kept`.

    The child of a run that was killed may still be ending when the next run starts its own, and the
    two must not write to one directory. A helper leaves the directory to the run that it helps, and
    holds only the segments that it makes. Two children on one GPU would run out of its memory.
    While this child waits for another, it says so again and again (`Waiting`).
    """

    def held(lock: Path, whom: str, name: str = "") -> AbstractContextManager[None]:
        logged = partial(logger.info, "waiting for %s (%s)", whom, lock)
        told = partial(events.emit, Waiting(whom=whom, lock=name))
        return hold_lock(lock, timeout=inf, on_wait=logged, while_waiting=told)

    with ExitStack() as stack:
        if own:
            stack.enter_context(held(job_dir.child_lock_path, "the previous child to end"))
        for name in device_locks(device):
            kept.hold(lock_dir / name, partial(held, lock_dir / name, device, name))
        yield


def device_locks(device: str) -> list[str]:
    """Names of a device's lock files, which are the same in every process. A CPU has none."""
    if not on_gpu(device):
        return []
    return [f"gpu-{torch.cuda.get_device_properties(device).uuid}.lock"]
