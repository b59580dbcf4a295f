"""Two machines without a common disk: what one has made, the other finds in the object store."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.logging import disable_run_logger

from flows.upscale import upscale
from seedvr2_core.files import file_sha256, read_record, write_record
from seedvr2_core.video.info import VideoInfo
from tasks.estimate import estimate
from tasks.fetch import fetch
from tasks.job.removal import remove_output
from tasks.net.bucket import Bucket
from tasks.probe import probe
from tasks.schemas import UpscaleRequest, UpscaleResult
from tasks.settings import Settings, get_settings, use_settings
from tasks.sources.kept import keep_upload
from tasks.store import Lease
from tests.kits.deployed import QUICK, attempt, deploy
from tests.kits.http.s3 import S3

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_api")]


@pytest.fixture
def machine(
    s3: S3, settings_with: Callable[..., Settings], tmp_path: Path
) -> Callable[..., Settings]:
    """Become a machine with a work directory of its own."""

    def become(name: str, **fields: Any) -> Settings:
        own = {
            "work_dir": tmp_path / name,
            "store": s3.address,
            "storage": "s3",
            "s3_outputs": f"s3://{s3.bucket}/done",
            "allow_cpu_engine": True,
            "segment_seconds": 1.5,
            **fields,
        }
        return settings_with(**s3.settings(**own))

    return become


def sent_to(settings: Settings, clip: Path) -> dict[str, Any]:
    """A request for a video that was sent to this machine."""
    from tasks.sources.uploads import upload_reference

    sha256 = file_sha256(clip)
    settings.intake_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clip, settings.intake_dir / sha256)
    return {**QUICK, "video_url": upload_reference(sha256, clip.name)}


@pytest.mark.long
def test_source_and_output_are_found_by_a_machine_that_has_nothing(
    machine: Callable[..., Settings], demo_clip: Path, s3: S3
) -> None:
    first = machine("first")
    asked = sent_to(first, demo_clip)
    made: Any = upscale(**asked)
    assert not made.already_done
    second = machine("second")
    found: Any = upscale(**asked)
    assert found.already_done
    assert (found.sha256, found.filename) == (made.sha256, made.filename)
    assert [path.name for path in second.sources_dir.iterdir()] == [file_sha256(demo_clip)]
    assert found.source_name == demo_clip.name

    machine("third")
    again: Any = upscale(**asked, fresh=True, max_workers=3)
    assert not again.already_done
    assert (again.sha256, again.filename) == (made.sha256, made.filename)
    bucket = Bucket(s3.address, second)
    assert {name.split("/")[0] for name in bucket.names("")} == {"results", "sources"}


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.long
def test_a_machine_keeps_no_more_than_its_bound_and_the_store_has_the_rest(
    machine: Callable[..., Settings], demo_clip: Path
) -> None:
    """Jobs one after another, each with a video of its own that was sent to another machine."""
    size = 0
    asked: list[dict[str, Any]] = []
    made: list[Any] = []
    for number in range(4):
        gateway = machine("gateway")
        own = gateway.work_dir.parent / f"clip{number}.mp4"
        unread = b"\0\0\0\x08free" * number  # empty atoms, which nobody reads
        own.write_bytes(demo_clip.read_bytes() + unread)
        asked.append(sent_to(gateway, own))
        keep_upload(UpscaleRequest(**asked[-1]), gateway)
        settings = machine("small", store_cache_bytes=max(1, size * 5 // 2))
        made.append(upscale(**asked[-1]))
        folders = {path.name: bytes_below(path) for path in settings.jobs_dir.iterdir()}
        sources = {path.name: path.stat().st_size for path in settings.sources_dir.iterdir()}
        everything = sum(folders.values()) + sum(sources.values())
        beside = everything - folders[made[-1].job_key] - sources[file_sha256(own)]
        size = size or everything
        print(f"{everything} bytes in all, {beside} beside the last; {settings.store_cache_bytes}")
        assert beside <= settings.store_cache_bytes, (folders, sources)
        assert number == 0 or beside > 0, "what fits stays"
    again: Any = upscale(**asked[0])
    assert again.already_done
    assert again.sha256 == made[0].sha256


@pytest.mark.long
def test_cuts_are_looked_for_once_on_all_machines(
    machine: Callable[..., Settings], demo_clip: Path
) -> None:
    first = machine("first", test_engines=True, allow_local_files=True)
    request = UpscaleRequest(video_path=str(demo_clip), model="tiny", resolution="720p")
    with disable_run_logger():
        probed = probe.fn(fetch.fn(request), request)
        assert probed.cuts_path is not None
        assert probed.cuts_path.is_relative_to(first.work_dir)
        found = probed.cuts_path.read_bytes()
        second = machine("second", test_engines=True, allow_local_files=True)
        again = probe.fn(fetch.fn(request), request, cuts="short")
    assert again.cuts_path is not None
    assert again.cuts_path.is_relative_to(second.work_dir)
    assert again.cuts_path.read_bytes() == found


@pytest.mark.long
def test_cuts_of_a_long_video_that_no_machine_knows_are_left_to_others(
    machine: Callable[..., Settings], demo_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.probe.MOST_FRAMES_HERE", 74)
    machine("first", test_engines=True, allow_local_files=True)
    request = UpscaleRequest(video_path=str(demo_clip), model="tiny", resolution="720p")
    with disable_run_logger():
        assert probe.fn(fetch.fn(request), request, cuts="short").leaves_cuts
        assert probe.fn(fetch.fn(request), request, cuts="all").cuts_path is not None
        assert not probe.fn(fetch.fn(request), request, cuts="short").leaves_cuts


def test_who_looks_for_the_cuts_elsewhere_does_not_read_the_video_again(
    machine: Callable[..., Settings],
    demo_clip: Path,
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first machine's record is marked in the store, so that another one is told from it."""
    monkeypatch.setattr("tasks.probe.MOST_FRAMES_HERE", 74)
    first = machine("first", test_engines=True, allow_local_files=True)
    request = UpscaleRequest(video_path=str(demo_clip), model="tiny", resolution="720p")
    with disable_run_logger():
        assert probe.fn(fetch.fn(request), request, cuts="short").leaves_cuts
        (name,) = Bucket(s3.address, first).names("cuts")
        (record,) = first.probes_dir.iterdir()
        marked = replace(read_record(record, VideoInfo), warnings=("read by the first",))
        write_record(tmp_path / "marked.json", marked)
        Bucket(s3.address, first).write(name, (tmp_path / "marked.json").read_bytes())
        machine("second", test_engines=True, allow_local_files=True)
        probed = probe.fn(fetch.fn(request), request, cuts="none")
    assert read_record(probed.info_path, VideoInfo).warnings == ("read by the first",)


