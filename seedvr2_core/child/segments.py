"""Makes the segments of a job: waits for its turn, loads the engine, and runs the pipeline.

What has a master is coded again from that (`masters/`), without an engine and without a device. For
the rest, one pass of the pipeline (`pipeline.py`) makes all pending segments, unless values are not
finite or the device runs out of memory. Then the engine takes a step down (another precision, or
smaller slices of the picture), and another pass makes the segments that are still pending. There
are only a few steps, so this ends.
"""

import gc
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import torch

from seedvr2_core.child.commit import RestoreJob
from seedvr2_core.child.masters.coding import MISSING, Coder
from seedvr2_core.child.memory import check_host
from seedvr2_core.child.pipeline import Pipeline
from seedvr2_core.child.progress import Events, ProgressCount, alive_while_reading
from seedvr2_core.child.protocol import Ready, Waiting
from seedvr2_core.child.shares import Shares, Work
from seedvr2_core.child.warm.kept import Kept
from seedvr2_core.engines.deterministic import deterministic
from seedvr2_core.engines.seedvr2.parking import give_back
from seedvr2_core.errors import DeviceMemoryError, NoMasterError, NumericalError
from seedvr2_core.files import hold_lock
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims
from seedvr2_core.job.masters import WantedMasters, wanted_masters
from seedvr2_core.job.sidecar import read_segment, remove_leftovers, without_latents
from seedvr2_core.kernels.choice import kept_choices
from seedvr2_core.kernels.devices import kind_of, on_gpu
from seedvr2_core.planning import Plan, Segment
from seedvr2_core.planning.outline import outline_of
from seedvr2_core.video.output.encoders import check_encoder

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
        ResourceError: this machine cannot run the encoder that is asked for; nothing was made.
        SeedVR2Error: the engine, a codec or the disk failed. Segments before that are committed.
    """
    check_encoder(plan.encoder)  # before the device is held, and an engine loaded
    job_dir.segments_path.mkdir(parents=True, exist_ok=True)
    own = not work.helps
    with (
        _lent(kept) as kept,
        alone(job_dir, events, own=own),
        Claims(job_dir) as claims,
        deterministic(plan.torch_threads),
        kept_choices(job_dir.kernels_path),
    ):
        maker = _Maker(
            plan=plan,
            job_dir=job_dir,
            source=source,
            device=device,
            weights_dir=weights_dir,
            lock_dir=lock_dir,
            events=events,
            kept=kept,
        )
        maker.hold_if_sure()  # before a share is taken, which others could make meanwhile
        shares = Shares(plan, job_dir, claims, work, events)
        with _no_leftovers(job_dir, shares, of_job=own):
            kept.files = (job_dir.path, source)
            maker.make_all(shares)


@contextmanager
def _no_leftovers(job_dir: JobDir, shares: Shares, *, of_job: bool) -> Iterator[None]:
    """Remove what is half made, before and after: on a full disk it would stay in the way."""
    remove_leftovers(job_dir, (), of_job=of_job)
    try:
        yield
    finally:
        remove_leftovers(job_dir, shares.held, of_job=of_job)


class _Maker:
    """Makes shares of a job: from masters where there are some, else with the engine."""

    def __init__(
        self,
        *,
        plan: Plan,
        job_dir: JobDir,
        source: Path,
        device: str,
        weights_dir: Path | None,
        lock_dir: Path,
        events: Events,
        kept: Kept,
    ) -> None:
        """Load nothing yet, and wait for nothing."""
        self._plan, self._job_dir, self._source = plan, job_dir, source
        self._device, self._weights_dir = device, weights_dir
        self._events, self._kept = events, kept
        self._hold = partial(hold_device, device, lock_dir, events, kept=kept)
        self._wanted: WantedMasters | None = wanted_masters(job_dir)
        self._progress = ProgressCount(events)
        self._outline = outline_of(plan)

    def hold_if_sure(self) -> None:
        """Wait for the device, unless masters may make all of the job without it."""
        if self._wanted is None or not self._wanted.ready:
            self._hold()

    def make_all(self, shares: Shares) -> None:
        """Make all segments that this process gets; the engine is loaded when there is one."""
        job: RestoreJob | None = None
        try:
            for share in shares:
                pending, anew = self._code(share)
                if not pending:
                    continue
                self._check_engine(anew)
                self._hold()
                self._progress.take(sum(segment.num_frames for segment in pending))
                job = replace(job or self._opened(), anew=anew)
                while pending:
                    alone = without_latents(self._job_dir, self._outline)
                    elsewhere = shares.elsewhere | alone
                    pending = _run_until_step_down(job, pending, elsewhere, self._kept)
                    give_back(torch.device(self._device))
        finally:
            if job is not None:
                job.session.close()

    def _code(self, share: list[Segment]) -> tuple[list[Segment], dict[int, str]]:
        """Make what has a master; returns the rest, and why it has none that can be used."""
        if self._wanted is None:
            return share, {}
        coder = Coder(
            plan=self._plan,
            job_dir=self._job_dir,
            source=self._source,
            wanted=self._wanted,
            events=self._events,
            progress=self._progress,
        )
        anew = coder.code(share)
        return [segment for segment in share if segment.index in anew], anew

    def _check_engine(self, anew: dict[int, str]) -> None:
        """Refuse to load an engine where this machine is to code from masters alone.

        Raises:
            NoMasterError: which segment it would be for, and why.
        """
        if self._wanted is not None and self._wanted.only:
            index, why = next(iter(anew.items()))
            raise NoMasterError(f"segment {index} cannot be coded again: {why or MISSING}")

    def _opened(self) -> RestoreJob:
        """The job with its engine loaded."""
        plan, device = self._plan, self._device
        check_host(plan.memory, device)
        session, warm = self._kept.open_session(
            plan, device=device, beat=self._progress.beat, weights_dir=self._weights_dir
        )
        self._events.emit(Ready(engine=plan.engine.name, device=device, warm=warm))
        keeps = self._wanted is not None and self._wanted.keep
        return RestoreJob(
            plan=plan,
            job_dir=self._job_dir,
            source=self._source,
            device_kind=kind_of(device),
            session=session,
            events=self._events,
            progress=self._progress,
            keep=self._wanted.masters if self._wanted is not None and keeps else None,
        )


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
def alone(job_dir: JobDir, events: Events, *, own: bool = True) -> Iterator[None]:
    """Hold the job's directory for the length of a `with` block.

    The child of a run that was killed may still be ending when the next run starts its own, and the
    two must not write to one directory. A helper leaves the directory to the run that it helps, and
    holds only the segments that it makes. While this child waits for another, it says so again and
    again (`Waiting`).
    """
    with ExitStack() as stack:
        if own:
            lock = job_dir.child_lock_path
            stack.enter_context(_held(lock, "the previous child to end", events))
        yield


def hold_device(device: str, lock_dir: Path, events: Events, *, kept: Kept) -> None:
    """Hold the GPU as long as `kept`: two children on one GPU would run out of its memory."""
    for name in device_locks(device):
        kept.hold(lock_dir / name, partial(_held, lock_dir / name, device, events, name))


def _held(lock: Path, whom: str, events: Events, name: str = "") -> AbstractContextManager[None]:
    """Hold a lock; while another has it, say for whom this child waits."""
    logged = partial(logger.info, "waiting for %s (%s)", whom, lock)
    told = partial(events.emit, Waiting(whom=whom, lock=name))
    return hold_lock(lock, timeout=inf, on_wait=logged, while_waiting=told)


def device_locks(device: str) -> list[str]:
    """Names of a device's lock files, which are the same in every process. A CPU has none."""
    if not on_gpu(device):
        return []
    return [f"gpu-{torch.cuda.get_device_properties(device).uuid}.lock"]
