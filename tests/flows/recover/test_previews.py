"""A preview whose run is lost, and one whose time is over: the whole job is not touched."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Completed, Crashed

from flows.recover import recover
from tasks.request.shared import output_key_of
from tasks.run import publish_result
from tasks.run.artifacts import SavedProgress, save_progress
from tasks.run.retention import LABEL_DELETED, LABEL_EXPIRES, job_tag, keep_output
from tasks.settings import Settings
from tests.kits.factories import preview_part, upscale_result
from tests.kits.lost_runs import PROSPECT, LostRun, recovered, store

SHOWN = preview_part()
NAME = PROSPECT.output_name.replace(".mp4", f".{SHOWN.folder}.mp4")
PREVIEW = PROSPECT.model_copy(
    update={
        "output_name": NAME,
        "frames": SHOWN.frames,
        "notes": ("a note that is long enough to be cut off, as those of previews are " * 8,),
        "preview": SHOWN,
    }
)
KEY = output_key_of(PROSPECT.job_key, SHOWN)


def lose(job: LostRun) -> None:
    """The run crashes after it has told what it makes, as its own record does."""
    told = SavedProgress(
        phase="upload",
        percent=98.0,
        beat_at=datetime.now(UTC),
        stall_seconds=3600.0,
        prospect_json=PREVIEW.model_dump_json(),
    )
    job.artifact_id = save_progress(job.id, told, None)
    job.becomes(Crashed(message="killed"))


def folders(settings: Settings) -> tuple[Path, Path]:
    """The whole job's folder with a segment, and in it the preview's with its clip."""
    whole = settings.job_dir(PROSPECT.job_key)
    own = whole / SHOWN.folder
    own.mkdir(parents=True)
    (whole / "segments").mkdir()
    (whole / "segments" / "00001.mp4").write_bytes(b"segment")
    return whole, own


@pytest.mark.long
def test_a_lost_preview_whose_clip_is_stored_is_completed_as_a_preview(
    settings: Settings, job: LostRun
) -> None:
    whole, own = folders(settings)
    store(settings, NAME)
    (own / "output.mp4").write_bytes((settings.storage_dir / NAME).read_bytes())
    for name in ("before.mp4", "preview.jpg"):
        (own / name).write_bytes(name.encode())
    lose(job)
    assert recovered(job) == f"crashed: Crashed; completed: {NAME}"
    (result,) = job.results()
    assert (result.filename, result.frames) == (NAME, SHOWN.stop - SHOWN.first)
    assert result.preview == SHOWN.model_copy(update={"before_path": str(own / "before.mp4")})
    assert result.preview_path == str(own / "preview.jpg")
    assert job_tag(KEY) in job.run.tags
    assert job_tag(PROSPECT.job_key) not in job.run.tags
    assert (own / "result.json").is_file()
    assert not (whole / "result.json").exists(), "the whole job has no result"


@pytest.mark.long
def test_a_lost_preview_is_not_completed_by_the_whole_film(
    settings: Settings, job: LostRun
) -> None:
    folders(settings)
    store(settings)  # the film's own file
    lose(job)
    assert recovered(job) == "crashed: Crashed; re-queued, 1"
    assert not job.results()


@pytest.mark.long
def test_an_expired_preview_goes_and_its_segments_stay(
    client: SyncPrefectClient, job: LostRun, settings: Settings
) -> None:
    whole, own = folders(settings)
    settings.storage_dir.mkdir(exist_ok=True)
    stem = NAME.removesuffix(".mp4")
    beside = (f"{stem}.preview.jpg", f"{stem}.before.mp4")
    film = PROSPECT.output_name
    for name in (NAME, *beside, film):
        (settings.storage_dir / name).write_bytes(b"video")
    until = (datetime.now(UTC) + timedelta(seconds=3600)).isoformat()
    before = str(settings.storage_dir / beside[1])
    result = upscale_result(
        NAME,
        output_path=str(settings.storage_dir / NAME),
        preview_path=str(settings.storage_dir / beside[0]),
        sha256=hashlib.sha256(b"video").hexdigest(),
        job_key=PROSPECT.job_key,
        job_id=str(job.id),
        expires_at=until,
        preview=SHOWN.model_copy(update={"before_path": before}),
    )
    publish_result(result)
    keep_output(client, job.run, KEY, until)
    job.becomes(Completed())
    recover(job.id)
    assert (settings.storage_dir / NAME).exists(), "its time is not over"
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    client.update_flow_run_labels(job.id, {LABEL_EXPIRES: past})
    state = recover(job.id, return_state=True)
    assert "expired: removed" in (state.message or "")
    assert LABEL_DELETED in job.run.labels
    assert [path.name for path in settings.storage_dir.iterdir()] == [film]
    assert not own.exists()
    assert (whole / "segments" / "00001.mp4").is_file(), "the whole job keeps what was made"
