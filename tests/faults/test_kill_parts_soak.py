"""One long job on three workers, and kill -9 of everybody who works on it: the soak.

Nobody is called: after a kill this test only waits. Each job must end with the bytes of one that a
single process made, each kill may cost two segments, and nothing may be left.
"""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from seedvr2_core.files.durable import file_sha256
from tests.kits.faults import SMALL_PICTURES, Fault, wait_until
from tests.kits.processes import ROOT, children_of, is_running
from tests.kits.server import Serve, eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SECONDS = 100
"""Length of the clip: 250 s of work for one process, 10 s a segment."""
SLOW = Fault(at="seedvr2_core.engines.sleep:_enlarge", do="slow", call=50)
"""Makes a frame take 100 ms, so that all kills fall while there is work, on a busy machine too."""
STORIES: dict[str, tuple[str, ...]] = {
    "helpers": ("helper", "child of a helper", "helper", "child of the job", "helper"),
    "the job and its helpers": ("job", "helper", "child of a helper", "job", "helper"),
    "server and workers": ("server", "helper", "worker of a helper", "server", "child of the job"),
    "everybody": ("worker of a helper", "job", "server", "child of a helper", "child of the job"),
}
"""Killed one after another, each when two more segments are on disk."""
PATIENCE_SECONDS = 900.0
"""On a busy machine a lost run comes back late: its server is slow, and slowness proves nothing."""


def test_there_are_kills_enough() -> None:
    assert sum(map(len, STORIES.values())) >= 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., object]) -> Path:
    """A clip that is long enough for helpers."""
    path = tmp_path_factory.mktemp("clip") / "long.mp4"
    source = f"testsrc2=s=96x54:r=25:d={SECONDS}"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", path)
    return path


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has a byte for each segment that any process has begun."""
    return tmp_path_factory.mktemp("count") / "begun"


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, begun: Path) -> Iterator[Serve]:
    """The service with three workers for jobs; it looks for lost runs sooner than by default."""
    count = Fault(at="seedvr2_core.child.channel:InFlight.begin", do="count", mark=str(begun))
    serve = Serve(
        tmp_path_factory.mktemp("serve"),
        PYTHONPATH=os.pathsep.join((str(ROOT / "tests" / "faults" / "inject"), str(ROOT))),
        SEEDVR2_TEST_FAULTS=json.dumps([asdict(fault) for fault in (SMALL_PICTURES, SLOW, count)]),
        SEEDVR2_SEGMENT_SECONDS="4",
        SEEDVR2_RECOVER_SILENT_SECONDS="25",
        SEEDVR2_RECOVER_MARGIN_SECONDS="10",
        SEEDVR2_RECOVER_WAIT_SECONDS="20",
        SEEDVR2_STALL_SECONDS="600",
    ).wait_until_ready()
    yield serve
    serve.close()
    eventually(lambda: not serve.processes(), "the end of all processes")


def flows(serve: Serve, kind: str) -> list[int]:
    """Ids of the flow processes of a job ("job") or of helpers ("helper"); both have a child."""
    helping, found = helpers(serve), []
    for pid, command in serve.processes().items():
        _, is_child, arguments = command.partition("seedvr2_core.child ")
        if is_child and is_running(pid):
            parent = int(arguments.split()[0])
            if (parent in helping) == (kind == "helper"):
                found.append(parent)
    return found


def helpers(serve: Serve) -> set[int]:
    """Ids of the processes that run `upscale-part`, which name it in their environment."""
    ids = {str(run["id"]) for run in runs(serve, "upscale-part")}
    return {pid for pid in serve.processes() if run_of(pid) in ids}


def run_of(pid: int) -> str:
    """The flow run that a process of a worker works on."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    name = b"PREFECT__FLOW_RUN_ID="
    return next((w.removeprefix(name).decode() for w in words if w.startswith(name)), "")


def runs(serve: Serve, flow: str) -> list[dict[str, object]]:
    """All runs of a flow."""
    import httpx

    body = {"flows": {"name": {"any_": [flow]}}}
    url = f"{serve.urls['prefect']}/api/flow_runs/filter"
    answers: list[list[dict[str, object]]] = []

    def ask() -> bool:
        try:
            answers.append(httpx.post(url, json=body, auth=serve.auth, timeout=30).json())
        except (httpx.HTTPError, ValueError):
            return False
        return isinstance(answers[-1], list)

    eventually(ask, "an answer of the server")
    return answers[-1]


