"""Masters on machines that share an object store alone: kill -9 and the loss of the disk."""

import dataclasses
import shutil
from collections.abc import Callable

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import NUM_SEGMENTS, Fault, FaultyJob, kill_there, wait_until
from tests.kits.http.s3 import S3

KEEP, HEVC = ("--keep-master",), ("--codec", "hevc", "--quality", "60")


@pytest.fixture
def variables(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that the test starts has the store; a lost run's hold ends soon."""
    for name, value in {**s3.variables(), "SEEDVR2_STORE_LEASE_SECONDS": "6"}.items():
        monkeypatch.setenv(name, value)


def notes(result: dict[str, object]) -> str:
    told = result["notes"]
    assert isinstance(told, list)
    return "\n".join(told)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize(
    ("at", "call"),
    [
        ("tasks.store.master_copy:MasterCopy._send", 2),
        ("seedvr2_core.job.masters:write_record", 4),
        ("seedvr2_core.child.commit:commit_segment", 4),
    ],
    ids=["one is sent", "one is committed", "its segment is committed"],
)
def test_a_lost_machine_leaves_masters_that_another_uses(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    settings_with: Callable[..., Settings],
    s3: S3,
    at: str,
    call: int,
) -> None:
    bucket = Bucket(s3.address, settings_with(**s3.settings()))
    for kind, what in (("lost", "^PUT .*masters"), ("busy", "^PUT"), ("slow", "masters")):
        s3.line.fail(kind, what, times=2)
    first = dataclasses.replace(make_job("sleep"), options=KEEP)
    killed = kill_there(first, Fault(at=at, call=call, mark=first.place("kill")), "tree")
    assert killed is not None
    wait_until(lambda: not first.processes(), "every process was gone", seconds=15)
    shutil.rmtree(first.work_dir)

    second = dataclasses.replace(make_job("sleep"), options=KEEP)
    made = second.finish()
    assert made["sha256"] == undisturbed("sleep"), "keeping a master changes no byte"
    names = [name for name in bucket.names("masters") if name.endswith(".json")]
    # Of segments that came from the store, the masters may have been lost with the machine.
    what = "the master" if len(names) == NUM_SEGMENTS else f"masters of {len(names)} segments"
    assert f"the object store has {what} too" in notes(made)
    assert len(names) >= NUM_SEGMENTS - len(killed.committed)
    shutil.rmtree(second.work_dir)

    third = dataclasses.replace(make_job("sleep"), options=HEVC)
    s3.line.fail("cut", "^GET .*masters", times=2)
    found = third.finish()
    assert f"{len(names)} of {NUM_SEGMENTS} segments were coded again" in notes(found) or (
        len(names) == NUM_SEGMENTS and "all segments were coded again" in notes(found)
    )


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("variables")
def test_bytes_from_a_master_of_another_machine_are_those_made_at_once(
    make_job: Callable[..., FaultyJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the store goes from the first machine to the second."""
    first = dataclasses.replace(make_job("tiny"), options=KEEP)
    made = first.finish()
    assert "the object store has the master too" in notes(made)
    shutil.rmtree(first.work_dir)
    second = dataclasses.replace(make_job("tiny"), options=(*HEVC, "--grain", "0.4"))
    found = second.finish()
    assert "all segments were coded again from the master, without the engine" in notes(found)
    assert found["engine_was_warm"] is None
    monkeypatch.delenv("SEEDVR2_STORE")
    at_once = dataclasses.replace(make_job("tiny"), options=(*HEVC, "--grain", "0.4")).finish()
    assert "master" not in notes(at_once)
    assert (found["sha256"], found["job_key"]) == (at_once["sha256"], at_once["job_key"])
