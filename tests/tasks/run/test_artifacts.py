"""The progress and result artifacts: their stored form, and what is read from it.

The literals are what the last version wrote: databases that hold them must stay readable.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact

from seedvr2_core.planning.sizes import output_name
from tasks.run import PROGRESS_KEY, RESULT_KEY, publish_result, read_progress, read_result
from tasks.run.artifacts import (
    MOST_CHARACTERS,
    SavedProgress,
    newest_artifact,
    save_progress,
)
from tasks.schemas import Prospect, UpscaleResult
from tests.kits.factories import preview_part

PROSPECT_JSON = (
    '{"job_key":"0123456789abcccc","output_name":"clip_720p_0123456789ab.mp4","engine":"lanczos",'
    '"width":1280,"height":720,"frames":75,"input_size_mb":0.5,"eta_seconds":1000.0,'
    '"job_limit_seconds":7200.0,"notes":["a note"]}'
)
STORED_PROGRESS = {
    "id": "3f0a2b0e-7a0f-4a1e-9d43-4e3a2f1c0b5d",
    "created": "2026-11-23T11:50:00.123456Z",
    "updated": "2026-11-23T11:59:59.900000Z",
    "key": "upscale-progress",
    "type": "progress",
    "description": "encode: 30 of 75 frames -> clip_720p_0123456789ab.mp4",
    "data": 39.6,
    "metadata_": {
        "beat_at": "2026-11-23T11:59:59.250+00:00",
        "phase": "encode",
        "stall_limit": "120.0",
        "deadline": "2026-11-23T13:50:00+00:00",
        "job": PROSPECT_JSON,
    },
    "flow_run_id": "8c1f6c52-96c1-4b5a-9f0f-0d6f0f0a7a11",
    "task_run_id": None,
}
STORED_ROW = {
    "filename": "clip_720p_0123456789ab.mp4",
    "cdn_url": None,
    "output_path": "/work/output/clip_720p_0123456789ab.mp4",
    "width": 1280,
    "height": 720,
    "frames": 75,
    "seconds": 12.5,
    "engine": "lanczos",
    "input_size_mb": 0.5,
    "output_size_mb": 2.25,
    "segments_reused": 0,
    "notes": ["a note"],
    "preview_path": None,
    "status": "completed",
    "sha256": "ab" * 32,
    "job_key": "0123456789abcccc",
    "job_id": "8c1f6c52-96c1-4b5a-9f0f-0d6f0f0a7a11",
}
STORED_RESULT = {
    "id": "5d1c0f7e-3b52-4c0e-8f67-6c2a4b8e9d10",
    "created": "2026-11-23T12:01:00Z",
    "key": "upscale-result",
    "type": "table",
    "description": "/work/output/clip_720p_0123456789ab.mp4\n\n1280x720, 75 frames, 0.5 MB -> ...",
    "data": json.dumps([STORED_ROW]),
    "metadata_": None,
    "flow_run_id": "8c1f6c52-96c1-4b5a-9f0f-0d6f0f0a7a11",
}


def stored(literal: dict[str, object], **changes: object) -> Artifact:
    """An artifact as the server's JSON gives it."""
    return Artifact.model_validate(literal | changes)


def progress(**changes: object) -> SavedProgress:
    """What STORED_PROGRESS says."""
    told = SavedProgress(
        phase="encode",
        percent=39.6,
        description="encode: 30 of 75 frames -> clip_720p_0123456789ab.mp4",
        beat_at=datetime(2026, 11, 23, 11, 59, 59, 250_000, tzinfo=UTC),
        stall_seconds=120.0,
        deadline=datetime(2026, 11, 23, 13, 50, tzinfo=UTC),
        prospect_json=PROSPECT_JSON,
        began_at=datetime(2026, 11, 23, 11, 50, 0, 123_456, tzinfo=UTC),
        renewed_at=datetime(2026, 11, 23, 11, 59, 59, 900_000, tzinfo=UTC),
    )
    return replace(told, **changes)  # type: ignore[arg-type]


