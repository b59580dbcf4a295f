"""Who holds a job, in a real S3-compatible server."""

import time
from collections.abc import Callable

import pytest

from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tasks.store import Lease
from tests.kits.http.s3 import S3


@pytest.fixture
def bucket(s3: S3, settings_with: Callable[..., Settings]) -> Bucket:
    return Bucket(s3.address, settings_with(**s3.settings()))


def lease(bucket: Bucket, run: str, holder: str = "", seconds: float = 60.0) -> Lease:
    return Lease(bucket, "key", run_id=run, label="clip", holder=holder or run, seconds=seconds)


def test_one_run_holds_a_job_until_it_gives_it_back(bucket: Bucket) -> None:
    first, second = lease(bucket, "run 1"), lease(bucket, "run 2")
    assert first.take() == ""
    assert second.take() == "job run 1 (clip)"
    second.give_back()
    assert second.take() == "job run 1 (clip)", "it gives back nothing that is not its own"
    first.renew()
    assert not first.lost
    first.give_back()
    assert second.take() == ""
    first.renew()
    assert first.lost
    assert not [name for name in bucket.names("jobs") if "waiting" in name]


def test_a_later_attempt_of_the_same_run_waits_for_nothing(bucket: Bucket) -> None:
    earlier, later = lease(bucket, "run 1", "attempt 1"), lease(bucket, "run 1", "attempt 2")
    assert earlier.take() == ""
    assert later.take() == ""
    earlier.renew()
    assert earlier.lost
    later.renew()
    assert not later.lost


@pytest.mark.long
def test_a_lease_that_nobody_renews_ends_by_the_clock_of_the_store(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the machine that waits is wrong by years."""
    gone, other = lease(bucket, "run 1", seconds=2), lease(bucket, "run 2", seconds=2)
    assert gone.take() == ""
    monkeypatch.setattr(time, "time", lambda: 10_000.0)
    assert other.take() == "job run 1 (clip)"
    time.sleep(3.1)
    assert other.take() == ""
    gone.renew()
    assert gone.lost
    gone.give_back()
    other.renew()
    assert not other.lost


@pytest.mark.parametrize("kind", ["lost", "busy", "away"])
def test_a_bad_line_loses_no_lease(bucket: Bucket, s3: S3, kind: str) -> None:
    held = lease(bucket, "run 1")
    s3.line.fail(kind, "^PUT")
    assert held.take() == ""
    for _ in range(3):
        s3.line.fail(kind, "^PUT")
        held.renew()
        assert not held.lost


def test_a_renewal_from_another_object_of_the_same_attempt_counts(bucket: Bucket) -> None:
    """The step that takes a lease and the thread that renews it have one each."""
    assert lease(bucket, "run 1").take() == ""
    renewing = lease(bucket, "run 1")
    renewing.renew()
    renewing.renew()
    assert not renewing.lost
