"""The worker sends the callback of a run that cannot do so itself; real worker, real server."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Cancelling

from flows.upscale import upscale
from tests.kits.http.callback import SECRET, Receiver
from tests.kits.processes import ROOT, children_of, command_of, ends_with_us, environment, kill_tree
from tests.kits.server import eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600), pytest.mark.usefixtures("in_api")]


class SilentServer:
    """Takes requests for videos and never answers, so that the run that asked stays at work."""

    def __init__(self) -> None:
        self.asked = 0
        self._released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer._released.wait(600)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


@pytest.fixture
def worker(
    receiver: Receiver, silent: SilentServer, api_url: str, tmp_path: Path
) -> Iterator[tuple[str, int]]:
    """A process worker; gives its pool and process id."""
    pool = f"callbacks-{uuid4().hex[:8]}"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    changes = {
        "PREFECT_API_URL": api_url,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "SEEDVR2_WORK_DIR": str(tmp_path / "work"),
        "SEEDVR2_FETCH_ALLOW": f"{receiver.host},{silent.host}",
        "SEEDVR2_CALLBACK_SECRET": SECRET,
    }
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool],
            env=environment(changes),
            cwd=ROOT,
            stdout=log,
            stderr=log,
            preexec_fn=ends_with_us(),
        )
    yield pool, process.pid
    kill_tree(process.pid)
    process.wait()


def start(client: SyncPrefectClient, pool: str, silent: SilentServer, receiver: Receiver) -> UUID:
    """Start a run that waits for its source."""
    deployment = client.create_deployment(
        client.create_flow(upscale),
        pool,
        work_pool_name=pool,
        entrypoint="flows.upscale.upscale",
        enforce_parameter_schema=False,
    )
    asked = {"video_url": f"http://{silent.host}/a.mp4", "callback_url": receiver.url}
    run = client.create_flow_run_from_deployment(deployment, parameters=asked)
    eventually(lambda: silent.asked, "the run's request for its source")
    return run.id


def test_a_run_that_is_cancelled(worker, silent: SilentServer, receiver: Receiver) -> None:
    pool, _ = worker
    with get_client(sync_client=True) as client:
        run = start(client, pool, silent, receiver)
        client.set_flow_run_state(run, Cancelling(), force=True)
        eventually(lambda: receiver.posts, "the callback")
    (event,) = receiver.events()
    assert (event["status"], event["job_id"]) == ("cancelled", str(run))


def test_a_flow_process_that_is_killed(worker, silent: SilentServer, receiver: Receiver) -> None:
    pool, pid = worker
    with get_client(sync_client=True) as client:
        run = start(client, pool, silent, receiver)
        (engine,) = [one for one in children_of(pid) if "prefect.engine" in command_of(one)]
        os.kill(engine, signal.SIGKILL)
        eventually(lambda: receiver.posts, "the callback")
    (event,) = receiver.events()
    assert (event["status"], event["job_id"]) == ("crashed", str(run))
    assert "status code: -9" in event["error"]
