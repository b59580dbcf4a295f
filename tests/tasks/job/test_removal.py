"""What a job has made is removed by each storage's own means, and from the object store."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import DeadlineError
from tasks.job.removal import remove_output
from tasks.request.shared import output_key_of
from tasks.settings import Settings
from tasks.storage import open_storage
from tasks.store import Lease, copy_of
from tests.kits.factories import preview_part
from tests.kits.http.edge import edge_settings, faulty_edge
from tests.kits.http.s3 import S3

KEY = "ab" * 32
NAME = "clip_720p_abababababab.mp4"
STEM = NAME.removesuffix(".mp4")
BESIDE = (f"{STEM}.preview.jpg", f"{STEM}.report.html", f"{STEM}.report.json")


def fill(settings: Settings, folder: Path) -> dict[str, str]:
    """Store what a job has made, and one file of another job; returns the job's result."""
    storage = open_storage(settings)
    for name in (NAME, *BESIDE, "other.mp4"):
        made = folder / f"made-{name}"
        made.write_bytes(name.encode())
        storage.put(made, name)
    job = settings.job_dir(KEY)
    job.mkdir(parents=True)
    (job / "result.json").write_text("{}")
    return {"filename": NAME, "sha256": hashlib.sha256(NAME.encode()).hexdigest()}


def check(settings: Settings, result: dict[str, str]) -> None:
    """All of the job's goes; asked again, nothing is left to do."""
    done = remove_output(settings, job_key=KEY, result=result, shared=False)
    assert done.removed == (NAME, *BESIDE, "work files")
    assert done.num_bytes == len(NAME) + 2
    storage = open_storage(settings)
    assert [storage.stat(name) for name in (NAME, *BESIDE)] == [None] * 4
    assert storage.stat("other.mp4") is not None
    assert not settings.job_dir(KEY).exists()
    again = remove_output(settings, job_key=KEY, result=result, shared=False)
    assert (again.removed, again.kept, again.num_bytes) == ((), (), 0)


def test_a_folder(settings_with: Callable[..., Settings], tmp_path: Path) -> None:
    settings = settings_with()
    check(settings, fill(settings, tmp_path))


def test_a_bucket(s3: S3, settings_with: Callable[..., Settings], tmp_path: Path) -> None:
    fields = s3.settings(storage="s3", s3_outputs=f"s3://{s3.bucket}/videos")
    settings = settings_with(**fields)
    check(settings, fill(settings, tmp_path))


def test_a_storage_zone(tmp_path: Path) -> None:
    with faulty_edge(tmp_path / "edge") as edge:
        settings = edge_settings(edge, tmp_path)
        check(settings, fill(settings, tmp_path))


def test_an_output_that_another_job_has_stays(
    settings_with: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_with()
    result = fill(settings, tmp_path)
    done = remove_output(settings, job_key=KEY, result=result, shared=True)
    assert done.removed == ()
    assert NAME in done.kept[0]
    assert open_storage(settings).stat(NAME) is not None
    assert settings.job_dir(KEY).exists()


def test_the_object_store(s3: S3, settings_with: Callable[..., Settings], tmp_path: Path) -> None:
    """Nothing of the job stays there either, and a run that holds it is left alone."""
    settings = settings_with(**s3.settings(store=s3.address))
    result = fill(settings, tmp_path)
    copy = copy_of(KEY, settings)
    assert copy is not None
    for name in (f"results/{KEY}.json", f"jobs/{KEY}/plan.json", f"jobs/{KEY}/segments/0.json"):
        copy.bucket.write(name, b"{}")
    copy.bucket.write("results/other.json", b"{}")
    lease = Lease(copy.bucket, KEY, run_id="1", label="a run", holder="x", seconds=90.0)
    assert not lease.take()
    with pytest.raises(DeadlineError, match="a run"):
        remove_output(settings, job_key=KEY, result=result, shared=False)
    assert open_storage(settings).stat(NAME) is not None
    lease.give_back()
    done = remove_output(settings, job_key=KEY, result=result, shared=False)
    assert "work files" in done.removed
    assert copy.bucket.names("jobs") == []
    assert copy.bucket.names("results") == ["results/other.json"]


def test_names_beside_it_are_those_that_the_result_tells(
    settings_with: Callable[..., Settings], tmp_path: Path
) -> None:
    """Where the plain name was taken they have a number, or a signed address."""
    settings = settings_with()
    result = fill(settings, tmp_path)
    folder = settings.storage_dir
    numbered = (f"{STEM}.preview-1.jpg", f"{STEM}.report-1.html", f"{STEM}.report-1.json")
    for plain, name in zip(BESIDE, numbered, strict=True):
        (folder / plain).rename(folder / name)
    (folder / "preview.jpg").write_text("not the job's")
    told = {
        **result,
        "preview_url": f"https://cdn.test/x/{numbered[0]}?token=a/b.jpg",
        "report_path": str(folder / numbered[1]),
    }
    done = remove_output(settings, job_key=KEY, result=told, shared=False)
    assert set(done.removed) == {NAME, *numbered, "work files"}
    assert sorted(path.name for path in folder.iterdir()) == ["other.mp4", "preview.jpg"]


def test_of_a_preview_the_segments_stay_for_the_whole_job(
    settings_with: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = settings_with()
    result = fill(settings, tmp_path)
    shown = preview_part()
    own, job = settings.job_dir(KEY) / "preview-50-75", settings.job_dir(KEY)
    own.mkdir()
    (own / "result.json").write_text("{}")
    before = tmp_path / "before.mp4"
    before.write_bytes(b"before")
    open_storage(settings).put(before, f"{STEM}.before.mp4")
    told = {**result, "preview": shown.model_dump()}
    done = remove_output(settings, job_key=KEY, result=told, shared=False)
    assert set(done.removed) == {NAME, *BESIDE, f"{STEM}.before.mp4", "work files"}
    assert not own.exists()
    assert (job / "result.json").exists()
    assert output_key_of(KEY, shown) not in (KEY, output_key_of(KEY, None))
