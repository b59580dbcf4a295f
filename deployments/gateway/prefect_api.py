"""The gateway's client of Prefect's REST API: few calls, one connection pool, short limits.

Prefect's own client waits for up to a minute when the server cannot be reached. Callers of the
gateway should not wait: they get 503 with Retry-After at once and ask again by themselves.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
from fastapi import HTTPException
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL
from pydantic import TypeAdapter

from deployments.gateway.coalescing import Coalescer
from seedvr2_core.errors import InvalidRequestError
from tasks.run import PROGRESS_KEY, RESULT_KEY
from tasks.run.artifacts import artifact_filter
from tasks.run.routing import MOVED, job_among, job_filter
from tasks.setting_groups.callers import PRIORITIES

RETRY_AFTER_SECONDS = 10
WAITING = ("SCHEDULED", "PENDING")
"""Prefect's state types of a run that waits for a worker."""
_AGAIN_SECONDS = 0.3
_IN_FRONT_SECONDS = 2.0
"""How long a count of the jobs in other queues is good: a list of jobs asks for each of them."""
_TIMEOUT = httpx.Timeout(20.0, connect=3.0)
_MAX_ARTIFACTS = 200  # Prefect returns no more in one answer
_MAX_JOBS = 20  # in one call; a job has at most ten artifacts, so that all of them fit

logger = logging.getLogger(__name__)
_RUNS = TypeAdapter(list[FlowRun])
_ARTIFACTS = TypeAdapter(list[Artifact])


