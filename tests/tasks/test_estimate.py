"""The plan of a job is obeyed where it can be, and made anew where it cannot."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning import Plan, build_plan
from tasks.estimate import _write_or_obey
from tests.kits.factories import make_info, make_options

SOURCE = "ab" * 32


@pytest.fixture
def plan() -> Plan:
    return build_plan(make_info(), SOURCE, make_options(), cuts=())


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(tmp_path / "job")


def obeyed(plan: Plan, job_dir: JobDir, *, fresh: bool = False) -> Plan:
    with disable_run_logger():
        return _write_or_obey(plan, job_dir, fresh=fresh)


def test_an_earlier_plan_is_obeyed(plan: Plan, job_dir: JobDir) -> None:
    earlier = dataclasses.replace(plan, torch_threads=plan.torch_threads + 1, eta_seconds=1.0)
    write_record_in(job_dir, earlier)
    assert obeyed(plan, job_dir) == earlier
    assert obeyed(plan, job_dir, fresh=True) == plan
    assert read_record(job_dir.plan_path, Plan) == earlier, "until the fresh run holds the job"


def write_record_in(job_dir: JobDir, plan: Plan) -> None:
    job_dir.path.mkdir(parents=True, exist_ok=True)
    write_record(job_dir.plan_path, plan)


def _changed(**fields: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_text('{"somebody": "else\'s"}'),
        _a_folder,
        _changed(format=99),
        _changed(format=0),
        _changed(pixel_version=99),
        _changed(job_key="another job's"),
        _changed(source_sha256="another source's"),
    ],
    ids=["empty", "cut", "foreign", "folder", "newer", "older", "pixels", "job", "source"],
)
@pytest.mark.parametrize("fresh", [False, True], ids=["again", "fresh"])
def test_a_plan_that_cannot_be_obeyed_is_made_anew(
    plan: Plan, job_dir: JobDir, harm: Callable[[Path], None], fresh: bool
) -> None:
    write_record_in(job_dir, plan)
    harm(job_dir.plan_path)
    assert obeyed(plan, job_dir, fresh=fresh) == plan
    assert read_record(job_dir.plan_path, Plan) == plan
