"""The route flow: picks the deployment for a request, creates the job there, ends.

For callers that do not know which pool takes which resolution. It takes no time and no GPU; its
own id keeps resolving to the job (`tasks.run.routing.find_job`), so it can be handed out as one.
"""

import inspect
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.upscale import run_name, upscale
from tasks.run.callback import call_back
from tasks.run.routing import dispatch
from tasks.schemas import check_request


def _route(**parameters: Any) -> State[str]:
    request = check_request(**parameters)
    asked = request.model_dump(mode="json", exclude_none=True)
    deployment, job = dispatch(asked, request.resolution, routed_from=UUID(flow_run.id))
    return Completed(message=f"job {job.id} on {deployment}", data=str(job.id))


# Its form is upscale's, field by field: Prefect reads signature and docstring for both.
_route.__name__ = _route.__qualname__ = "route"
_route.__signature__ = inspect.signature(upscale.fn).replace(return_annotation=State[str])
_route.__doc__ = (upscale.fn.__doc__ or "").replace(
    "Restore and upscale one video.",
    "Create the upscale job of one video on the deployment for its resolution.",
)

# Where it creates no job, there is none that could tell the caller.
route = flow(
    name="route",
    flow_run_name=run_name,
    persist_result=False,
    on_failure=[call_back],
    on_cancellation=[call_back],
    on_crashed=[call_back],
)(_route)
