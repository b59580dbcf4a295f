"""Verdicts on runs, the time a job has left, and whether a file in storage is a run's output."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.states import (
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Running,
    Scheduled,
)

from tasks.recovery.output import NOTE, look_once, save_result
from tasks.recovery.report import RunReport, report_on
from tasks.recovery.states import MARK
from tasks.recovery.verdicts import Verdict
from tasks.recovery.watch import seconds_left
from tasks.run import PROGRESS_KEY, read_progress
from tasks.schemas import UpscaleResult
from tasks.settings import Settings
from tasks.storage.open import open_storage
from tests.kits.lost_runs import PROSPECT as LOST

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PROSPECT = LOST.model_copy(update={"notes": ("a note",)})


def beat(
    *,
    age: float = 1.0,
    percent: float = 50.0,
    began: float = 600.0,
    renewed: float = 0.0,
    **metadata: str,
) -> Artifact:
    """A progress artifact. `age` is that of its beat, `began` that of the artifact, `renewed` that
    of its last update, in seconds.
    """
    told = {
        "beat_at": (NOW - timedelta(seconds=age)).isoformat(timespec="milliseconds"),
        "phase": "restore",
        "stall_limit": "120.0",
        "job": PROSPECT.model_dump_json(),
    }
    return Artifact(
        key=PROGRESS_KEY,
        created=NOW - timedelta(seconds=began),
        updated=NOW - timedelta(seconds=renewed),
        data=percent,
        metadata_=told | metadata,
    )


def report(
    *states: State, progress: Artifact | None = None, run_id: UUID | None = None, **fields: object
) -> RunReport:
    """The report on a run that has been in these states."""
    run = FlowRun.model_validate(
        {"id": run_id or uuid4(), "flow_id": uuid4(), "run_count": 1, "deployment_id": uuid4()}
        | fields
    )
    run.state = states[-1]
    saved = read_progress([progress] if progress else [])
    return report_on(run, states, saved, asked_for=run.id, now=NOW)


def verdict(*states: State, **how: object) -> Verdict:
    """The verdict on a run that has been in these states."""
    return report(*states, **how).verdict  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def margin(settings_with: Callable[..., Settings]) -> Settings:
    """Five minutes, and a storage of the test's own."""
    return settings_with(recover_margin_seconds=300)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (Scheduled(), "waiting"),
        (Pending(), "waiting"),
        (Paused(), "waiting"),
        (Cancelling(message="by somebody"), "waiting"),
        (Cancelled(), "ended"),
        (Completed(), "ended"),
        (Failed(), "ended"),
        (Failed(name="TimedOut"), "ended"),
        (Crashed(), "crashed"),
        (Running(), "alive"),
    ],
    ids=lambda value: value.name if isinstance(value, State) else value,
)
def test_what_a_state_means(state: State, expected: str) -> None:
    assert verdict(state, progress=beat()) == expected


def test_a_run_is_silent_only_beyond_its_stall_limit_and_the_margin() -> None:
    assert verdict(Running(), progress=beat(age=419)) == "alive"
    assert verdict(Running(), progress=beat(age=421)) == "silent"
    assert verdict(Running(), progress=beat(age=421, stall_limit="7200.0")) == "alive"


def running(age: float) -> State:
    """Running, for so many seconds."""
    return Running(timestamp=NOW - timedelta(seconds=age))


def test_a_process_that_renews_nothing_is_gone_long_before_its_work_is_silent() -> None:
    signs = {"alive_every": "10.0", "stall_limit": "7200.0"}
    for renewed, expected in ((24, "alive"), (26, "gone")):
        assert verdict(running(600), progress=beat(renewed=renewed, **signs)) == expected
    past = (NOW - timedelta(days=1)).isoformat()
    assert verdict(running(600), progress=beat(renewed=26, deadline=past, **signs)) == "gone"
    assert verdict(running(20), progress=beat(renewed=26, **signs)) == "alive", "just began"
    old = beat(renewed=26, stall_limit="7200.0")
    assert verdict(running(600), progress=old) == "alive", "of a version without such signs"


def test_a_process_that_was_killed_before_its_first_sign_is_gone_as_soon_as_any_other() -> None:
    assert verdict(running(24)) == "alive"
    assert verdict(running(26)) == "gone"


def test_a_worker_has_half_an_hour_to_start_what_it_took() -> None:
    for quiet, expected in ((1799, "waiting"), (1801, "stuck")):
        assert verdict(Pending(timestamp=NOW - timedelta(seconds=quiet))) == expected


def test_a_run_without_a_deadline_is_judged_by_its_signs_alone() -> None:
    endless = beat(age=1, began=30 * 86400)
    assert verdict(running(30 * 86400), progress=endless) == "alive"
    assert verdict(running(30 * 86400), progress=beat(age=421, began=30 * 86400)) == "silent"


def test_a_run_is_overdue_only_beyond_its_deadline_and_the_margin() -> None:
    for late, expected in ((299, "alive"), (301, "overdue")):
        deadline = (NOW - timedelta(seconds=late)).isoformat()
        assert verdict(Running(), progress=beat(deadline=deadline)) == expected


def test_what_a_recover_left_unfinished_is_told_from_what_somebody_cancelled() -> None:
    ours, theirs = Cancelling(message=MARK + "lost"), Cancelling(message="I changed my mind")
    assert verdict(Crashed(), ours) == "interrupted"
    assert verdict(Running(), ours, Cancelled()) == "interrupted"
    assert verdict(Running(), ours, Cancelled(), Running(), theirs, Cancelled()) == "ended"


