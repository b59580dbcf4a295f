"""The fetch-source flow: it fetches the source of a job, while no GPU waits for it."""

from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.fetch import TOO_LATE, fetch
from tasks.json_logs import begin_logs
from tasks.run.failures import EXPECTED, failed, tell_in_sentences
from tasks.run.handover import give_up, hand_back
from tasks.schemas import FetchedSource, check_request


@flow(name="fetch-source", persist_result=False)
def fetch_source(run_id: UUID) -> State[FetchedSource]:
    """Fetch the source of an upscale run that waits for it, then let that run begin.

    Args:
        run_id: id of the upscale run.

    Example: fetch_source(run_id="5b0c...") -> "clip.mp4: 1.2 MB"
    """
    begin_logs(flow_run.id, flow_run.parameters)
    tell_in_sentences()
    with get_client(sync_client=True) as client:
        video_url = client.read_flow_run(run_id).parameters.get("video_url")
    try:
        source = fetch(check_request(video_url=video_url))
        assert source is not None, "without a patience, fetch returns a source or raises"
    except TOO_LATE as error:
        give_up(run_id, str(error))
        return failed(error)
    except EXPECTED as error:
        hand_back(run_id, None)
        return failed(error)
    hand_back(run_id, source)
    told = f"{source.name}: {source.num_bytes / 1e6:.3g} MB"
    return Completed(message=told, data=source)
