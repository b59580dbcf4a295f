"""A service that ends while a process looks for lost runs, as one does nearly always."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tasks.run.appointments import LABEL_DRAINED
from tests.kits.deployed import deployments
from tests.kits.faults import wait_until
from tests.kits.processes import is_running
from tests.kits.server import Serve, eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    serve = Serve(tmp_path).wait_until_ready()
    yield serve
    serve.close()
    eventually(lambda: not serve.processes(), "the end of all processes")


@pytest.fixture
def api(serve: Serve) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{serve.urls['prefect']}/api", auth=serve.auth, timeout=60) as api:
        yield api


def sweeps(api: httpx.Client, state: str) -> list[dict[str, Any]]:
    """Runs that look for lost runs, in this state."""
    body = {
        "flows": {"name": {"any_": ["recover"]}},
        "flow_runs": {"state": {"type": {"any_": [state]}}},
    }
    return api.post("/flow_runs/filter", json=body).raise_for_status().json()


def ids(runs: list[dict[str, Any]]) -> set[str]:
    return {run["id"] for run in runs}


@pytest.fixture
def at_work(api: httpx.Client) -> set[str]:
    """The ids of the sweeps at work, of which one has looked: another waits to replace it."""
    deployment = deployments(api)["recover/lost-runs"]["id"]
    body = {"idempotency_key": f"sweep:{uuid4()}", "state": {"type": "SCHEDULED"}}
    made = api.post(f"/deployments/{deployment}/create_flow_run", json=body).json()["id"]
    wait_until(lambda: made not in ids(sweeps(api, "SCHEDULED")), "a worker has taken it")

    def has_looked() -> bool:
        waiting = [run["idempotency_key"] or "" for run in sweeps(api, "SCHEDULED")]
        return any(key.startswith("sweep:") for key in waiting)

    wait_until(has_looked, "it has looked")
    return ids(sweeps(api, "RUNNING"))


def test_a_drained_worker_does_not_wait_for_its_sweep(
    serve: Serve, api: httpx.Client, at_work: set[str]
) -> None:
    """The sweep would go on for ten minutes; one of another worker goes on instead."""
    assert at_work
    worker = serve.part("--name serve-cpu")
    os.kill(worker, signal.SIGUSR1)
    wait_until(lambda: not is_running(worker), "the worker has ended", seconds=120)
    ended = [run for run in sweeps(api, "COMPLETED") if run["id"] in at_work]
    assert ids(ended) == at_work
    waited_for = [run for run in ended if run["labels"].get(LABEL_DRAINED) == run["run_count"]]
    assert waited_for, "the label tells the attempt that the worker has begun"
    eventually(
        lambda: ids(sweeps(api, "RUNNING")) - at_work,
        "the next one, on the worker that serve has started anew",
    )


def test_ctrl_c_does_not_wait_for_a_sweep_and_the_next_start_looks_again(
    serve: Serve, at_work: set[str]
) -> None:
    assert at_work
    began = time.monotonic()
    assert serve.stop(signal.SIGINT) == 0, serve.said()
    print(f"ended after {time.monotonic() - began:.1f} s")
    assert "error" not in serve.said()
    eventually(lambda: not serve.processes(), "the end of all processes")
    with Serve(serve.folder) as again:
        url = f"{again.urls['prefect']}/api"
        with httpx.Client(base_url=url, auth=again.auth, timeout=60) as api:
            eventually(lambda: sweeps(api, "RUNNING"), "one that looks")
            assert not ids(sweeps(api, "CRASHED")) & at_work, "none is left without a process"
