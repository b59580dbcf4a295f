"""Kill -9 of every process of a service while it works on a job, and nobody is called: the soak.

`seedvr2 serve` starts its parts again, and `recover` brings back the run whose process or worker
died. So all that this test does after a kill is wait. The kills of a job fall one after another, at
places where its process stops by itself or between two segments; each job must end with the bytes
of one that nothing disturbed, on its own.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from seedvr2_core.files.durable import file_sha256
from tests.kits.faults import SMALL_PICTURES, Fault, wait_until
from tests.kits.processes import ROOT, children_of, is_running
from tests.kits.server import Serve, eventually

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

PARTS = {
    "server": "deployments.host.prefect_server",
    "gateway": "deployments.gateway",
    "edge": "deployments.edge",
    "worker": "--pool local",
    "cpu worker": "--pool cpu",
    "flow": "prefect.engine",
    "child": "seedvr2_core.child",
}
"""What is killed, and how its command line is known."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happens to one job."""

    between: tuple[str, ...] = ()
    """Killed one after another, each when one more segment is on disk."""
    at: str = ""
    """Then its process stops at this function ..."""
    there: tuple[str, ...] = ()
    """... and these are killed."""

    @property
    def whole(self) -> tuple[str, ...]:
        """All kills, in order."""
        return self.between + self.there


STORIES = {
    "while frames are restored": Story(
        between=("child", "gateway", "server", "edge", "cpu worker")
    ),
    "the run twice": Story(between=("flow", "worker")),
    "at the commit": Story(at="seedvr2_core.job.sidecar:commit_segment", there=("server", "child")),
    "while it is joined": Story(at="tasks.stitch:sync_file", there=("server", "gateway", "flow")),
    "while it is stored": Story(
        at="seedvr2_core.files.place:_publish", there=("gateway", "edge", "worker")
    ),
    "at the result": Story(at="tasks.job.finish:publish_result", there=("cpu worker", "flow")),
}


def test_there_are_kills_enough_with_those_of_the_command() -> None:
    """Of all processes: this file's, and those of test_kill_soak.py."""
    from tests.faults import test_kill_soak as command

    places = [place for phase in command.PHASES.values() for place in phase]
    of_command = 2 * len(places) + len(command.IN_CHILD) + len(command.MID_SHOT) + 10
    of_service = [whom for story in STORIES.values() for whom in story.whole]
    assert set(of_service) == set(PARTS)
    assert of_command + len(of_service) >= 60


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fault]:
    """Story -> where a process stops that begins after the fault's file `after` was made."""
    folder = tmp_path_factory.mktemp("marks")
    return {
        name: Fault(at=story.at, mark=str(folder / f"{k}.there"), after=str(folder / f"{k}.armed"))
        for k, (name, story) in enumerate(STORIES.items())
        if story.at
    }


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, faults: dict[str, Fault]) -> Iterator[Serve]:
    """The service, which looks for lost runs sooner than it does by default."""
    serve = Serve(
        tmp_path_factory.mktemp("serve"),
        PYTHONPATH=os.pathsep.join((str(ROOT / "tests" / "faults" / "inject"), str(ROOT))),
        SEEDVR2_TEST_FAULTS=json.dumps(
            [asdict(fault) for fault in (SMALL_PICTURES, *faults.values())]
        ),
        SEEDVR2_RECOVER_SILENT_SECONDS="25",
        SEEDVR2_RECOVER_MARGIN_SECONDS="10",
        SEEDVR2_RECOVER_WAIT_SECONDS="20",
        SEEDVR2_RECOVER_LOOK_SECONDS="2",
        SEEDVR2_STALL_SECONDS="600",
    ).wait_until_ready()
    yield serve
    serve.close()
    eventually(lambda: not serve.processes(), "the end of all processes")


def running(serve: Serve, whom: str) -> list[int]:
    """Ids of the processes that are meant; `recover` has flow processes too, and stays."""
    found = [pid for pid, command in serve.processes().items() if PARTS[whom] in command]
    if whom == "flow":
        found = [pid for pid in found if pid in children_of(serve.part(PARTS["worker"]))]
    return [pid for pid in found if is_running(pid)]


def kill(serve: Serve, whom: str) -> None:
    """kill -9 of one process; what the supervisor starts again is there when this returns."""
    found = running(serve, whom)
    assert found, f"no {whom} runs"
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    if whom not in ("flow", "child"):
        eventually(lambda: set(running(serve, whom)) - set(found), f"a new {whom}")


def num_committed(serve: Serve) -> int:
    return len(list(serve.work_dir.glob("jobs/*/segments/[0-9]*.json")))


@pytest.mark.parametrize("name", STORIES)
def test_a_job_ends_with_the_same_bytes_and_nobody_was_called(
    serve: Serve,
    faults: dict[str, Fault],
    demo_clip: Path,
    undisturbed: Callable[[str], str],
    name: str,
) -> None:
    story = STORIES[name]
    for made in (serve.work_dir / "jobs", serve.work_dir / "output"):
        shutil.rmtree(made, ignore_errors=True)  # else it would be found made
    if story.at:
        Path(faults[name].after).touch()
    job = serve.submit(
        *(demo_clip, "--model", "sleep", "--resolution", "720p", "--preset", "ultrafast")
    )
    for number, whom in enumerate(story.between, 1):
        wait_until(
            lambda number=number: num_committed(serve) >= number, f"{number} segments were there"
        )
        kill(serve, whom)
        print(f"{name}: killed {whom} after {num_committed(serve)} segments")
    if story.at:
        mark = Path(faults[name].mark)
        wait_until(mark.exists, f"the process came to {story.at}")
        for whom in story.there:
            kill(serve, whom)
            print(f"{name}: killed {whom} at {story.at}")
    ended = serve.wait_for(job, "completed", "failed", "cancelled", "crashed")
    assert ended["status"] == "completed", ended
    assert file_sha256(Path(ended["output_path"])) == undisturbed("sleep")
