"""The fetch-source flow: it fetches the source of a job, or finds the cuts of a long one, while no
GPU waits for it.
"""

from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.child import one_child
from tasks.fetch import TOO_LATE, fetch, fetch_again
from tasks.probe import find_cuts, probe
from tasks.run.begin import begin_run
from tasks.run.failures import EXPECTED, failed, tell_in_sentences
from tasks.run.handover import give_up, hand_back, noted_source
from tasks.run.termination import termination_heard
from tasks.run.unheard import NotOursError
from tasks.schemas import FetchedSource, check_request


@flow(name="fetch-source", persist_result=False)
def fetch_source(run_id: UUID, cuts: bool = False) -> State[FetchedSource]:
    """Do what an upscale run waits for, then let that run begin.

    Args:
        run_id: id of the upscale run.
        cuts: it has its source and waits for the cuts; else it waits for its source.

    Example: fetch_source(run_id="5b0c...") -> "clip.mp4: 1.2 MB"
    """
    begin_run(flow_run.id, flow_run.parameters)
    tell_in_sentences()
    try:
        with termination_heard():
            with get_client(sync_client=True) as client:
                waiting = client.read_flow_run(run_id)
            return _find_cuts(waiting) if cuts else _fetch(waiting)
    except NotOursError as ended:
        return ended.leave()


def _fetch(waiting: FlowRun) -> State[FetchedSource]:
    try:
        source = fetch(check_request(video_url=waiting.parameters.get("video_url")))
        assert source is not None, "without a patience, fetch returns a source or raises"
    except TOO_LATE as error:
        give_up(waiting.id, str(error))
        return failed(error)
    except EXPECTED as error:
        hand_back(waiting.id, None, "it fetches by itself")
        return failed(error)
    hand_back(waiting.id, source, "its source has come")
    told = f"{source.name}: {source.num_bytes / 1e6:.3g} MB"
    return Completed(message=told, data=source)


def _find_cuts(waiting: FlowRun) -> State[FetchedSource]:
    """Find the cuts of a job's video; where that fails, the job does so by itself."""
    try:
        request = check_request(**waiting.parameters)
        source = fetch_again(request, *noted_source(waiting.labels))
        with one_child(restores=False):
            probed = probe(source, request, cuts="none")
            find_cuts(probed, "cpu")
    except EXPECTED as error:
        hand_back(waiting.id, None, "it looks for its cuts by itself")
        return failed(error)
    hand_back(waiting.id, source, "its cuts are known")
    return Completed(message=f"{source.name}: its cuts are known", data=source)
