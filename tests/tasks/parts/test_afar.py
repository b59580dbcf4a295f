"""What a job offers to helpers of other machines, and what one of them brings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.job.sharing import Sharing
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from tasks.net.bucket import Bucket
from tasks.parts import afar
from tasks.schemas import FetchedSource
from tasks.settings import Settings
from tasks.sources.kept import keep_source
from tasks.store import JobCopy
from tasks.store.claims import OFFER
from tests.kits.factories import make_info, make_options
from tests.kits.http.s3 import S3

RUN = uuid4()


@dataclass(kw_only=True)
class ARun:
    """What Prefect says of the run of this process."""

    id: str


@dataclass(kw_only=True)
class Job:
    """A job on another machine."""

    copy: JobCopy
    job_dir: JobDir
    plan: Plan
    sharing: Sharing

    def offer(self, **changes: object) -> bool:
        return afar._offer(self.copy, self.job_dir, replace(self.sharing, **changes))


@pytest.fixture
def settings(s3: S3, settings_with: Callable[..., Settings], tmp_path: Path) -> Settings:
    return settings_with(store=s3.address, work_dir=tmp_path / "here", **s3.settings())


@pytest.fixture
def job(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Planned, with its plan and its source in the store."""
    monkeypatch.setattr(afar, "this_run", ARun(id=str(uuid4())))
    clip = tmp_path / "there" / "clip.mp4"
    clip.parent.mkdir()
    clip.write_bytes(b"a video")
    sha256 = file_sha256(clip)
    keep_source(FetchedSource(path=clip, sha256=sha256, num_bytes=7, name="clip.mp4"), settings)
    clip.unlink()
    plan = build_plan(make_info(), sha256, make_options(segment_seconds=1))
    job_dir = JobDir(tmp_path / "there" / plan.job_key)
    job_dir.segments_path.mkdir(parents=True)
    write_plan(job_dir.plan_path, plan)
    assert settings.store is not None
    copy = JobCopy(Bucket(settings.store, settings), plan.job_key)
    assert copy.keep_plan(job_dir)
    sharing = Sharing(
        run_id=str(RUN),
        workers=3,
        device="cpu",
        source=clip,
        source_name="clip.mp4",
        source_bytes=7,
    )
    return Job(copy=copy, job_dir=job_dir, plan=plan, sharing=sharing)


def brought(job: Job, settings: Settings, run_id: UUID = RUN) -> afar.Brought | None:
    return afar.bring_job(job.plan.job_key, run_id, settings)


def test_a_helper_has_what_the_job_has(job: Job, settings: Settings) -> None:
    write_bytes(job.job_dir.kernels_path, b"{}")
    assert job.offer()
    found = brought(job, settings)
    assert found is not None
    assert found.job_dir.plan_path.read_bytes() == job.job_dir.plan_path.read_bytes()
    assert found.job_dir.outline_path.read_bytes() == job.job_dir.outline_path.read_bytes()
    assert found.job_dir.kernels_path.read_bytes() == b"{}"
    assert found.sharing.source.read_bytes() == b"a video"
    assert (found.sharing.workers, found.sharing.run_id) == (3, str(RUN))
    assert found.job_dir.path.parent == settings.helpers_dir
    (settings.sources_dir / job.plan.source_sha256).unlink()
    assert found.sharing.source.read_bytes() == b"a video", "it outlives the copies' bound"
    offered = job.copy.bucket.read(f"{job.copy.folder}/{OFFER}")
    assert offered is not None
    assert b"there" not in offered.content, "the job's paths are nobody's business"


def test_nobody_helps_a_job_that_asks_for_nothing(job: Job, settings: Settings) -> None:
    assert brought(job, settings) is None
    assert job.offer()
    assert brought(job, settings, uuid4()) is None, "another run asks"
    afar.withdraw(job.plan.job_key)
    assert brought(job, settings) is None
    job.copy.bucket.write(f"{job.copy.folder}/{OFFER}", b"of another version")
    assert brought(job, settings) is None


def test_a_plan_that_was_made_anew_meanwhile_is_not_mixed_with_the_old(
    job: Job, settings: Settings
) -> None:
    assert job.offer()
    other = build_plan(make_info(), job.plan.source_sha256, make_options(segment_seconds=2))
    write_plan(job.job_dir.plan_path, other)
    job.copy.replace_plan(job.job_dir)
    assert brought(job, settings) is None
    assert job.offer()
    assert brought(job, settings) is not None


def test_on_a_gpu_the_first_segment_comes_before_helpers(job: Job, settings: Settings) -> None:
    """It decides which kernels all of them obey."""
    assert not job.offer(device="cuda:0")
    assert brought(job, settings) is None
    job.job_dir.sidecar_path(0).write_bytes(b"{}")
    assert job.offer(device="cuda:0")
    assert brought(job, settings) is not None
