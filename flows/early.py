"""Restores the beginning of a long video while its cuts are still looked for.

Where `upscale` runs on one machine, nobody has found the cuts before it begins. To find those of
two hours takes minutes, in which the GPU would wait.
"""

from pathlib import Path

from prefect import get_run_logger

from tasks.child.operation import drop_engine
from tasks.early.begun import EarlyWork, early_part
from tasks.early.search import (
    SEARCH_DEVICE,
    CutsUnknownError,
    EarlySearch,
    Settled,
    marks_of,
    may_begin_early,
)
from tasks.estimate import estimate
from tasks.inference import infer, session
from tasks.job import make_room
from tasks.probe import cuts_wanted, probe
from tasks.run import current
from tasks.schemas import ProbedSource, UpscaleRequest

__all__ = ["EarlyWork", "may_begin_early", "restore_early"]


def restore_early(probed: ProbedSource, request: UpscaleRequest) -> tuple[ProbedSource, EarlyWork]:
    """Find the cuts that a probe has left, and make the first segments of a long video meanwhile.

    What is made lies in directories of its own until the job takes it over (`tasks.early.begun`). A
    search that fails ends this behind the segment at work: a probe looks for the cuts again, and
    has the last word.

    Returns:
        The source with all its cuts, and what was made.
    """
    work = EarlyWork()
    marks = marks_of(probed.video.num_frames)
    if not marks or not current().may_begin_early:
        return probe(probed.source, request), work
    wanted = cuts_wanted(probed, SEARCH_DEVICE, marks)
    try:
        with EarlySearch(wanted) as search:
            while settled := search.more():
                _restore_to(settled, probed, request, search, work)
    except CutsUnknownError as error:
        get_run_logger().warning("the cuts are looked for once more: %s", error.__cause__)
        drop_engine()  # the probe tells how much of the device's memory is free
        return probe(probed.source, request), work
    return _with_settled(probed, wanted.out), work


def _with_settled(probed: ProbedSource, path: Path) -> ProbedSource:
    """The source with the cuts that are known by now."""
    return probed.model_copy(update={"cuts_path": path, "leaves_cuts": False})


def _restore_to(
    settled: Settled,
    probed: ProbedSource,
    request: UpscaleRequest,
    search: EarlySearch,
    work: EarlyWork,
) -> None:
    """Make the segments that end before the last cut that is known."""
    plain = request.model_copy(update={"fresh": False})  # what is there is removed below
    job = work.go_on(estimate(plain, _with_settled(probed, settled.path)))
    fresh, work.began = request.fresh and not work.began, True
    with early_part(job, probed, settled, fresh=fresh) as part:
        if part is None:
            return
        work.show(part)
        make_room(part)
        with work.noted(part), session(part) as inference:
            work.begin(inference)
            for index in part.segments:
                search.check()
                infer(index, part.num_segments, about=True)