def unavailable(why: str) -> HTTPException:
    """The answer to a caller while Prefect cannot do what we ask.

    Args:
        why: ends the sentence that begins with "Prefect".
    """
    return HTTPException(
        503,
        f"Prefect {why}; nothing is lost: send the same request (and Idempotency-Key) again",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


class PrefectApi:
    """The calls of Prefect's REST API that the gateway needs.

    All methods raise HTTPException 503 while the server cannot be reached or fails.
    """

    def __init__(self, api_url: str | None = None) -> None:
        """Connect to `api_url`, or to PREFECT_API_URL of the environment or Prefect profile.

        Raises:
            InvalidRequestError: neither is set.
        """
        url = api_url or PREFECT_API_URL.value()
        if not url:
            raise InvalidRequestError(
                "the gateway needs a Prefect server; set PREFECT_API_URL (http://host:4200/api)"
            )
        self._flow_names: dict[UUID, str] = {}
        self._in_front: dict[tuple[str, ...], tuple[float, int]] = {}
        """Jobs in the queues of a pool that come first: when they were counted, and how many."""
        user, _, password = _password().partition(":")
        self._http = httpx.AsyncClient(
            base_url=url, timeout=_TIMEOUT, auth=(user, password) if user else None
        )
        self._runs = Coalescer(self._read_runs, max_keys=_MAX_JOBS)
        self._artifacts = Coalescer(self._read_artifacts, max_keys=_MAX_JOBS)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def check(self) -> None:
        """Check that the server answers and accepts our password."""
        _json(await self._ask("GET", "/admin/version"))

    async def check_database(self) -> None:
        """Check that the server reaches its database."""
        _json(await self._ask("GET", "/ready"))

    async def pools_of(self, flow: str) -> list[str]:
        """Names of the work pools that the deployments of a flow are on, in order."""
        body = {"flows": {"name": {"any_": [flow]}}, "limit": 200}
        found = _json(await self._ask("POST", "/deployments/filter", body))
        return sorted({one["work_pool_name"] for one in found if one.get("work_pool_name")})

    async def num_workers(self, pool: str) -> int:
        """How many workers of a pool are online; at most 200 are seen."""
        path, body = f"/work_pools/{quote(pool, safe='')}/workers/filter", {"limit": 200}
        answer = await self._ask("POST", path, body)
        if answer.status_code == 404:  # somebody has deleted the pool
            return 0
        return sum(one.get("status") == "ONLINE" for one in _json(answer))

    async def deployment_id(self, name: str) -> str:
        """Find the id of a deployment.

        A deployment that is missing is answered like an outage: once `make deploy` has run, the
        caller's next attempt succeeds.
        """
        answer = await self._ask("GET", f"/deployments/name/{name}")
        if answer.status_code == 404:
            logger.error("the deployment %s is not on the Prefect server; run make deploy", name)
            raise unavailable(f"does not know the deployment {name}")
        return _json(answer)["id"]

    async def create(
        self,
        deployment: str,
        parameters: Mapping[str, Any],
        *,
        key: str,
        labels: Mapping[str, str],
        tags: Sequence[str],
        queue: str | None = None,
    ) -> FlowRun:
        """Create a flow run, or return the one that was created with the same key.

        Args:
            deployment: full name, such as upscale/h100.
            parameters: of the flow.
            key: idempotency key.
            labels: of the run.
            tags: of the run, beside those of its deployment.
            queue: of the work pool, that the run waits in; None: the deployment's own.

        Raises:
            HTTPException: 422, Prefect refuses the parameters.
        """
        body = {
            "parameters": parameters,
            "idempotency_key": key,
            "labels": labels,
            "tags": list(tags),
            "state": {"type": "SCHEDULED", "message": "submitted through the gateway"},
        }
        if queue is not None:
            body["work_queue_name"] = queue
        deployment_id = await self.deployment_id(deployment)
        answer = await self._ask("POST", f"/deployments/{deployment_id}/create_flow_run", body)
        if answer.status_code in (409, 422):
            raise HTTPException(422, f"Prefect refused the request: {answer.text[:500]}")
        return FlowRun.model_validate(_json(answer))

    async def find_job(self, run_id: UUID) -> FlowRun | None:
        """Find the run of a job; the id of a run that has created one elsewhere leads there."""
        run = await self._runs.get(run_id)
        if run is None:
            return None
        kind = await self._flow_name(run.flow_id)
        moved = run.state is not None and run.state.name == MOVED
        if kind == "upscale" and not moved:
            return run
        return await self._routed(run_id) if moved or kind == "route" else None

    async def _read_runs(self, run_ids: Sequence[UUID]) -> dict[UUID, FlowRun]:
        """Read runs, by id; ids that do not exist are left out."""
        filter_ = {"id": {"any_": [str(run_id) for run_id in run_ids]}}
        answer = await self._ask("POST", "/flow_runs/filter", {"flow_runs": filter_})
        return {run.id: run for run in _RUNS.validate_python(_json(answer))}

    async def _routed(self, run_id: UUID) -> FlowRun | None:
        """Find the job that a `route` run created; returns the `route` run until there is one."""
        filter_ = job_filter(run_id).model_dump(mode="json", exclude_none=True)
        answer = await self._ask("POST", "/flow_runs/filter", {"flow_runs": filter_})
        return job_among(_RUNS.validate_python(_json(answer)), run_id)

    async def _flow_name(self, flow_id: UUID) -> str:
        """Name of a flow; asked once and then kept, because a flow never changes its name."""
        if flow_id not in self._flow_names:
            answer = await self._ask("GET", f"/flows/{flow_id}")
            self._flow_names[flow_id] = _json(answer)["name"]
        return self._flow_names[flow_id]

    async def jobs(
        self, *, state_types: Sequence[str], tags: Sequence[str], limit: int, offset: int
    ) -> list[FlowRun]:
        """List runs of the flow upscale, newest first.

        Args:
            state_types: only runs in one of these states of Prefect; all if empty.
            tags: only runs with all of these tags.
            limit: length of the page.
            offset: runs before the page.
        """
        body: dict[str, Any] = {
            "flows": {"name": {"any_": ["upscale"]}},
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": limit,
            "offset": offset,
        }
        # One that was moved is there a second time, where it went.
        states: dict[str, Any] = {"name": {"not_any_": [MOVED]}}
        if state_types:
            states["type"] = {"any_": list(state_types)}
        wanted: dict[str, Any] = {"state": states}
        if tags:
            wanted["tags"] = {"all_": list(tags)}
        body["flow_runs"] = wanted
        return await self.runs(body)

    async def runs(self, body: Mapping[str, Any]) -> list[FlowRun]:
        """Read runs by a filter of Prefect's, at most 200."""
        return _RUNS.validate_python(_json(await self._ask("POST", "/flow_runs/filter", body)))

    async def count(self, body: Mapping[str, Any]) -> int:
        """Count runs by a filter of Prefect's."""
        return int(_json(await self._ask("POST", "/flow_runs/count", body)))

    async def position(self, run: FlowRun) -> int | None:
        """How many runs of the same work pool wait in front of this one; None if it does not wait.

        A worker takes the runs of a queue in the order of their scheduled times, and the queues of
        its pool in the order of their priority.
        """
        waits = run.state is not None and run.state.type.value in WAITING
        if not waits or run.expected_start_time is None or run.work_pool_name is None:
            return None
        wanted: dict[str, Any] = {
            "state": {"type": {"any_": list(WAITING)}},
            "expected_start_time": {"before_": run.expected_start_time.isoformat()},
            "id": {"not_any_": [str(run.id)]},
        }
        body = {
            "flow_runs": wanted,
            "work_pools": {"name": {"any_": [run.work_pool_name]}},
            "flows": {"name": {"any_": ["upscale"]}},  # helpers of other jobs come after it
        }
        own = run.work_queue_name or "default"
        rank = PRIORITIES.index(own) if own in PRIORITIES else 1
        in_front = await self._waiting_in(run.work_pool_name, PRIORITIES[:rank])
        return in_front + await self.count(body | {"work_pool_queues": {"name": {"any_": [own]}}})

    async def _waiting_in(self, pool: str, queues: Sequence[str]) -> int:
        """How many jobs wait in these queues of a pool; asked once in a while for all who ask."""
        if not queues:
            return 0
        now, (asked_at, found) = time.monotonic(), self._in_front.get((pool, *queues), (0.0, 0))
        if now - asked_at < _IN_FRONT_SECONDS:
            return found
        body = {
            "flow_runs": {
                "state": {"type": {"any_": list(WAITING)}},
                "expected_start_time": {"before_": datetime.now(UTC).isoformat()},
            },
            "work_pools": {"name": {"any_": [pool]}},
            "work_pool_queues": {"name": {"any_": list(queues)}},
            "flows": {"name": {"any_": ["upscale"]}},
        }
        found = await self.count(body)
        self._in_front[pool, *queues] = now, found
        return found

    async def artifacts(self, run_ids: Sequence[UUID]) -> list[Artifact]:
        """Progress and result artifacts of runs, newest first."""
        wanted = artifact_filter(run_ids, PROGRESS_KEY, RESULT_KEY)
        body = {
            "artifacts": wanted.model_dump(mode="json", exclude_none=True),
            "sort": "CREATED_DESC",
            "limit": _MAX_ARTIFACTS,
        }
        return _ARTIFACTS.validate_python(_json(await self._ask("POST", "/artifacts/filter", body)))

    async def newest(self, key: str, *, limit: int, offset: int) -> list[Artifact]:
        """Artifacts of all runs that have this key, newest first."""
        body = {
            "artifacts": {"key": {"any_": [key]}},
            "sort": "CREATED_DESC",
            "limit": limit,
            "offset": offset,
        }
        return _ARTIFACTS.validate_python(_json(await self._ask("POST", "/artifacts/filter", body)))

    async def artifacts_of(self, run_id: UUID) -> list[Artifact]:
        """Progress and result artifacts of one run, newest first."""
        return await self._artifacts.get(run_id) or []

    async def _read_artifacts(self, run_ids: Sequence[UUID]) -> dict[UUID, list[Artifact]]:
        """The same of several runs, by run."""
        found: dict[UUID, list[Artifact]] = {run_id: [] for run_id in run_ids}
        for artifact in await self.artifacts(run_ids):
            if artifact.flow_run_id is not None:
                found[artifact.flow_run_id].append(artifact)
        return found

    async def logs(
        self, run_id: UUID, *, after: datetime | None, limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """Read log lines of a run, oldest first."""
        wanted: dict[str, Any] = {"flow_run_id": {"any_": [str(run_id)]}}
        if after is not None:
            wanted["timestamp"] = {"after_": after.isoformat()}
        body = {"logs": wanted, "sort": "TIMESTAMP_ASC", "limit": limit, "offset": offset}
        return _json(await self._ask("POST", "/logs/filter", body))

    async def cancel(self, run_id: UUID) -> None:
        """Cancel a run: at once if it has no process, else its worker ends the process first."""
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
        _json(await self._ask("POST", f"/flow_runs/{run_id}/set_state", body))

    async def label(self, run_id: UUID, labels: Mapping[str, str]) -> None:
        """Add labels to a run."""
        answer = await self._ask("PATCH", f"/flow_runs/{run_id}/labels", labels)
        if not answer.is_success:
            _json(answer)

    async def _ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Make one call, twice if the first fails: each of our calls may safely be repeated."""
        why = ""
        for attempt in range(2):
            if attempt:
                await asyncio.sleep(_AGAIN_SECONDS)
            try:
                answer = await self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                why = f"cannot be reached ({type(error).__name__})"
                continue
            if answer.status_code < 500 and answer.status_code not in (408, 429):
                return answer
            why = f"answers {answer.status_code}"
        logger.warning("%s %s: Prefect %s", method, path, why)
        raise unavailable(why)


def _json(answer: httpx.Response) -> Any:
    """Read the body of an answer; any other status than success is our own or Prefect's fault."""
    if answer.is_success:
        return answer.json()
    logger.error("Prefect answered %d to %s", answer.status_code, answer.request.url.path)
    raise unavailable(f"refused the gateway's own request ({answer.status_code})")


def _password() -> str:
    """PREFECT_API_AUTH_STRING ("user:password"); empty if it is not set."""
    return PREFECT_API_AUTH_STRING.value() or ""