def result() -> UpscaleResult:
    """What STORED_RESULT says."""
    return UpscaleResult.model_validate(STORED_ROW)


def test_the_stored_progress_is_read() -> None:
    found = read_progress([stored(STORED_PROGRESS)])
    assert found == progress()
    assert found.prospect == Prospect(
        job_key="0123456789abcccc",
        output_name="clip_720p_0123456789ab.mp4",
        engine="lanczos",
        width=1280,
        height=720,
        frames=75,
        input_size_mb=0.5,
        eta_seconds=1000.0,
        job_limit_seconds=7200.0,
        notes=("a note",),
    )


def test_what_a_run_says_of_frames_and_time_left_is_read_back() -> None:
    told = {"frames": "30", "num_frames": "75", "seconds_left": "12.5", "detail": "a wait"}
    found = read_progress([stored(STORED_PROGRESS, metadata_=told)])
    assert (found.frames, found.num_frames, found.seconds_left) == (30, 75, 12.5)
    assert found.detail == "a wait"


def test_the_stored_result_is_read() -> None:
    assert read_result([stored(STORED_RESULT)]) == STORED_ROW


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metadata_": None}, SavedProgress(percent=39.6)),
        ({"metadata_": {"phase": "load"}}, SavedProgress(percent=39.6, phase="load")),
        ({"metadata_": {}, "data": None}, SavedProgress()),
        ({"metadata_": {}, "data": "no number"}, SavedProgress()),
    ],
    ids=["no metadata", "phase only", "no data", "text"],
)
def test_what_a_progress_does_not_say_is_none(
    changes: dict[str, object], expected: SavedProgress
) -> None:
    found = read_progress(
        [stored(STORED_PROGRESS, description=None, created=None, updated=None, **changes)]
    )
    assert found == expected
    assert found.prospect is None


def test_runs_without_artifacts_say_nothing() -> None:
    assert read_progress([]) == SavedProgress()
    assert read_progress([stored(STORED_RESULT)]) == SavedProgress()
    assert read_result([]) == {}
    assert read_result([stored(STORED_PROGRESS)]) == {}
    assert read_result([stored(STORED_RESULT, data=None)]) == {}
    assert read_result([stored(STORED_RESULT, data="[]")]) == {}


def test_the_newest_of_each_kind_is_read() -> None:
    artifacts = [
        stored(STORED_RESULT, data=json.dumps([STORED_ROW | {"filename": "new.mp4"}])),
        stored(STORED_PROGRESS, data=100.0),
        stored(STORED_RESULT),
        stored(STORED_PROGRESS),
    ]
    assert read_progress(artifacts) == progress(percent=100.0)
    assert read_result(artifacts)["filename"] == "new.mp4"


def raw(run_id: UUID, key: str) -> Artifact:
    """The newest artifact as it is stored."""
    with get_client(sync_client=True) as client:
        (found,) = newest_artifact(client, run_id, key)
    return found


def test_progress_is_stored_as_before(in_api: None) -> None:
    run_id = uuid4()
    artifact_id = save_progress(run_id, SavedProgress(phase="load", percent=0.0), None)
    assert raw(run_id, PROGRESS_KEY).metadata_ == {"phase": "load"}
    assert save_progress(run_id, progress(), artifact_id) == artifact_id
    found = raw(run_id, PROGRESS_KEY)
    assert found.metadata_ == STORED_PROGRESS["metadata_"]
    assert (found.data, found.description) == (39.6, STORED_PROGRESS["description"])
    assert (found.key, found.type, found.flow_run_id) == ("upscale-progress", "progress", run_id)
    assert read_progress([found]) == progress(began_at=found.created, renewed_at=found.updated)


