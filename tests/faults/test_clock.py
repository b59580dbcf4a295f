"""Two machines whose clocks are an hour wrong, each in its own direction, share an object store.

libfaketime of Debian shifts what a process and its children take for the time of day.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.containers.engine import needs
from tests.kits.faults import NUM_SEGMENTS, Fault, FaultyJob, wait_until
from tests.kits.http.s3 import S3
from tests.kits.processes import kill_tree

pytestmark = [pytest.mark.apt, pytest.mark.timeout(600)]


def clock(shift: str) -> dict[str, str]:
    """Variables of a process whose time of day is shifted so far ("+1h"); seconds stay seconds."""
    needs("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.mark.parametrize(("one", "other"), [("+1h", "-1h"), ("-1h", "+1h")])
def test_a_hold_is_respected_and_ends_whatever_the_clocks_say(
    make_job: Callable[..., FaultyJob],
    undisturbed: Callable[[str], str],
    settings_with: Callable[..., Settings],
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
    one: str,
    other: str,
) -> None:
    for name, value in {**s3.variables(), "SEEDVR2_STORE_LEASE_SECONDS": "6"}.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(s3.address, settings_with(**s3.settings()))
    first, second = make_job(), make_job()
    at = "seedvr2_core.engines.sleep:_enlarge"
    hangs = Fault(at=at, call=60, mark=first.place("engine"))
    process = first.start(hangs, SEEDVR2_STALL_SECONDS="300", **clock(one))
    wait_until(Path(hangs.mark).exists, "the first was at work")
    waiting = second.start(**clock(other))
    wait_until(lambda: [n for n in bucket.names("jobs") if "/waiting/" in n], "the second waits")
    time.sleep(8)
    assert not second.sidecars(), "the first renews its hold"
    kill_tree(process.pid)
    result = second.result(waiting)
    assert result["sha256"] == undisturbed("sleep")
    assert 0 < int(str(result["segments_reused"])) < NUM_SEGMENTS
