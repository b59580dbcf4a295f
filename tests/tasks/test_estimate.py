"""The plan of a job is obeyed where it can be, and made anew where it cannot."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning import Plan, build_plan
from tasks.estimate import _write_or_obey
from tasks.settings import Settings
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


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def _endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "harm",
    [
        _instead(lambda path: path.symlink_to(path.name)),
        _instead(lambda path: path.symlink_to("nowhere")),
        _instead(lambda path: path.symlink_to("/dev/zero")),
        _instead(os.mkfifo),
        _endless,
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
    ids=[
        "loop",
        "lost-link",
        "device",
        "pipe",
        "endless",
        "empty",
        "cut",
        "foreign",
        "folder",
        "newer",
        "older",
        "pixels",
        "job",
        "source",
    ],
)
@pytest.mark.parametrize("fresh", [False, True], ids=["again", "fresh"])
def test_a_plan_that_cannot_be_obeyed_is_made_anew(
    plan: Plan, job_dir: JobDir, harm: Callable[[Path], None], fresh: bool
) -> None:
    write_record_in(job_dir, plan)
    harm(job_dir.plan_path)
    assert obeyed(plan, job_dir, fresh=fresh) == plan
    assert read_record(job_dir.plan_path, Plan) == plan


LONGEST = """
import resource, sys
from pathlib import Path
from seedvr2_core.files import read_record, write_record
from seedvr2_core.planning import Plan, build_plan
from seedvr2_core.video.info import VideoInfo
from tests.kits.factories import make_info, make_options

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

folder, num_frames = Path(sys.argv[1]), int(sys.argv[2])
write_record(folder / "info.json", make_info(pts=tuple(range(1000))))
read_record(folder / "info.json", VideoInfo)  # loads what this takes
begun = peak_mib()
(folder / "info.json").write_text((folder / "info.json").read_text().replace(
    ",".join(map(str, range(1000))), ",".join(map(str, range(num_frames)))))
info = read_record(folder / "info.json", VideoInfo)
assert info.num_frames == num_frames
write_record(folder / "plan.json", build_plan(info, "0" * 64, make_options(), cuts=()))
plan = read_record(folder / "plan.json", Plan)
print(peak_mib() - begun)
"""


def test_the_longest_video_that_is_accepted_fits_into_the_flow_process(tmp_path: Path) -> None:
    """It reads the times of all frames, a million by default, to plan the job."""
    ended = subprocess.run(
        [sys.executable, "-c", LONGEST, str(tmp_path), str(Settings().max_frames)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(ended.stdout) < 200