def states_of(serve: Serve, run_id: str) -> str:
    """Every state that a run has been in, a line each."""
    import httpx

    url = f"{serve.urls['prefect']}/api/flow_run_states/"
    answer = httpx.get(url, params={"flow_run_id": run_id}, auth=serve.auth, timeout=30)
    states = answer.json() if answer.is_success else []
    return "\n".join(f"{s['timestamp']} {s['name']}: {s['message']}" for s in states)


def victims(serve: Serve, whom: str) -> list[int]:
    """Ids of the processes that are meant."""
    if whom == "server":
        server = "deployments.host.prefect_server"
        return [pid for pid, command in serve.processes().items() if server in command]
    kind = "helper" if "helper" in whom else "job"
    found = flows(serve, kind)
    if whom.startswith("child"):
        return [k for pid in found for k in children_of(pid)[1:] if is_running(k)]
    if whom.startswith("worker"):
        own = {pid for pid, c in serve.processes().items() if "--name extra-" in c}
        return [pid for pid in own if set(children_of(pid)) & set(found)]
    return found


def kill(serve: Serve, whom: str, rng: random.Random) -> None:
    """kill -9 of one process; a server is there again when this returns."""
    found = eventually(lambda: victims(serve, whom), f"a {whom} at work", seconds=PATIENCE_SECONDS)
    victim = rng.choice(found)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not is_running(victim), "it was gone", seconds=30)
    if whom == "server":
        eventually(lambda: set(victims(serve, whom)) - set(found), "a new server")


def num_committed(serve: Serve) -> int:
    return len(list(serve.work_dir.glob("jobs/*/segments/[0-9]*.json")))


@pytest.fixture
def workers(serve: Serve) -> Iterator[None]:
    """Two more workers, for one story: it may kill them."""
    extra = [serve.add_worker(name) for name in ("extra-1", "extra-2")]
    yield
    for worker in extra:
        worker.kill()
        worker.wait()


@pytest.fixture(scope="module")
def digest_of_one(serve: Serve, clip: Path) -> str:
    """SHA-256 of the output that a single worker makes."""
    job = serve.submit(clip, *OPTIONS)
    ended = serve.wait_for(job, "completed", "failed", seconds=PATIENCE_SECONDS)
    assert ended["status"] == "completed", ended
    return file_sha256(Path(ended["output_path"]))


OPTIONS = ("--model", "sleep", "--resolution", "720p", "--preset", "ultrafast")


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("name", STORIES)
def test_a_shared_job_survives(
    serve: Serve, clip: Path, begun: Path, digest_of_one: str, name: str
) -> None:
    rng = random.Random(name)
    for made in (serve.work_dir / "jobs", serve.work_dir / "output"):
        shutil.rmtree(made, ignore_errors=True)  # else it would be found made
    begun.write_bytes(b"")
    job = serve.submit(clip, *OPTIONS, "--max-workers", "3")
    for number, whom in enumerate(STORIES[name], 1):
        wait_until(
            lambda number=number: num_committed(serve) >= 2 * number,
            f"{2 * number} segments were there",
            seconds=PATIENCE_SECONDS,
        )
        kill(serve, whom, rng)
        print(f"{name}: killed {whom} after {num_committed(serve)} segments")
    # A run that was killed counts as crashed, or as cancelled, until it is brought back.
    ended = serve.wait_for(job, "completed", "failed", seconds=PATIENCE_SECONDS)
    print(f"{name}: {ended}\n{states_of(serve, job)}")
    assert ended["status"] == "completed"
    assert file_sha256(Path(ended["output_path"])) == digest_of_one
    redone = begun.stat().st_size - SECONDS // 4
    print(f"{name}: {redone} segments redone after {len(STORIES[name])} kills")
    assert 0 <= redone <= 2 * len(STORIES[name])
    wait_until(lambda: not flows(serve, "helper") + flows(serve, "job"), "all ended", seconds=60)
    assert not list(serve.work_dir.glob("jobs/*/segments/*"))
    assert not list(serve.work_dir.glob("jobs/*/*.part"))
    open_states = {"RUNNING", "PENDING", "CANCELLING"}

    def still_open() -> list[dict[str, object]]:
        return [run for run in runs(serve, "upscale-part") if run["state_type"] in open_states]

    eventually(lambda: not still_open(), "the end of all helpers", seconds=240)