def test_only_the_beginning_of_progress_is_an_event(
    in_api: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect keeps events for a week, and progress is renewed up to once a second for hours."""
    sent: list[str] = []
    monkeypatch.setattr(
        "prefect.events.utilities.emit_event", lambda event, **_: sent.append(event)
    )
    run_id = uuid4()
    artifact_id = save_progress(run_id, SavedProgress(phase="load", percent=0.0), None)
    for percent in (1.0, 2.0, 3.0):
        save_progress(run_id, SavedProgress(phase="load", percent=percent), artifact_id)
    assert raw(run_id, PROGRESS_KEY).data == 3.0
    assert sent == ["prefect.artifact.created"]


def longest_job() -> Prospect:
    """A preview with the longest names and with long notes."""
    return Prospect(
        job_key="c" * 64,
        output_name=output_name("n" * 120 + ".mp4", "1080p", "c" * 64),
        source_name="n" * 250 + ".mp4",
        engine="seedvr2-7b-sharp",
        width=10_000,
        height=10_000,
        frames=1_000_000,
        input_size_mb=50_000.123,
        eta_seconds=100_000 / 3,
        job_limit_seconds=1_000_000 / 3,
        notes=("the source has no sound, as this long note says",) * 5,
        preview=preview_part(segments=tuple(range(200, 300))),
    )


def test_a_job_that_is_longer_than_a_value_may_be_is_read_whole(in_api: None) -> None:
    """Prefect cuts values; who recovers a preview must not take it for the whole job."""
    run_id, longest = uuid4(), longest_job()
    told = SavedProgress(phase="planned", prospect_json=longest.model_dump_json())
    assert len(told.prospect_json or "") > 3 * MOST_CHARACTERS
    save_progress(run_id, told, None)
    found = raw(run_id, PROGRESS_KEY)
    assert str((found.metadata_ or {})["job"]).endswith("..."), "as versions before read it"
    assert read_progress([found]).prospect == longest


@pytest.mark.parametrize("num_characters", [499, 500, 501, 1000, 1001])
def test_a_text_of_any_length_comes_back(in_api: None, num_characters: int) -> None:
    run_id, text = uuid4(), ("ä0123456789" * 100)[:num_characters]
    save_progress(run_id, SavedProgress(prospect_json=text), None)
    assert read_progress([raw(run_id, PROGRESS_KEY)]).prospect_json == text


def test_a_job_of_an_older_version_is_read_without_its_long_notes() -> None:
    text = longest_job().model_copy(update={"source_name": "a.mp4"}).model_dump_json()
    cut = stored(STORED_PROGRESS, metadata_={"job": text[:MOST_CHARACTERS] + "..."})
    found = read_progress([cut]).prospect
    assert found is not None
    assert (found.job_key, found.notes) == ("c" * 64, ())


def test_a_result_is_stored_in_two_columns_and_read_as_before(in_api: None) -> None:
    run_id = uuid4()
    told = result().model_copy(
        update={
            "job_id": str(run_id),
            "notes": ("a note", "another\nnote"),
            "tags": ("trailer", "4k master"),
            "metadata": {"order": 17, "who": "Åse"},
            "preview_url": "http://127.0.0.1:8001/clip.preview.jpg",
            "report_url": "http://127.0.0.1:8001/clip.report.html",
        }
    )
    publish_result(told)
    found = raw(run_id, RESULT_KEY)
    assert (found.key, found.type) == ("upscale-result", "table")
    rows = json.loads(str(found.data))
    assert {tuple(row) for row in rows} == {("what", "value")}
    assert rows[0] == {"what": "filename", "value": told.filename}, "what people look for is first"
    assert "![before and after](http://127.0.0.1:8001/clip.preview.jpg)" in str(found.description)
    assert "[report](http://127.0.0.1:8001/clip.report.html)" in str(found.description)
    expected = told.model_dump(mode="json")
    assert read_result([found]) == expected | {"notes": ["a note", "another note"]}
    again = UpscaleResult.model_validate(read_result([found]))
    assert (again.tags, again.metadata) == (told.tags, told.metadata)


def test_a_result_without_a_picture_or_notes_has_none(in_api: None) -> None:
    run_id = uuid4()
    publish_result(result().model_copy(update={"job_id": str(run_id), "notes": ()}))
    found = raw(run_id, RESULT_KEY)
    assert "![" not in str(found.description)
    assert read_result([found])["notes"] == []
