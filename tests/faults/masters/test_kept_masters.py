"""Another codec from a kept master: real commands, and kill -9 where masters are made and read."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kits.faults import (
    NUM_SEGMENTS,
    Fault,
    FaultyJob,
    kill_there,
    wait_until,
)

KEEP, HEVC = ("--keep-master",), ("--codec", "hevc", "--quality", "60")
WRITING: list[tuple[str, int]] = [
    ("seedvr2_core.video.output.master:MasterWriter.write", 5),
    ("seedvr2_core.child.commit:count_master", 1),
    ("seedvr2_core.child.commit:commit_master", 1),
    ("seedvr2_core.job.masters:write_record", 1),
    ("seedvr2_core.child.commit:commit_segment", 1),
]
READING: list[tuple[str, int]] = [
    ("seedvr2_core.child.masters.coding:read_master_sidecar", 2),
    ("seedvr2_core.child.masters.session:MasterSession.restore", 1),
    ("seedvr2_core.child.masters.session:MasterSession.take_commit", 2),
    ("seedvr2_core.child.commit:commit_segment", 1),
]


def notes(result: dict[str, object]) -> str:
    told = result["notes"]
    assert isinstance(told, list)
    return "\n".join(told)


def masters(job: FaultyJob) -> list[str]:
    """Names of the finished masters."""
    return sorted(path.name for path in job.work_dir.glob("masters/*/*.json"))


@pytest.mark.long
@pytest.mark.slow
def test_the_file_from_a_master_is_the_one_that_would_have_been_made_at_once(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str], tmp_path: Path
) -> None:
    first = dataclasses.replace(make_job("sleep", tmp_path / "a"), options=KEEP)
    result = first.finish()
    assert result["sha256"] == undisturbed("sleep"), "keeping a master changes no byte"
    assert "the lossless master of the video is kept: " in notes(result)
    assert len(masters(first)) == NUM_SEGMENTS

    again = dataclasses.replace(make_job("sleep", tmp_path / "a"), options=HEVC)
    found = again.finish()
    assert "all segments were coded again from the master, without the engine" in notes(found)
    assert (found["codec"], found["engine_was_warm"], found["segments_reused"]) == ("hevc", None, 0)
    at_once = dataclasses.replace(make_job("sleep", tmp_path / "b"), options=HEVC).finish()
    assert "master" not in notes(at_once)
    assert (found["sha256"], found["job_key"]) == (at_once["sha256"], at_once["job_key"])

    (second,) = tmp_path.glob("a/masters/*/00002.mkv")
    second.write_bytes(second.read_bytes()[:-1])
    fresh = dataclasses.replace(
        make_job("sleep", tmp_path / "a"), options=("--quality", "60", "--keep-master")
    )
    told = notes(fresh.finish())
    assert f"5 of {NUM_SEGMENTS} segments were coded again from the master" in told
    assert "segment 2 was restored anew: its master is damaged" in told
    assert len(masters(fresh)) == NUM_SEGMENTS, "it is whole again"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kills_while_masters_are_written_and_read(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str], tmp_path: Path
) -> None:
    first = dataclasses.replace(make_job("sleep", tmp_path / "a"), options=KEEP)
    survive(first, WRITING)
    assert first.finish()["sha256"] == undisturbed("sleep")
    assert first.leftovers() == []
    assert len(masters(first)) == NUM_SEGMENTS

    whole = dataclasses.replace(make_job("sleep", tmp_path / "b"), options=HEVC).finish()
    shutil.copytree(tmp_path / "a" / "masters", tmp_path / "c" / "masters")
    again = dataclasses.replace(make_job("sleep", tmp_path / "c"), options=HEVC)
    survive(again, READING)
    found = again.finish()
    assert found["sha256"] == whole["sha256"]
    assert "all segments were coded again from the master" in notes(found)
    assert again.leftovers() == []


def survive(job: FaultyJob, places: list[tuple[str, int]]) -> None:
    """Kill the tree and the command in turn, at one place after another."""
    for number, (at, call) in enumerate(places):
        fault = Fault(at=at, call=call, mark=job.place(f"{len(job.options)}-{number}"))
        assert kill_there(job, fault, ("tree", "command")[number % 2]) is not None, at
        wait_until(lambda: not job.processes(), "every process was gone", seconds=15)
