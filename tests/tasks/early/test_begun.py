"""Segments that were made before all cuts were known: the job takes over those that fit, and only
those."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning import Plan, build_plan
from seedvr2_core.planning.outline import PlanOutline, obeying, outline_of
from seedvr2_core.planning.plan import CutList
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import probe_video
from tasks.early.begun import SettledCuts, begun_early, early_part, take_over
from tasks.early.search import Settled
from tasks.run.spending import Spent
from tasks.schemas import FetchedSource, PlannedJob, ProbedSource
from tasks.settings import Settings, get_settings
from tests.kits.factories import make_options, planned_job
from tests.kits.media import ffmpeg
from tests.kits.pipeline import KeepTorch, make_segments, packets, sidecars, use_small_pictures
from tests.kits.restorer import ENGINE

CUTS = (11, 25, 31, 60, 66, 80)
UNTIL = 62
KNOWN = CUTS[:4]
"""Those up to that frame."""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("early") / "film.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x18:r=25:d=3.6", "-c:v", "ffv1", path)
    return path


@pytest.fixture(autouse=True)
def settings(settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    use_small_pictures(monkeypatch)
    return settings_with()


def planned(film: Path, cuts: tuple[int, ...], **changes: Any) -> Plan:
    """A plan of the tiny network, in windows of three latents, by these cuts."""
    engine = dataclasses.replace(ENGINE, name="tiny", window=3, overlap=1)
    detector = "all of them" if cuts == CUTS else f"the first {len(cuts)}"
    options = dataclasses.replace(
        make_options(segment_seconds=0.4, preset="ultrafast", cpu_count=1, cut_detector=detector),
        engine=engine,
        **changes,
    )
    return build_plan(probe_video(film), "0" * 64, options, cuts=cuts)


def job_of(plan: Plan) -> PlannedJob:
    """The job of a plan, whose directory has the plan alone."""
    names = JobDir(get_settings().job_dir(plan.job_key))
    names.path.mkdir(parents=True, exist_ok=True)
    write_plan(names.plan_path, plan)
    changes = {
        "job_key": plan.job_key,
        "job_dir": names.path,
        "num_segments": len(plan.segments),
        "num_frames": plan.video.num_frames,
    }
    elsewhere = get_settings().work_dir / uuid4().hex
    return planned_job(elsewhere).model_copy(update=changes)


def probed_with(film: Path, cuts: tuple[int, ...], detector: str = "") -> ProbedSource:
    """The source, with a file of these cuts."""
    folder = get_settings().probes_dir
    folder.mkdir(parents=True, exist_ok=True)
    info, path = folder / "film.json", folder / f"{len(cuts)}.cuts.json"
    write_record(info, probe_video(film))
    write_record(path, CutList(detector=detector, frames=cuts))
    return ProbedSource(
        source=FetchedSource(path=film, sha256="0" * 64, num_bytes=1, name="film.mkv"),
        info_path=info,
        video=read_record(info, VideoInfo).outline,
        devices=(),
        cpu_count=1,
        cuts_path=path,
    )


def restore(plan: Plan, job: PlannedJob, film: Path) -> None:
    """Make those segments that the job is asked for and that are not there."""
    there = sidecars(plan, job.job_dir)
    with KeepTorch():
        make_segments(plan, job.job_dir, film, [k for k in job.segments if there[k] is None])


def begin_early(film: Path, plan: Plan, *, fresh: bool = False) -> PlannedJob:
    """Do what a run does until the search for cuts has come to UNTIL."""
    probed = probed_with(film, KNOWN)
    assert probed.cuts_path is not None
    settled = Settled(until=UNTIL, path=probed.cuts_path)
    with early_part(job_of(plan), probed, settled, fresh=fresh) as part:
        assert part is not None
        restore(plan, part, film)
        return part


def test_the_job_takes_over_what_was_made_and_has_the_same_bytes(film: Path) -> None:
    early, whole = planned(film, KNOWN), planned(film, CUTS)
    assert early.job_key != whole.job_key
    undisturbed = job_of(planned(film, CUTS, notes=("elsewhere",)))
    alone = get_settings().work_dir / "alone"
    with KeepTorch():
        make_segments(whole, alone, film, range(len(whole.segments)))

    part = begin_early(film, early)
    assert part.early is not None
    assert 2 <= len(part.early) < len(whole.segments) - 1
    names = JobDir(part.job_dir)
    made = {k: names.video_path(k).stat().st_ino for k in part.early}
    assert any(names.latents_path(k).is_file() for k in part.early), "a divided shot is among them"
    write_record(names.spent_path, Spent(device_seconds=7.5))

    job = job_of(whole)
    assert job.job_dir == undisturbed.job_dir
    target = JobDir(job.job_dir)
    target.segments_path.mkdir()
    write_record(target.spent_path, Spent(device_seconds=2.0))
    take_over(job, probed_with(film, CUTS), fresh=False)
    assert not part.job_dir.exists()
    assert {k: target.video_path(k).stat().st_ino for k in part.early} == made
    assert read_record(target.spent_path, Spent).device_seconds == 9.5
    there = [one.index for one in sidecars(whole, job.job_dir) if one is not None]
    assert there == list(part.early)
    restore(whole, job, film)
    assert packets(whole, job.job_dir) == packets(whole, alone)
    assert not list(job.job_dir.rglob("*.part"))
    take_over(job, probed_with(film, CUTS), fresh=False)  # there is nothing more


def test_a_job_that_was_killed_while_it_took_over_goes_on(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the second sidecar has its new place: no segment is lost or made twice."""
    early, whole = planned(film, KNOWN), planned(film, CUTS)
    part, job = begin_early(film, early), job_of(whole)

    class KilledError(BaseException):
        pass

    def write(path: Path, record: object) -> None:
        if path.name == "00001.json":
            raise KilledError
        write_record(path, record)

    probed = probed_with(film, CUTS)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.early.begun.write_record", write)
        with pytest.raises(KilledError):
            take_over(job, probed, fresh=False)
    assert [s.index for s in sidecars(whole, job.job_dir) if s] == [0]
    take_over(job, probed_with(film, CUTS), fresh=False)
    assert [s.index for s in sidecars(whole, job.job_dir) if s] == list(part.segments)


