"""GET /events/{job_id}: a job's status as server-sent events, as soon as it changes.

Nobody has to ask again and again. The fields are those of GET /status/{job_id}. All listeners share
their questions to Prefect, and there is a bound on how many there are; whoever finds no place asks
for the status as before.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.gateway.answers import Job, describe
from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.routes.docs import json_refusals
from deployments.gateway.routes.jobs import JobId, find_run
from deployments.host.slow_clients import ENDS_AT_SHUTDOWN

MAX_LISTENERS, MAX_OF_CALLER = 100, 20
LOOK_SECONDS = 1.0
"""Time between two looks at a job."""
POSITION_SECONDS = 5.0
"""The same at its place in the queue, which costs a question of its own."""
HEARTBEAT_SECONDS = 15.0
"""Longest silence: proxies close connections on which nothing comes."""
RETRY_AFTER_SECONDS = 10
ENDED = ("completed", "failed", "cancelled")

_EXAMPLE = (
    "retry: 3000\n\nevent: status\ndata: {Job, as GET /status/{job_id} answers it}\n\n"
    ": still here\n\nevent: status\ndata: {...}\n\nevent: end\ndata: {}\n\n"
)
_DECLARED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events until the job has ended. `status`: its data is a Job. `end`: the "
        "last one. Lines that begin with a colon are signs of life.",
        "content": {"text/event-stream": {"example": _EXAMPLE}},
    }
}


class Listeners:
    """Who is listening now."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def check(self, caller: Caller) -> None:
        """Refuse one listener too many.

        Raises:
            HTTPException: 503, with Retry-After.
        """
        if self._count.total() >= MAX_LISTENERS or self._count[caller.name] >= MAX_OF_CALLER:
            raise HTTPException(
                503,
                f"too many listeners: {MAX_LISTENERS} in all and {MAX_OF_CALLER} of one token are "
                "served; ask GET /status/{job_id} now and then",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )

    @contextmanager
    def place(self, caller: Caller) -> Iterator[None]:
        """Count a listener for the length of the block, which begins right after `check`."""
        self._count[caller.name] += 1
        try:
            yield
        finally:
            self._count[caller.name] -= 1


class EventStream(StreamingResponse):
    """Server-sent events to a listener who has a place while they are sent."""

    media_type = "text/event-stream"

    def __init__(
        self,
        content: AsyncIterator[str],
        status_code: int = 200,  # FastAPI reads it from here
        *,
        listeners: Listeners,
        caller: Caller,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(content, status_code, headers)
        self._listeners, self._caller = listeners, caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events.

        The place is taken here, where nobody else can have come in between since `check`: the
        stream's own code begins only after other requests have had their turn.
        """
        with self._listeners.place(self._caller):
            await super().__call__(scope, receive, send)


def add_events(app: FastAPI, prefect: PrefectApi, authenticate: Authenticate) -> None:
    """Add GET /events/{job_id}."""
    listeners = Listeners()

    @app.get(
        "/events/{job_id}",
        response_class=EventStream,
        responses={**_DECLARED, **json_refusals(problems(*WITH_TOKEN, 404, 503))},
    )
    async def events(
        job_id: JobId, request: Request, caller: Annotated[Caller, Depends(authenticate)]
    ) -> EventStream:
        """A job's status as server-sent events (EventSource), as soon as it changes.

        The stream begins with the status of now and closes when the job has ended. 503: there are
        too many listeners; ask for the status instead.
        """
        await find_run(prefect, caller, job_id)
        listeners.check(caller)
        request.scope[ENDS_AT_SHUTDOWN] = True
        return EventStream(
            _stream(Look(prefect, caller, job_id)),
            listeners=listeners,
            caller=caller,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )


class Look:
    """Looks at one job again and again."""

    def __init__(self, prefect: PrefectApi, caller: Caller, job_id: str) -> None:
        self._prefect, self._caller, self._job_id = prefect, caller, job_id
        self._position: int | None = None
        self._asked_at = float("-inf")

    async def job(self) -> Job | None:
        """The job as it is now; None while Prefect cannot be reached.

        Raises:
            HTTPException: 404, it is gone.
        """
        try:
            run = await find_run(self._prefect, self._caller, self._job_id)
            artifacts = await self._prefect.artifacts_of(run.id)
            now = asyncio.get_running_loop().time()
            if now - self._asked_at >= POSITION_SECONDS:
                self._position, self._asked_at = await self._prefect.position(run), now
        except HTTPException as error:
            if error.status_code == 404:
                raise
            return None
        found = describe(run, artifacts, position=self._position)
        waits = found.status == "pending"
        return found if waits else found.model_copy(update={"position": None})


async def _stream(look: Look) -> AsyncIterator[str]:
    """The text of the stream."""
    clock = asyncio.get_running_loop().time
    yield "retry: 3000\n\n"
    shown, sent_at = "", clock()
    while True:
        try:
            job = await look.job()
        except HTTPException:
            break  # the record was removed: whoever asks for the status is told so
        told = job.model_dump_json(exclude={"elapsed_seconds"}) if job else shown
        if job is not None and told != shown:
            shown, sent_at = told, clock()
            yield f"event: status\ndata: {job.model_dump_json()}\n\n"
        if job is not None and job.status in ENDED:
            break
        if clock() - sent_at >= HEARTBEAT_SECONDS:
            sent_at = clock()
            yield ": still here\n\n"
        await asyncio.sleep(LOOK_SECONDS)
    yield "event: end\ndata: {}\n\n"
