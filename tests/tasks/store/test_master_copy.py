"""Masters in a real S3-compatible server: what one worker leaves there, another takes."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import ResourceError, StorageError
from seedvr2_core.files import file_sha256, write_record
from seedvr2_core.job.masters import Masters, MasterSidecar, ready_masters
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tasks.store.master_copy import MasterCopy, release_in_store
from tests.kits.factories import make_info, make_options
from tests.kits.http.s3 import S3


@pytest.fixture
def settings(s3: S3, settings_with: Callable[..., Settings]) -> Settings:
    return settings_with(store=s3.address, **s3.settings())


@pytest.fixture
def plan() -> PlanOutline:
    outline = outline_of(build_plan(make_info(), "a", make_options(segment_seconds=5)))
    assert len(outline.segments) == 3
    return outline


@pytest.fixture
def copy(settings: Settings, plan: PlanOutline) -> MasterCopy:
    assert settings.store is not None
    return MasterCopy(Bucket(settings.store, settings), plan.pixels_key)


def put(folder: Path, plan: PlanOutline, *indices: int, content: bytes = b"pictures") -> Masters:
    """Masters as a job leaves them."""
    masters = Masters(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        segment, pictures = plan.segments[index], content + bytes([index])
        masters.video_path(index).write_bytes(pictures)
        sidecar = MasterSidecar(
            pixels_key=plan.pixels_key,
            index=index,
            start=segment.start,
            stop=segment.stop,
            num_bytes=len(pictures),
            sha256=hashlib.sha256(pictures).hexdigest(),
            device="cpu",
            precision="",
        )
        write_record(masters.sidecar_path(index), sidecar)
    return masters


def contents(masters: Masters) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in masters.path.glob("0*")}


def test_masters_arrive_elsewhere_as_they_are(
    copy: MasterCopy, plan: PlanOutline, tmp_path: Path
) -> None:
    here = put(tmp_path / "here", plan, 0, 2)
    assert copy.indices() == set()
    assert copy.keep(here, (0, 1, 2)) == 2
    assert copy.keep(here, (0, 1, 2)) == 0, "what is known to be there is not asked for again"
    assert MasterCopy(copy.bucket, plan.pixels_key).keep(here, (0, 2)) == 0
    assert copy.indices() == {0, 2}

    there = Masters(tmp_path / "there")
    assert copy.bring(there, plan, (0, 1, 2)) == 2
    assert contents(there) == contents(here)
    assert ready_masters(there, plan) == (0, 2)


@pytest.mark.parametrize("kind", ["lost", "busy", "away"])
def test_a_bad_line_leaves_no_sidecar_without_its_pictures(
    copy: MasterCopy, plan: PlanOutline, tmp_path: Path, s3: S3, kind: str
) -> None:
    """obstore tries again by itself; whatever is left is whole."""
    here = put(tmp_path / "here", plan, 0, 1, 2)
    s3.line.fail(kind, "^PUT", times=3)
    assert copy.keep(here, (0, 1, 2)) == 3
    there = Masters(tmp_path / "there")
    assert copy.bring(there, plan, (0, 1, 2)) == 3
    assert contents(there) == contents(here)
    assert s3.line.happened


def test_one_that_was_made_anew_takes_the_place_of_the_old_one(
    copy: MasterCopy, plan: PlanOutline, tmp_path: Path
) -> None:
    copy.keep(put(tmp_path / "first", plan, 0), (0,))
    second = put(tmp_path / "second", plan, 0, content=b"other pictures")
    assert MasterCopy(copy.bucket, plan.pixels_key).keep(second, (0,)) == 1
    there = Masters(tmp_path / "there")
    assert copy.bring(there, plan, (0,)) == 1
    assert contents(there) == contents(second)


def test_pictures_that_the_store_has_lost_count_as_never_made(
    copy: MasterCopy, plan: PlanOutline, tmp_path: Path
) -> None:
    here = put(tmp_path / "here", plan, 0, 1)
    copy.keep(here, (0, 1))
    digest = file_sha256(here.video_path(0))
    copy.bucket.delete(f"{copy.folder}/00000.{digest}.mkv")
    there = Masters(tmp_path / "there")
    assert copy.bring(there, plan, (0, 1)) == 1
    assert ready_masters(there, plan) == (1,)
    assert copy.indices() == {1}


def test_what_is_damaged_or_of_other_frames_is_not_taken(
    copy: MasterCopy, plan: PlanOutline, tmp_path: Path
) -> None:
    here = put(tmp_path / "here", plan, 0, 1, 2)
    copy.keep(here, (0, 1, 2))
    copy.bucket.write(f"{copy.folder}/00001.json", b"{}")
    other = here.sidecar_path(2).read_bytes().replace(b'"start":', b'"start":1')
    copy.bucket.write(f"{copy.folder}/00002.json", other)
    there = Masters(tmp_path / "there")
    assert copy.bring(there, plan, (1, 2)) == 0
    digest = file_sha256(here.video_path(0))
    copy.bucket.write(f"{copy.folder}/00000.{digest}.mkv", b"other bytes")
    with pytest.raises(StorageError, match="expected"):
        copy.bring(there, plan, (0,))
    assert ready_masters(there, plan) == ()


def test_masters_that_do_not_fit_the_disk_are_left_there(
    copy: MasterCopy, plan: PlanOutline, tmp_path: Path
) -> None:
    here = put(tmp_path / "here", plan, 0)
    copy.keep(here, (0,))
    huge = here.sidecar_path(0).read_bytes().replace(b'"num_bytes":9', b'"num_bytes":%d' % 10**18)
    copy.bucket.write(f"{copy.folder}/00000.json", huge)
    with pytest.raises(ResourceError, match="the masters that the store has needs about"):
        copy.bring(Masters(tmp_path / "there"), plan, (0,))


def test_they_go_with_the_last_job_that_has_used_them(
    copy: MasterCopy, plan: PlanOutline, settings: Settings, tmp_path: Path
) -> None:
    copy.keep(put(tmp_path / "here", plan, 0, 1), (0, 1))
    copy.mark("first")
    copy.mark("second")
    assert not release_in_store(settings, "first")
    assert copy.indices() == {0, 1}
    assert not release_in_store(settings, "unknown")
    assert release_in_store(settings, "second")
    assert copy.bucket.names("") == []
    assert not release_in_store(settings, "second"), "asked again"


@pytest.mark.long
def test_whoever_removes_a_job_looks_only_at_what_it_has_used(
    copy: MasterCopy, plan: PlanOutline, settings: Settings, tmp_path: Path, s3: S3
) -> None:
    """However many masters the store has; and one that was ended in the middle goes on."""
    others = [MasterCopy(copy.bucket, f"{number:064x}") for number in range(3)]
    here = put(tmp_path / "here", plan, 0)
    for one in (copy, *others):
        one.keep(here, (0,))
        one.mark("first" if one is copy else "second")
    s3.line.requests.clear()
    s3.line.fail("slow", "delete", times=1)  # the first one passes: the job's mark
    s3.line.fail("busy", "delete", times=100)
    with pytest.raises(StorageError):
        release_in_store(settings, "first")
    s3.line.mend()
    assert release_in_store(settings, "first")
    listed = [line for line in s3.line.requests if "list-type" in line]
    assert listed
    assert all("first" in line or plan.pixels_key in line for line in listed), listed
    assert not [line for line in s3.line.requests if others[0].pixels_key in line]
    assert all(one.indices() == {0} for one in others)
