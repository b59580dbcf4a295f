"""Jobs of fault tests, and the digest that each of them must end with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seedvr2_core.files.durable import file_sha256
from tests.kits.faults import FaultyJob, use_small_pictures


@pytest.fixture
def make_job(
    demo_clip: Path, tmp_path: Path, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., FaultyJob]]:
    """Make jobs, each with a work directory of its own; nothing of them runs on after the test.

    What this process and its children make of them has the same small pictures as the commands'.
    """
    use_small_pictures(monkeypatch)
    jobs: list[FaultyJob] = []

    def make(model: str = "sleep", work_dir: Path | None = None) -> FaultyJob:
        work_dir = work_dir or tmp_path / f"job{len(jobs)}"
        jobs.append(FaultyJob(clip=demo_clip, work_dir=work_dir, api_url=api_url, model=model))
        return jobs[-1]

    yield make
    for job in jobs:
        job.end()


@pytest.fixture(scope="session")
def finished(
    demo_clip: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], FaultyJob]:
    """Engine -> a job that nothing disturbed; made once."""
    jobs: dict[str, FaultyJob] = {}

    def finish(model: str) -> FaultyJob:
        if model not in jobs:
            work_dir = tmp_path_factory.mktemp(model)
            jobs[model] = FaultyJob(clip=demo_clip, work_dir=work_dir, api_url=api_url, model=model)
            assert jobs[model].finish()["frames"] == 75
        return jobs[model]

    return finish


@pytest.fixture(scope="session")
def undisturbed(finished: Callable[[str], FaultyJob]) -> Callable[[str], str]:
    """Engine -> the digest of a job that nothing disturbed."""

    def digest(model: str) -> str:
        (output,) = (finished(model).work_dir / "output").glob("*.mp4")
        return file_sha256(output)

    return digest
