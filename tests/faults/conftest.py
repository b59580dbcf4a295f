"""Jobs of fault tests, and the digest that each of them must end with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seedvr2_core.files.records import file_sha256
from seedvr2_core.planning import sizes
from tests.kits.faults import SMALL_PICTURES, Job


@pytest.fixture
def make_job(
    demo_clip: Path, tmp_path: Path, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Job]]:
    """Make jobs, each with a work directory of its own; nothing of them runs on after the test.

    What this process makes of them has the same small pictures as the commands'.
    """
    monkeypatch.setattr(sizes, "BUDGETS_PX", {"720p": SMALL_PICTURES.call})
    jobs: list[Job] = []

    def make(model: str = "sleep", work_dir: Path | None = None) -> Job:
        work_dir = work_dir or tmp_path / f"job{len(jobs)}"
        jobs.append(Job(clip=demo_clip, work_dir=work_dir, api_url=api_url, model=model))
        return jobs[-1]

    yield make
    for job in jobs:
        job.end()


@pytest.fixture(scope="session")
def finished(
    demo_clip: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Job]:
    """Engine -> a job that nothing disturbed; made once."""
    jobs: dict[str, Job] = {}

    def finish(model: str) -> Job:
        if model not in jobs:
            work_dir = tmp_path_factory.mktemp(model)
            jobs[model] = Job(clip=demo_clip, work_dir=work_dir, api_url=api_url, model=model)
            assert jobs[model].finish()["frames"] == 75
        return jobs[model]

    return finish


@pytest.fixture(scope="session")
def undisturbed(finished: Callable[[str], Job]) -> Callable[[str], str]:
    """Engine -> the digest of a job that nothing disturbed."""

    def digest(model: str) -> str:
        (output,) = (finished(model).work_dir / "output").iterdir()
        return file_sha256(output)

    return digest
