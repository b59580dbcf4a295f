"""The upscale-part flow: it helps with a long job that another run works on.

A run of `upscale` whose request allows several workers creates runs of it, below itself, in the
queue `parts` of its pool. Nobody else has to: it ends at once where a job wants no help.
"""

from uuid import UUID

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.parts import look_up_job, make_shares
from tasks.parts.way import NO_HELP
from tasks.run import keep_record
from tasks.run.attempts import end_earlier_attempts, end_with_run
from tasks.run.begin import begin_run
from tasks.run.failures import EXPECTED, failed, tell_in_sentences
from tasks.run.record import DELIVERY_SECONDS
from tasks.run.termination import termination_heard
from tasks.run.unheard import NotOursError

UPDATE_SECONDS = 5.0
"""Shortest time between two updates of the artifact: nobody watches a helper as closely as a job,
and there may be hundreds."""


@flow(
    name="upscale-part",
    persist_result=False,
    on_cancellation=[end_with_run],
)
def upscale_part(job_id: UUID, job_key: str, number: int) -> State[str]:
    """Make segments of a job that another run works on.

    Args:
        job_id: id of that upscale run.
        job_key: key of its job: the name of the folder in WORK_DIR/jobs.
        number: which helper of the job this is, counted from 1.

    Example: upscale_part(job_id="5b0c...", job_key="0f9a...", number=1) -> "12 segments made"
    """
    begin_run(flow_run.id, flow_run.parameters)
    tell_in_sentences()
    try:
        with termination_heard(), keep_record(at_least_seconds=UPDATE_SECONDS) as record:
            end_earlier_attempts()
            record.enter("planned", stall_seconds=DELIVERY_SECONDS)
            shared = look_up_job(job_id, job_key)
            told = make_shares(shared, number) if shared else NO_HELP
    except NotOursError as ended:
        return ended.leave()
    except EXPECTED as error:
        return failed(error)
    return Completed(message=told, data=told)