@pytest.mark.long
def test_a_later_attempt_of_a_run_finds_its_source_on_another_machine(
    machine: Callable[..., Settings],
    demo_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file that the request names was on the first machine only."""
    machine("first", allow_local_files=True)
    local = tmp_path / "Clip.mp4"
    shutil.copyfile(demo_clip, local)
    with get_client(sync_client=True) as client:
        deployment = deploy(client, upscale, "stored")
        asked = {**QUICK, "video_path": str(local), "seed": 77}
        run = client.create_flow_run_from_deployment(deployment, parameters=asked)
        with monkeypatch.context() as held:
            held.setattr(Lease, "take", lambda self: "job 1 (Clip.mp4)")
            state = attempt(client, run.id)
        assert state.name == "AwaitingRetry"
        assert str(state.message).startswith("waiting for job 1 (Clip.mp4)")

        local.unlink()
        second = machine("second", allow_local_files=True)
        state = attempt(client, run.id)
        assert state.is_completed(), state
    (job_dir,) = [path for path in second.jobs_dir.iterdir() if not path.name.startswith(".")]
    result = UpscaleResult.model_validate_json((job_dir / "result.json").read_bytes())
    assert result.source_name == "Clip.mp4"


@pytest.mark.long
def test_the_first_plan_is_obeyed_everywhere(
    machine: Callable[..., Settings], demo_clip: Path, s3: S3
) -> None:
    """Machines may plan differently, by their free memory and settings."""
    first = machine("first")
    request = UpscaleRequest(**sent_to(first, demo_clip))

    def planned() -> Any:
        with disable_run_logger():
            source = fetch.fn(request)
            assert source is not None
            return estimate.fn(request, probe.fn(source, request))

    assert planned().num_segments == 2
    second = machine("second", stall_seconds=77.0)
    job = planned()
    of_first, of_second = (s.job_dir(job.job_key) / "plan.json" for s in (first, second))
    assert of_first.read_bytes() == of_second.read_bytes()

    Bucket(s3.address, second).write(f"jobs/{job.job_key}/plan.json", b"{}")
    shutil.rmtree(second.jobs_dir)
    planned()
    assert b"77" in of_second.read_bytes(), "a plan that nobody can read is replaced"
    use_settings(first)
    planned()
    assert of_first.read_bytes() == of_second.read_bytes()


@pytest.mark.long
def test_a_preview_that_one_machine_has_made_serves_the_whole_job_of_another(
    machine: Callable[..., Settings], demo_clip: Path, s3: S3
) -> None:
    first = machine("first", segment_seconds=0.5)
    asked = sent_to(first, demo_clip)
    shown: Any = upscale(**asked, preview="1s@0:01")
    made = shown.preview.segments
    assert 1 < len(made) < 6
    work, done = Bucket(s3.address, first), Bucket(f"s3://{s3.bucket}/done", first)
    stem = Path(shown.filename).stem
    clips = {f"{stem}.mp4", f"{stem}.before.mp4", f"{stem}.preview.jpg"}
    assert set(done.names("")) == clips
    assert work.names("results") == [], "the whole job has no result yet"

    machine("second", segment_seconds=0.5)
    film: Any = upscale(**asked)
    assert (film.segments_reused, film.preview, film.frames) == (len(made), None, 75)
    assert f"{len(made)} segments kept from the preview" in film.notes
    assert [name for name in work.names("jobs") if "/segments/" in name] == []

    third = machine("third", segment_seconds=0.5)
    again: Any = upscale(**asked, preview="1s@0:01")
    assert (again.sha256, again.preview) == (film.sha256, None), "there is nothing left to show"
    removal = remove_output(
        third,
        job_key=shown.job_key,
        result=UpscaleResult.model_validate(shown).model_dump(),
        shared=False,
    )
    assert set(removal.removed) >= clips
    assert film.filename in done.names(""), "only the preview's files are removed"
    assert work.names("results"), "and the film is still known"


@pytest.mark.long
def test_another_codec_comes_from_masters_that_another_machine_has_made(
    machine: Callable[..., Settings], demo_clip: Path, tmp_path: Path
) -> None:
    first = machine("first", test_engines=True)
    asked = sent_to(first, demo_clip) | {"model": "sleep"}
    made: Any = upscale(**asked, keep_master=True)
    assert any("the object store has the master too" in note for note in made.notes)
    second = machine("second", test_engines=True)
    shutil.copytree(first.intake_dir, second.intake_dir)
    found: Any = upscale(**asked, codec="hevc")
    assert "all segments were coded again from the master, without the engine" in found.notes
    assert (found.codec, found.engine_was_warm, found.segments_reused) == ("hevc", None, 0)

    fields = {"store": None, "storage": "local", "output_dir": tmp_path / "done"}
    machine("third", test_engines=True, **fields)
    shutil.copytree(first.intake_dir, get_settings().intake_dir)
    at_once: Any = upscale(**asked, codec="hevc")
    assert (found.sha256, found.job_key) == (at_once.sha256, at_once.job_key)
