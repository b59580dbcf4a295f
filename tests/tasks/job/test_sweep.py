"""What is removed by age, and what never is."""

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.files.durable import write_record
from seedvr2_core.files.locks import hold_lock
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from tasks.job.sweep import bound_copies, sweep
from tasks.settings import Settings
from tests.kits.factories import make_info, make_options

sweeping = importlib.import_module("tasks.job.sweep")
DAY = 86_400.0
DIGEST = "ab" * 32


@pytest.fixture
def settings(settings_with: Callable[..., Settings]) -> Settings:
    return settings_with(keep_days=2)


def make(path: Path, *, days: float, content: str = "x") -> Path:
    """A file that was written so many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return age(path, days)


def age(path: Path, days: float) -> Path:
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def make_job(settings: Settings, name: str, *files: str, days: float) -> Path:
    folder = settings.work_dir / "jobs" / name
    for file in files:
        make(folder / file, days=days)
    for path in (folder / "segments", folder):
        if path.exists():
            age(path, days)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_killed_helpers_have_left_goes(settings: Settings) -> None:
    """Of jobs of other machines; a helper that is at work writes into its folder."""
    for name, days in (("old", 3.0), ("young", 1.0)):
        make(settings.helpers_dir / name / "segments" / "00000.mp4", days=days)
        for folder in (settings.helpers_dir / name / "segments", settings.helpers_dir / name):
            age(folder, days)
    assert sweep(settings) == ["helper old"]
    assert names(settings.helpers_dir) == ["young"]


def test_jobs_that_nobody_came_back_for_go(settings: Settings) -> None:
    old = make_job(settings, "old", "plan.json", "job.lock", "segments/00000.mp4", days=3)
    young = make_job(settings, "young", "plan.json", "job.lock", "segments/00000.mp4", days=1)
    busy = make_job(settings, "busy", "plan.json", days=3)
    make_job(settings, "busy", "segments/00007.json", days=1)
    assert sweep(settings) == ["job old"]
    assert not old.exists()
    assert names(young) == ["job.lock", "plan.json", "segments"]
    assert (busy / "segments").exists()


def test_of_a_finished_job_the_result_stays(settings: Settings) -> None:
    job = make_job(settings, "done", "plan.json", "result.json", "preview.jpg", "job.lock", days=3)
    assert sweep(settings) == ["job done"]
    assert names(job) == ["job.lock", "result.json"]
    assert sweep(settings) == []


def test_a_job_that_a_run_holds_stays_however_old(settings: Settings) -> None:
    job = make_job(settings, "held", "plan.json", "job.lock", days=30)
    with hold_lock(job / "job.lock", timeout=0, on_wait=lambda: None):
        age(job, 30)
        assert sweep(settings) == []
    assert sweep(settings) == ["job held"]


@pytest.mark.parametrize("write", [write_record, write_plan], ids=["version-before", "today"])
def test_sources_go_unless_a_job_may_need_them(
    settings: Settings, write: Callable[[Path, Plan], object]
) -> None:
    used = "cd" * 32
    plan = build_plan(make_info(), used, make_options())
    folder = settings.work_dir / "jobs" / "unfinished"
    folder.mkdir(parents=True)
    write(folder / "plan.json", plan)
    kept = [
        make(settings.work_dir / "sources" / used, days=9),
        make(settings.work_dir / "sources" / ("ef" * 32), days=1),
        make(settings.work_dir / "intake" / ".upload-1.part", days=9),
    ]
    gone = [
        make(settings.work_dir / "sources" / DIGEST, days=9),
        make(settings.work_dir / "intake" / DIGEST, days=9),
        make(settings.work_dir / "probes" / f"{DIGEST}.json", days=9),
    ]
    assert sweep(settings) == [f"source {DIGEST}", f"source {DIGEST}"]
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)


def test_a_download_under_way_stays(settings: Settings) -> None:
    intake = settings.work_dir / "intake"
    part, known = make(intake / "12.part", days=9), make(intake / "34.json", days=9)
    with hold_lock(intake / "12.lock", timeout=0, on_wait=lambda: None):
        assert sweep(settings) == ["download 34.json"]
        assert part.exists()
    assert not known.exists()
    assert sweep(settings) == ["download 12.part"]
    assert names(intake) == []


def test_of_a_plan_without_an_outline_the_beginning_is_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans of the version before have none, and name the source before a million times."""
    used = "cd" * 32
    folder = settings.work_dir / "jobs" / "unfinished"
    folder.mkdir(parents=True)
    plan = build_plan(make_info(pts=tuple(range(40_000))), used, make_options())
    write_record(folder / "plan.json", plan)
    assert (folder / "plan.json").stat().st_size > 2 * sweeping._HEAD_BYTES
    (folder / "plan.outline.json").mkdir()  # a folder in its place, as a bad disk leaves it
    monkeypatch.setattr(Path, "read_bytes", None)  # nobody reads a whole file
    kept = make(settings.work_dir / "sources" / used, days=9)
    assert sweep(settings) == []
    assert kept.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"source_sha256": 7', b"\xff", b"x"])
def test_a_plan_that_begins_like_none_keeps_nothing(settings: Settings, content: bytes) -> None:
    folder = settings.work_dir / "jobs" / "unfinished"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_bytes(content)
    make(settings.work_dir / "sources" / DIGEST, days=9)
    assert sweep(settings) == [f"source {DIGEST}"]


def test_copies_are_bounded_where_a_store_has_them_too(
    settings_with: Callable[..., Settings],
) -> None:
    settings = settings_with(store="s3://bucket/x", store_cache_bytes=30)
    for number, name in enumerate(("oldest", "busy", "middle", "own"), 1):
        make_job(settings, name, days=0)
        make(settings.work_dir / "jobs" / name / "plan.json", days=9 - number, content="x" * 10)
        age(settings.work_dir / "jobs" / name, days=9 - number)
    source = make(settings.sources_dir / DIGEST, days=20, content="x" * 10)
    other = make(settings.sources_dir / ("cd" * 32), days=4, content="x" * 10)

    def bounded(settings: Settings) -> list[str]:
        return bound_copies(settings, job_key="own", source_sha256=DIGEST)

    assert bounded(settings_with(store_cache_bytes=1)) == [], "without a store nothing is a copy"
    lock = settings.work_dir / "jobs" / "busy" / "job.lock"
    with hold_lock(lock, timeout=0, on_wait=lambda: None):
        assert bounded(settings) == ["job oldest"]
        assert bounded(settings.model_copy(update={"store_cache_bytes": 1})) == [
            "job middle",
            f"source {other.name}",
        ]
    assert names(settings.work_dir / "jobs") == ["busy", "own"]
    assert source.exists()


def test_the_source_of_a_job_that_another_worker_makes_here_stays(
    settings_with: Callable[..., Settings],
) -> None:
    settings = settings_with(store="s3://bucket/x", store_cache_bytes=1)
    job, used = settings.jobs_dir / "busy", "ef" * 32
    job.mkdir(parents=True)
    write_record(job / "plan.json", build_plan(make_info(pts=(0, 1, 2)), used, make_options()))
    source = make(settings.sources_dir / used, days=9, content="x" * 10)

    def bounded() -> list[str]:
        return bound_copies(settings, job_key="own", source_sha256=DIGEST)

    with hold_lock(job / "job.lock", timeout=0, on_wait=lambda: None):
        assert bounded() == []
        assert source.exists()
    assert sorted(bounded()) == ["job busy", f"source {used}"]