def test_the_new_eta_follows_from_progress() -> None:
    for percent, began, left in (
        (50, 600, 600),
        (75, 600, 200),
        (0, 600, 1000),
        (1, 600, 6 * 3600),
    ):
        seen = report(Running(), progress=beat(percent=percent, began=began))
        assert seconds_left(seen, NOW) == pytest.approx(left)
    assert seconds_left(report(Running()), NOW) == 0


def test_two_re_queues_and_none_after_a_limit() -> None:
    for recoveries, left in ((0, True), (1, True), (2, False)):
        assert report(Crashed(), labels={"recoveries": recoveries}).may_requeue is left
    overdue = beat(deadline=(NOW - timedelta(days=1)).isoformat())
    assert not report(Running(), progress=overdue).may_requeue


def store(settings: Settings, content: bytes, name: str = PROSPECT.output_name) -> str:
    """Put a file into storage; returns its SHA-256."""
    path = settings.work_dir / "made.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    stored = open_storage(settings).put(path, name)
    path.unlink()
    return stored.sha256


def job_dir(settings: Settings) -> Path:
    folder = settings.work_dir / "jobs" / PROSPECT.job_key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lost(**fields: object) -> RunReport:
    """A crashed run that was planned ten minutes ago."""
    return report(Crashed(), progress=beat(), **fields)  # type: ignore[arg-type]


def result(settings: Settings) -> UpscaleResult:
    """The result that an earlier run of the same request published."""
    found = look_once(lost())
    assert found is not None
    return found.model_copy(update={"job_id": str(uuid4()), "seconds": 77.0, "notes": ()})


def test_nothing_is_found_where_nothing_is_stored_or_planned(margin: Settings) -> None:
    assert look_once(lost()) is None
    store(margin, b"somebody else's", "clip_720p_ffffffffffff.mp4")
    assert look_once(lost()) is None
    store(margin, b"ours")
    assert look_once(report(Crashed())) is None, "crashed before it was planned"


def test_the_planned_name_is_enough_where_the_job_directory_is_elsewhere(margin: Settings) -> None:
    digest = store(margin, b"ours")
    seen = lost()
    found = look_once(seen)
    assert found is not None
    assert (found.job_id, found.filename) == (str(seen.run_id), PROSPECT.output_name)
    assert (found.sha256, found.output_size_mb) == (digest, 0.0)
    assert (found.width, found.height, found.frames) == (1280, 720, 75)
    assert found.output_path == str(margin.storage_dir / PROSPECT.output_name)
    assert found.notes == ("a note", NOTE)
    save_result(found)
    assert not (margin.work_dir / "jobs").exists()


def test_bytes_that_were_made_here_must_be_the_bytes_there(margin: Settings) -> None:
    store(margin, b"of another device")
    (job_dir(margin) / "output.mp4").write_bytes(b"ours")
    assert look_once(lost()) is None
    digest = store(margin, b"ours")
    found = look_once(lost())
    assert found is not None
    assert (found.filename, found.sha256) == ("clip_720p_0123456789ab-1.mp4", digest)


def test_the_saved_result_is_what_is_told(margin: Settings) -> None:
    store(margin, b"ours")
    saved = result(margin)
    job_dir(margin)
    save_result(saved)
    written = json.loads((job_dir(margin) / "result.json").read_text())
    assert written == saved.model_dump(mode="json")
    seen = lost()
    found = look_once(seen)
    assert found == saved.model_copy(update={"job_id": str(seen.run_id)})


def test_the_same_source_under_another_name_is_found_too(margin: Settings) -> None:
    store(margin, b"ours")
    saved = result(margin)
    open_storage(margin).delete(PROSPECT.output_name)
    store(margin, b"ours", "other_720p_0123456789ab.mp4")
    job_dir(margin)
    save_result(saved.model_copy(update={"filename": "other_720p_0123456789ab.mp4"}))
    found = look_once(lost())
    assert found is not None
    assert found.filename == "other_720p_0123456789ab.mp4"


def test_a_file_that_was_replaced_in_storage_is_not_the_saved_one(margin: Settings) -> None:
    store(margin, b"ours")
    job_dir(margin)
    save_result(result(margin))
    open_storage(margin).delete(PROSPECT.output_name)
    store(margin, b"not ours")
    assert look_once(lost()) is None


def test_a_fresh_start_takes_only_what_it_made_itself(margin: Settings) -> None:
    store(margin, b"of an earlier run")
    assert look_once(lost(parameters={"fresh": True})) is None
    job_dir(margin)
    save_result(result(margin))
    assert look_once(lost(parameters={"fresh": True})) is None, "another run's result"
    run_id = uuid4()
    save_result(result(margin).model_copy(update={"job_id": str(run_id)}))
    found = look_once(lost(parameters={"fresh": True}, run_id=run_id))
    assert found is not None
    assert found.seconds == 77.0


def test_a_joined_file_from_before_a_fresh_start_does_not_count(margin: Settings) -> None:
    store(margin, b"ours")
    made = job_dir(margin) / "output.mp4"
    made.write_bytes(b"ours")
    for age, found in ((700, False), (100, True)):
        os.utime(made, times=(NOW.timestamp() - age,) * 2)
        assert (look_once(lost(parameters={"fresh": True})) is not None) is found
