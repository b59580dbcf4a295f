"""Workers whose clocks are wrong by an hour, with an object store and no common disk.

`wrong_clock.c` stands between our processes and the C library, so all of them, the child and
Prefect's own included, believe the wrong time. It needs a C compiler. The servers are right.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import NUM_SEGMENTS, Fault, FaultyJob, wait_until
from tests.kits.hosts.preload import build_library
from tests.kits.http.s3 import S3
from tests.kits.processes import environment, kill_tree

pytestmark = [pytest.mark.apt, pytest.mark.timeout(2400)]

HOUR = 3600


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """The environment of a process whose clock is ahead by so many seconds."""
    source = Path(__file__).with_name("wrong_clock.c")
    library = build_library(source, tmp_path_factory.mktemp("library"))

    def by(seconds: int) -> dict[str, str]:
        return {"LD_PRELOAD": str(library), "SEEDVR2_TEST_CLOCK": str(seconds)}

    return by


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_time_of_day_is_wrong_and_waits_are_not(
    wrong: Callable[[int], dict[str, str]], seconds: int
) -> None:
    code = "import time; print(time.time()); time.sleep(0.2); print(time.monotonic())"
    began = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(wrong(seconds)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    day, since = map(float, told.stdout.split())
    assert day - time.time() == pytest.approx(seconds, abs=60)
    assert began < since <= time.monotonic()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_living_run_keeps_its_job_and_a_lost_one_gives_it_up(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    settings_with: Callable[..., Settings],
    s3: S3,
    wrong: Callable[[int], dict[str, str]],
    ahead: int,
) -> None:
    """The clock of the one is two hours from that of the other."""
    common = {**s3.variables(), "SEEDVR2_STORE_LEASE_SECONDS": "6"}
    bucket = Bucket(s3.address, settings_with(**s3.settings()))
    first, second = make_job(), make_job()
    at = "seedvr2_core.engines.sleep:_enlarge"
    hangs = Fault(at=at, call=60, mark=first.place("engine"))
    process = first.start(hangs, **common, **wrong(ahead), SEEDVR2_STALL_SECONDS="300")
    wait_until(Path(hangs.mark).exists, "the first was at work")
    waiting = second.start(**common, **wrong(-ahead))
    wait_until(lambda: [n for n in bucket.names("jobs") if "/waiting/" in n], "the second waits")
    time.sleep(15)
    assert not second.sidecars(), "the first renews its lease although it hangs"
    kill_tree(process.pid)
    result = second.result(waiting)
    assert result["sha256"] == undisturbed("sleep")
    assert 0 < int(str(result["segments_reused"])) < NUM_SEGMENTS
