"""Restores the beginning of a long video while its cuts are still looked for.

Where `upscale` runs on one machine, nobody has found the cuts before it begins. To find those of
two hours takes minutes, in which the GPU would wait.
"""

from prefect import get_run_logger

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
from tasks.schemas import FetchedSource, ProbedSource, UpscaleRequest

__all__ = ["EarlyWork", "may_begin_early", "restore_early"]


def restore_early(source: FetchedSource, request: UpscaleRequest) -> EarlyWork:
    """Find the cuts of a long video, and make its first segments meanwhile.

    What is made lies in directories of its own until the job takes it over (`tasks.early.begun`). A
    search that fails ends this too: the probe that follows looks for the cuts again, and it is the
    one that fails. So the segment at work is committed first.

    Side effects: the cuts are known when this returns; segments in WORK_DIR/jobs.
    """
    work = EarlyWork()
    probed = probe(source, request, cuts="none")
    assert probed is not None
    marks = marks_of(probed)
    if not marks:
        return work
    try:
        with EarlySearch(cuts_wanted(probed, SEARCH_DEVICE, marks)) as search:
            while settled := search.more():
                _restore_to(settled, probed, request, search, work)
    except CutsUnknownError as error:
        get_run_logger().warning("the cuts are looked for once more: %s", error.__cause__)
    return work


def _restore_to(
    settled: Settled,
    probed: ProbedSource,
    request: UpscaleRequest,
    search: EarlySearch,
    work: EarlyWork,
) -> None:
    """Make the segments that end before the last cut that is known."""
    plain = request.model_copy(update={"fresh": False})  # what is there is removed below
    job = estimate(plain, probed.model_copy(update={"cuts_path": settled.path}))
    fresh, work.began = request.fresh and not work.began, True
    with early_part(job, probed, settled, fresh=fresh) as part:
        if part is None:
            return
        make_room(part)
        with session(part) as inference:
            for index in part.segments:
                search.check()
                infer(index, part.num_segments, about=True)
        work.note(part, inference.kept)
