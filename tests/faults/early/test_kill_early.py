"""Ctrl-C and kill -9 while the beginning of a film is restored and its cuts are looked for."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kits.faults import Fault, FaultyJob, assert_nothing_left, wait_until
from tests.kits.processes import children_of, kill_tree
from tests.kits.videos.shots import film_of_shots

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.usefixtures("in_api")]

SHOTS = [15, 20, 8, 31, 4, 26, 22, 34, 25, 15]
EARLY = (
    Fault(at="tasks.probe:MOST_FRAMES_HERE", call=100, do="number"),
    Fault(at="tasks.early.search:FIRST_MARK", call=40, do="number"),
    Fault(at="tasks.early.search:LEAST_MARKS", call=3, do="number"),
)
"""The film counts as long."""


@pytest.fixture
def jobs(make_job: Callable[..., FaultyJob], tmp_path: Path) -> Callable[[str], FaultyJob]:
    """Make jobs of one film, each in a work directory of its own."""
    film = tmp_path / "film.mp4"
    film_of_shots(film, SHOTS)
    return lambda name: replace(make_job("tiny", tmp_path / name), clip=film)


def children_with_our_code(pid: int) -> list[int]:
    """The children that run code of ours, below a command."""
    lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children_of(pid)[1:]}
    return [child for child, line in lines.items() if b"seedvr2_core.child" in line]


def test_what_was_made_early_survives_ctrl_c_and_kill(jobs: Callable[[str], FaultyJob]) -> None:
    calm = jobs("calm").finish()
    job = jobs("early")
    never = Fault(
        at="seedvr2_core.video.cuts:pick_cuts", call=3, do="wait", mark=job.place("never")
    )
    stopped = job.start(never, *EARLY)
    wait_until(lambda: job.sidecars() or stopped.poll() is not None, "a segment was made early")
    assert len(children_with_our_code(stopped.pid)) >= 2, "one looks for cuts, another restores"
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(timeout=60) == 130, job.said(stopped)[1]
    wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    first = made(job)

    killed = job.start(never, *EARLY)
    wait_until(
        lambda: len(job.sidecars()) > len(first) or killed.poll() is not None,
        "the second run made more",
    )
    kill_tree(killed.pid)
    killed.wait(timeout=60)
    wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
    second = made(job)
    assert first.items() < second.items(), "what was made is kept"
    assert not list(job.work_dir.glob("probes/*[0-9a-f].cuts.json"))

    result = job.result(job.start(*EARLY))
    assert (result["job_key"], result["sha256"]) == (calm["job_key"], calm["sha256"])
    assert result["segments_reused"] == len(second)
    assert second.items() <= made(job).items()
    assert_nothing_left(job)
    assert len(list(job.work_dir.glob("jobs/*"))) == 1


def made(job: FaultyJob) -> dict[str, int]:
    """The finished segments, wherever they lie: name -> the number of the file on its disk."""
    found = job.work_dir.glob("jobs/*/segments/[0-9]*.mp4")
    there = [path for path in found if path.with_suffix(".json").is_file()]
    return {path.name: path.stat().st_ino for path in there}
