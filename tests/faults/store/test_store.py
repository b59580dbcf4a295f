"""A job whose machine is lost goes on on another that has the object store and nothing else."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import NUM_SEGMENTS, Fault, FaultyJob, kill_there, wait_until
from tests.kits.http.s3 import S3
from tests.kits.processes import kill_tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def variables(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that the test starts has the store; a lost run's hold ends soon."""
    for name, value in {**s3.variables(), "SEEDVR2_STORE_LEASE_SECONDS": "6"}.items():
        monkeypatch.setenv(name, value)


def objects(s3: S3, settings_with: Callable[..., Settings]) -> Bucket:
    return Bucket(s3.address, settings_with(**s3.settings()))


@pytest.mark.long
@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("model", ["sleep", "tiny"])
def test_a_killed_job_goes_on_elsewhere(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    settings_with: Callable[..., Settings],
    s3: S3,
    model: str,
) -> None:
    """The first machine is lost with its disk; the line is bad all the time."""
    bucket = objects(s3, settings_with)
    first, second = make_job(model), make_job(model)
    for kind, what in (
        ("lost", "^PUT"),
        ("busy", "^GET"),
        ("cut", "^GET .*sources"),
        ("slow", "."),
    ):
        s3.line.fail(kind, what, times=2)
    at = "seedvr2_core.job.sidecar:write_record"
    place = Fault(at=at, call=4, mark=first.place("commit"))
    killed = kill_there(first, place, "tree")
    assert killed is not None
    assert len(killed.committed) == 3
    there = [name for name in bucket.names("jobs") if "/segments/" in name]
    kept = [name for name in there if name.endswith(".json")]
    assert kept, "segments were copied while others were made"
    shutil.rmtree(first.work_dir)
    for kind, what in (("lost", "^PUT"), ("cut", "^GET .*segments"), ("busy", "delete$")):
        s3.line.fail(kind, what, times=2)
    result = second.finish()
    assert result["sha256"] == undisturbed(model)
    assert result["segments_reused"] == len(kept)
    kept = {"results", "sources", *(["cuts"] if model == "tiny" else [])}
    assert {name.split("/")[0] for name in bucket.names("")} == kept
    assert {"lost", "busy"} <= set(s3.line.happened)


@pytest.mark.long
@pytest.mark.usefixtures("variables")
def test_a_store_that_is_away_delays_nothing(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    settings_with: Callable[..., Settings],
    s3: S3,
) -> None:
    """From the first segment on nothing gets through; the job ends on its own disk."""
    job = make_job()
    process = job.start()
    wait_until(lambda: job.sidecars(), "a segment was there")
    s3.line.fail("away", ".", times=10_000)
    assert job.result(process)["sha256"] == undisturbed("sleep")
    s3.line.mend()
    assert not objects(s3, settings_with).names("results")


@pytest.mark.long
@pytest.mark.usefixtures("variables")
def test_one_machine_waits_for_another_and_takes_over_when_that_is_lost(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    settings_with: Callable[..., Settings],
    s3: S3,
) -> None:
    bucket = objects(s3, settings_with)
    first, second = make_job(), make_job()
    at = "seedvr2_core.engines.sleep:_enlarge"
    hangs = Fault(at=at, call=60, mark=first.place("engine"))
    process = first.start(hangs, SEEDVR2_STALL_SECONDS="300")
    wait_until(Path(hangs.mark).exists, "the first was at work")
    waiting = second.start()
    wait_until(lambda: [n for n in bucket.names("jobs") if "/waiting/" in n], "the second waits")
    time.sleep(8)
    assert not second.sidecars(), "the first renews its lease although it hangs"
    kill_tree(process.pid)
    result = second.result(waiting)
    assert result["sha256"] == undisturbed("sleep")
    assert 0 < int(str(result["segments_reused"])) < NUM_SEGMENTS
