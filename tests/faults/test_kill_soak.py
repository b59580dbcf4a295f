"""Kill -9 in every phase, of every process, small engines and SeedVR2's graph: the soak.

Each place is one where a process stops by itself and waits for the kill, so the phase is known; a
few more fall at random moments. What every kill cost is printed.
"""

import random
import time
from collections.abc import Callable

import pytest

from tests.kits.faults import (
    Fault,
    FaultyJob,
    assert_nothing_left,
    kill_there,
    wait_until,
    worker_of,
)
from tests.kits.processes import kill_tree

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

ENGINE = "seedvr2_core.engines.sleep:_enlarge"
PHASES: dict[str, list[tuple[str, int]]] = {
    "engine": [(ENGINE, 1), (ENGINE, 14), (ENGINE, 26)],
    "encode, commit": [
        ("seedvr2_core.video.writer:SegmentWriter.write", 5),
        ("seedvr2_core.child.commit:count_frames", 1),
        ("seedvr2_core.job.sidecar:commit_segment", 1),
        ("seedvr2_core.job.sidecar:write_record", 1),
    ],
    "stitch": [
        ("seedvr2_core.video.join:_Joining.write", 1),
        ("seedvr2_core.video.join:check_joined", 1),
        ("tasks.stitch:sync_file", 1),
    ],
    "upload": [
        ("seedvr2_core.files.place:_bring", 1),
        ("seedvr2_core.files.place:_publish", 1),
        ("tasks.job.finish:write_bytes", 1),
        ("tasks.job.finish:publish_result", 1),
    ],
}
IN_CHILD = [*PHASES["engine"], *PHASES["encode, commit"], *PHASES["stitch"][:2]]
MID_SHOT: list[tuple[str, int]] = [
    ("seedvr2_core.engines.seedvr2.pictures:Pictures.as_video", 1),
    ("seedvr2_core.engines.seedvr2.pictures:Pictures.as_video", 3),
    ("seedvr2_core.engines.seedvr2.phases:Phases._restore_window", 1),
    ("seedvr2_core.engines.seedvr2.phases:Phases._restore_window", 2),
    ("seedvr2_core.child.progress:ProgressCount.frame_restored", 3),
    ("seedvr2_core.job.latents:sync_file", 1),
    ("seedvr2_core.child.commit:write_commit", 1),
    ("seedvr2_core.child.progress:ProgressCount.frame_restored", 45),
    ("seedvr2_core.engines.seedvr2.session:SeedVR2Session.begin", 1),
    ("seedvr2_core.engines.seedvr2.phases:Phases.warm_up_decoder", 1),
    ("seedvr2_core.engines.seedvr2.phases:Phases._restore_window", 2),
    ("seedvr2_core.child.progress:ProgressCount.frame_restored", 9),
    ("seedvr2_core.job.sidecar:write_record", 1),
]


def survive(job: FaultyJob, places: list[tuple[str, int]], whoms: list[str]) -> list[int]:
    """Kill one command after another; returns what had to be redone after each."""
    redone: list[int] = []
    for number, (at, call) in enumerate(places):
        fault = Fault(at=at, call=call, mark=job.place(str(number)))
        killed = kill_there(job, fault, whoms[number % len(whoms)])
        assert killed is not None, f"the job ended before it came to {at}"
        wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
        redone.append(killed.redone)
    return redone


@pytest.mark.parametrize("whoms", [["tree", "command"], ["command", "tree"]], ids=["a", "b"])
def test_kills_in_every_phase(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str], whoms: list[str]
) -> None:
    job = make_job()
    places = [place for phase in PHASES.values() for place in phase]
    redone = survive(job, places, whoms)
    assert job.finish()["sha256"] == undisturbed("sleep")
    assert_nothing_left(job)
    print(f"{len(redone)} kills survived, {sum(redone)} segments redone, at most {max(redone)}")


@pytest.mark.parametrize("place", IN_CHILD, ids=lambda place: f"{place[0]}-{place[1]}")
def test_a_child_killed_in_any_phase_is_replaced(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str], place: tuple[str, int]
) -> None:
    """Without anybody's help."""
    job = make_job()
    killed = kill_there(job, Fault(at=place[0], call=place[1], mark=job.place("it")), "child")
    assert killed is not None
    assert job.result(killed.command)["sha256"] == undisturbed("sleep")
    assert_nothing_left(job)


def test_kills_in_the_middle_of_a_shot(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str]
) -> None:
    """SeedVR2's graph: encoder, windows, decoder, commit of latents, rebuilding of a state."""
    job = make_job("tiny")
    redone = survive(job, MID_SHOT, ["tree", "command"])
    assert len(redone) >= 10
    assert job.finish()["sha256"] == undisturbed("tiny")
    assert_nothing_left(job)
    print(f"{len(redone)} kills survived, {sum(redone)} segments redone, at most {max(redone)}")


@pytest.mark.parametrize("seed", [7])
def test_kills_at_random_moments(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str], seed: int
) -> None:
    """Of the tree, of the command alone or of the child alone, each followed by a resume."""
    rng = random.Random(seed)
    job, kills, ended = make_job(), 0, 0
    while kills < 10:
        before, process = job.sidecars(), job.start()
        moment, kind = rng.uniform(1, 12), rng.choice(["tree", "command", "child"])
        end = time.monotonic() + moment
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            child = worker_of(process.pid)
            if kind == "child" and child is not None:
                kill_tree(child)
                process.wait(timeout=150)
            elif kind == "command":
                process.kill()
            else:
                kill_tree(process.pid)
            process.wait()
            wait_until(lambda job=job: not job.processes(), "every process was gone", seconds=15)
            kills += 1
        print(f"kill {kills}: {kind} after {moment:.2f} s, {len(job.sidecars())} committed")
        assert before.items() <= job.sidecars().items()
        if process.returncode == 0:
            assert job.result(process)["sha256"] == undisturbed("sleep")
            assert_nothing_left(job)
            job, ended = make_job(), ended + 1
    assert job.finish()["sha256"] == undisturbed("sleep")
    assert_nothing_left(job)
