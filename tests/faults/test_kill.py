"""Kills, Ctrl-C and rivals: the job ends with the same bytes, redoing hardly anything.

The short form; every phase, every victim and the tiny model are in test_kill_soak.py.
"""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter

from tests.kits.faults import (
    NUM_SEGMENTS,
    Fault,
    FaultyJob,
    assert_nothing_left,
    kill_there,
    run_here,
    wait_until,
    worker_of,
)

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("in_api"),
]


@pytest.mark.long
def test_kill_of_the_whole_tree_is_survived(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str]
) -> None:
    """In the engine, between packets and sidecar, and while the joined file is checked."""
    job = make_job()
    places = {
        "engine": Fault(
            at="seedvr2_core.engines.sleep:_enlarge", call=20, mark=job.place("engine")
        ),
        "commit": Fault(
            at="seedvr2_core.job.sidecar:write_record", call=2, mark=job.place("commit")
        ),
        "stitch": Fault(at="seedvr2_core.video.join:check_joined", mark=job.place("stitch")),
    }
    committed: list[int] = []
    for place in places.values():
        killed = kill_there(job, place, "tree")
        assert killed is not None
        assert not job.processes()
        committed.append(len(killed.committed))
    assert 0 < committed[0] < committed[1] < committed[2] == NUM_SEGMENTS
    before = job.sidecars()
    result = run_here(job)
    assert (result.sha256, result.segments_reused) == (undisturbed("sleep"), NUM_SEGMENTS)
    assert job.sidecars() == before
    assert_nothing_left(job)


def attempts_of(job_id: str) -> dict[str, int]:
    """How often each task run of a flow run was started."""
    run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(job_id)]))
    with get_client(sync_client=True) as client:
        return {task.name: task.run_count for task in client.read_task_runs(flow_run_filter=run)}


def log_of(job_id: object) -> list[str]:
    """Log lines of a flow run."""
    of_run = {"flow_run_id": {"any_": [str(job_id)]}}
    with get_client(sync_client=True) as client:
        return [log.message for log in client.read_logs(LogFilter.model_validate(of_run))]


@pytest.mark.long
def test_a_lost_child_is_replaced_once(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str]
) -> None:
    """The command goes on by itself: the task that waited is retried on a fresh child."""
    job = make_job()
    place = Fault(at="seedvr2_core.engines.sleep:_enlarge", call=30, mark=job.place("engine"))
    killed = kill_there(job, place, "child")
    assert killed is not None
    result = job.result(killed.command)
    assert result["sha256"] == undisturbed("sleep")
    assert (result["status"], result["frames"]) == ("completed", 75)
    assert str(result["filename"]).startswith("bunny_320x180_720p_")
    assert Path(str(result["output_path"])).is_file()
    assert killed.committed.items() <= job.sidecars().items()
    assert_nothing_left(job)
    names = {f"segment {k} of {NUM_SEGMENTS}" for k in range(1, NUM_SEGMENTS + 1)}
    job_id = str(result["job_id"])
    wait_until(lambda: names <= attempts_of(job_id).keys(), "all task runs were recorded")
    attempts = attempts_of(job_id)
    assert sorted(attempts[name] for name in names) == [1, 1, 1, 1, 1, 2]


@pytest.mark.soak
def test_two_equal_requests_at_once_share_the_work(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str]
) -> None:
    """A command, and the flow in this process: one renders, the other finds what it made."""
    job = make_job()
    rival = job.start()
    mine = run_here(job)
    theirs = job.result(rival)
    assert {mine.sha256, theirs["sha256"]} == {undisturbed("sleep")}
    assert sorted([mine.segments_reused, int(str(theirs["segments_reused"]))]) == [0, NUM_SEGMENTS]
    assert mine.output_path == theirs["output_path"]
    assert_nothing_left(job)

    def waiting() -> list[bool]:
        logs = (log_of(job_id) for job_id in (mine.job_id, theirs["job_id"]))
        return [any("waiting for it" in line for line in lines) for lines in logs]

    wait_until(lambda: sum(waiting()) == 1, "one of the two logged that it waits")


@pytest.mark.soak
def test_ctrl_c_leaves_one_sentence_and_no_process(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str]
) -> None:
    """With a server of the command's own, which has to go as well."""
    job = make_job()
    process = job.start(PREFECT_API_URL="", PREFECT_HOME=str(job.work_dir / "prefect"))
    wait_until(lambda: len(job.sidecars()) >= 1 and job.at_work(), "the second segment began")
    assert worker_of(process.pid) is not None
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=60)
    out, err = job.said(process)
    assert code == 130, err
    assert out == ""
    assert "Traceback" not in err
    *_, last = err.strip().splitlines()
    assert re.match(r"interrupted; .* run it again", last)
    wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    committed = job.sidecars()
    result = run_here(job)
    assert (result.sha256, result.segments_reused) == (undisturbed("sleep"), len(committed))
    assert committed.items() <= job.sidecars().items()
    assert_nothing_left(job)