def test_a_later_mark_takes_over_what_an_earlier_one_has(film: Path) -> None:
    first, later = planned(film, CUTS[:3]), planned(film, KNOWN)
    probed = probed_with(film, CUTS[:3])
    assert probed.cuts_path is not None
    with early_part(
        job_of(first), probed, Settled(until=40, path=probed.cuts_path), fresh=False
    ) as part:
        assert part is not None
        restore(first, part, film)
    made = sidecars(first, part.job_dir)
    again = begin_early(film, later)
    assert not part.job_dir.exists()
    kept = sidecars(later, again.job_dir)
    assert [s.seconds for s in kept if s][: len(part.segments)] == [s.seconds for s in made if s]
    with early_part(  # and never the other way round
        job_of(first), probed, Settled(until=40, path=probed.cuts_path), fresh=False
    ):
        assert sidecars(later, again.job_dir) == kept


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda early, target: _other_cuts(early), "its cuts are others now"),
        (lambda early, target: _other_memory(target), "planned for other memory"),
        (lambda early, target: _other_kernels(early, target), "chosen other kernels"),
    ],
    ids=["cuts", "memory", "kernels"],
)
def test_what_would_not_have_the_same_bytes_is_made_again(
    film: Path,
    spoil: Callable[[JobDir, JobDir], None],
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    part, job = begin_early(film, planned(film, KNOWN)), job_of(planned(film, CUTS))
    write_record(JobDir(part.job_dir).spent_path, Spent(device_seconds=7.5))
    spoil(JobDir(part.job_dir), JobDir(job.job_dir))
    caplog.set_level("INFO")
    take_over(job, probed_with(film, CUTS), fresh=False)
    assert told in caplog.text
    target = JobDir(job.job_dir)
    assert not list(target.segments_path.glob("0*.json"))
    assert not part.job_dir.exists()
    assert read_record(target.spent_path, Spent).device_seconds == 7.5, "it was spent all the same"


def _other_cuts(early: JobDir) -> None:
    known = read_record(early.early_path, SettledCuts)
    write_record(early.early_path, dataclasses.replace(known, frames=(10, *known.frames[1:])))


def _other_memory(target: JobDir) -> None:
    plan = read_record(target.outline_path, PlanOutline)
    write_record(target.outline_path, dataclasses.replace(plan, torch_threads=7))


def _other_kernels(early: JobDir, target: JobDir) -> None:
    for names, way in ((early, "triton"), (target, "torch")):
        chosen = {"key": {"way": way, "seconds": {"triton": 1.0, "torch": 2.0}}}
        names.kernels_path.write_text(json.dumps(chosen))


def test_other_jobs_of_the_source_are_left_alone(film: Path) -> None:
    part = begin_early(film, planned(film, KNOWN))
    other = job_of(planned(film, CUTS, crf=30))
    for fresh in (False, True):
        take_over(other, probed_with(film, CUTS), fresh=fresh)
        assert all(sidecars(planned(film, KNOWN), part.job_dir)[k] for k in part.segments)
    assert not list(JobDir(other.job_dir).segments_path.glob("0*.json"))


def test_a_fresh_start_has_nothing_of_earlier_runs(film: Path) -> None:
    plan = planned(film, KNOWN)
    part = begin_early(film, plan)
    JobDir(part.job_dir).video_path(0).write_bytes(b"of an earlier run")
    again = begin_early(film, plan, fresh=True)
    assert JobDir(again.job_dir).video_path(0).read_bytes() != b"of an earlier run"
    job = job_of(planned(film, CUTS))
    take_over(job, probed_with(film, CUTS), fresh=True)
    assert not part.job_dir.exists()
    assert not list(JobDir(job.job_dir).segments_path.glob("0*.json"))


def test_only_one_run_makes_an_early_part(film: Path) -> None:
    plan, probed = planned(film, KNOWN), probed_with(film, KNOWN)
    assert probed.cuts_path is not None
    settled = Settled(until=UNTIL, path=probed.cuts_path)
    with early_part(job_of(plan), probed, settled, fresh=False) as mine:
        assert mine is not None
        with early_part(job_of(plan), probed, settled, fresh=False) as theirs:
            assert theirs is None
        take_over(job_of(planned(film, CUTS)), probed_with(film, CUTS), fresh=False)
        assert mine.job_dir.exists(), "what is at work is not taken away"


def test_the_whole_plan_obeys_the_memory_settings_of_the_early_one(film: Path) -> None:
    """Even where it would take others by itself, as the memory that is free may have changed."""
    early, whole = planned(film, KNOWN), planned(film, CUTS)
    assert early.memory is not None
    begun = dataclasses.replace(
        outline_of(early), memory=dataclasses.replace(early.memory, encoder_slice=1)
    )
    other = dataclasses.replace(begun, width=64)
    obeyed = obeying(whole, [other, begun])
    assert obeyed == dataclasses.replace(whole, memory=begun.memory)
    assert obeying(whole, [other]) == whole
    job_of(early)
    assert begun_early(probed_with(film, KNOWN).info_path, get_settings()) == ()
    part = begin_early(film, early)
    found = begun_early(probed_with(film, KNOWN).info_path, get_settings())
    assert found == (JobDir(part.job_dir).outline_path,)
