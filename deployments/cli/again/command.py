"""`seedvr2 retry` and `whole`: a job of a gateway is asked for once more."""

from typing import Annotated

import typer

from deployments.cli.jobs import (
    GatewayUrl,
    JobId,
    TokenFile,
    Watch,
    follow_job,
    open_gateway,
)
from deployments.cli.notify import Notify, notified
from deployments.cli.options import AsJson
from deployments.cli.output import gateway_options

NewSeconds = Annotated[
    float | None,
    typer.Option(
        help="Limit in the place of the job's own: seconds that it may hold its device, in all of "
        "its runs, those before this one included."
    ),
]
NewPrice = Annotated[
    float | None, typer.Option(help="The same as a price (SEEDVR2_HOUR_PRICE of the gateway).")
]
NoLimit = Annotated[
    bool, typer.Option("--no-limit", help="No limit in the place of the job's own.")
]


def retry(
    job: JobId,
    max_seconds: NewSeconds = None,
    max_price: NewPrice = None,
    no_limit: NoLimit = False,
    watched: Watch = False,
    notify: Notify = None,
    gateway: GatewayUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Submit a failed or cancelled job again.

    It keeps the segments that are made, and has the same source and options. A job that was stopped
    at its limit of time or price needs a larger one, or none. The last line of stdout is the new
    job's id; with --watch it is the result's address or path. Asked twice, it is the same job.
    """
    with notified(notify), open_gateway("retry", gateway, token_file) as client:
        answer = client.retry(job, max_seconds=max_seconds, max_price=max_price, no_limit=no_limit)
        follow_job(client, answer, watched, as_json, gateway_options(gateway, token_file))


def whole(
    job: JobId,
    watched: Watch = False,
    notify: Notify = None,
    gateway: GatewayUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Submit the whole video of a completed preview.

    It keeps the preview's segments, and has its source and options. The last line of stdout is the
    new job's id; with --watch it is the result's address or path. Asked twice, it is the same job.
    """
    with notified(notify), open_gateway("whole", gateway, token_file) as client:
        answer = client.whole(job)
        follow_job(client, answer, watched, as_json, gateway_options(gateway, token_file))
