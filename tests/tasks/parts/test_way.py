"""Who makes way for a job that waits: one helper for each, wherever the others are."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from tasks.net.bucket import Bucket
from tasks.parts import way
from tasks.settings import Settings
from tests.kits.http.s3 import S3

JOBS = [UUID(int=1), UUID(int=2)]
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Prefect's server's clock, as all machines read it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(way, "due_in", lambda seconds: BEGAN + self._since(seconds))

    def _since(self, seconds: float) -> timedelta:
        return timedelta(seconds=self.seconds + seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def machines(
    settings_with: Callable[..., Settings], s3: S3, tmp_path: Path, clock: Clock
) -> list[Settings]:
    """Three machines with a disk each and one store."""
    common = {"store": s3.address, **s3.settings()}
    return [settings_with(work_dir=tmp_path / name, **common) for name in ("one", "two", "three")]


def test_of_machines_without_a_common_disk_one_makes_way_for_a_job(
    machines: list[Settings], clock: Clock
) -> None:
    one, two, three = machines
    assert way.make_way(JOBS[:1], one) == JOBS[0]
    assert way.make_way(JOBS[:1], two) is None
    assert way.make_way(JOBS, three) == JOBS[1], "each job needs a worker of its own"
    assert way.make_way(JOBS, one) is None
    clock.seconds = way._AGAIN_SECONDS + 1
    assert way.make_way(JOBS[:1], two) == JOBS[0], "another job took the worker"
    assert way.make_way(JOBS[:1], three) is None
    assert way.make_way([], one) is None


def test_notes_are_forgotten_after_an_hour(machines: list[Settings], clock: Clock, s3: S3) -> None:
    one, two, _ = machines
    bucket = Bucket(s3.address, one)
    bucket.write("way/odd", b"\xff no time")
    assert way.make_way(JOBS[:1], one) == JOBS[0]
    assert bucket.names("way") == [f"way/{JOBS[0]}"]
    clock.seconds = way._FORGOTTEN_SECONDS + 1
    assert way.make_way(JOBS, two) == JOBS[0]
    assert bucket.names("way") == [f"way/{JOBS[0]}"]


def test_a_store_that_is_away_leaves_it_to_each_machine(
    machines: list[Settings],
    s3: S3,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(way, "get_run_logger", lambda: logging.getLogger("run"))
    one, two, _ = machines
    s3.line.fail("skewed", "way", times=100)
    assert way.make_way(JOBS[:1], one) == JOBS[0]
    assert way.make_way(JOBS[:1], one) is None
    assert way.make_way(JOBS[:1], two) == JOBS[0]
    assert "the store does not say" in caplog.text
