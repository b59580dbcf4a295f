"""The route flow: it picks the deployment for a request, creates the job there, and ends.

It is for callers that do not know which pool takes which resolution. It ends at once and needs no
GPU. Callers may use its id as the job's: `tasks.run.routing.find_job` finds the job by it.
"""

import inspect
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.form import arrange
from flows.upscale import run_name, upscale
from tasks.plan import place_of
from tasks.run.begin import begin_run
from tasks.run.callbacks.hook import call_back
from tasks.run.failures import EXPECTED, failed, tell_in_sentences
from tasks.run.routing import dispatch
from tasks.schemas import check_request
from tasks.settings import get_settings


def _route(**parameters: Any) -> State[str]:
    begin_run(flow_run.id, {})
    tell_in_sentences()
    try:
        request = check_request(**parameters)
        given = request.model_dump(mode="json", exclude_none=True)
        asked = {name: value for name, value in given.items() if value != ""}
        place = place_of(request, get_settings())
        deployment, job = dispatch(
            asked, request.resolution, deployment=place, routed_from=UUID(flow_run.id)
        )
    except EXPECTED as error:
        return failed(error)
    return Completed(message=f"job {job.id} on {deployment}", data=str(job.id))


# The two flows have the same form in Prefect, which makes it from a flow's signature and docstring.
_route.__name__ = _route.__qualname__ = "route"
_route.__signature__ = inspect.signature(upscale.fn).replace(return_annotation=State[str])
_route.__doc__ = (upscale.fn.__doc__ or "").replace(
    "Restore and upscale one video.",
    "Create the upscale job of one video on the deployment for its resolution.",
)

# Hooks only for the ends without a job. Where there is a job, the job tells the caller itself.
route = flow(
    name="route",
    flow_run_name=run_name,
    persist_result=False,
    on_failure=[call_back],
    on_cancellation=[call_back],
    on_crashed=[call_back],
)(_route)
arrange(route)
