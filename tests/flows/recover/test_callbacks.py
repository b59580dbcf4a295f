"""Callbacks that a receiver does not take: kept in Prefect, and sent by the sweep of `recover`."""

import json
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter
from prefect.states import Completed, Failed

from flows.recover import recover
from tasks.recovery import callbacks
from tasks.run.callbacks import outbox
from tasks.run.callbacks.announce import Announcer
from tasks.run.callbacks.events import started_event
from tasks.run.callbacks.hook import CALLBACK_KEY, call_back
from tasks.run.record import JobProgress
from tasks.settings import Settings, use_settings
from tests.kits.http.callback import SECRET, Receiver
from tests.kits.lost_runs import LostRun

EVENTS = "started,progress,ended"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The host of a receiver that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def allowed(
    settings: Settings, receiver: Receiver, silent: str, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings with a secret, and an outbox that is patient for no time."""
    monkeypatch.setattr(outbox, "FIRST_WAIT_SECONDS", 0.0)
    changed = settings.model_copy(
        update={"fetch_allow": (receiver.host, silent), "callback_secret": SECRET}
    )
    changed = Settings.model_validate(changed.model_dump())
    use_settings(changed)
    return changed


@pytest.fixture
def run(client: SyncPrefectClient, deployed: dict[str, UUID], receiver: Receiver) -> LostRun:
    """A run whose caller wants to be told of everything."""
    return LostRun(
        client,
        deployed["upscale"],
        callback_url=receiver.url,
        callback_events=EVENTS,
        tags="trailer",
        metadata='{"order": 17}',
    )


def end(run: LostRun, state: Any) -> None:
    """End a run as Prefect does: its state, then its hook."""
    run.becomes(state)
    call_back(None, run.run, state)


def notes(client: SyncPrefectClient, run: LostRun) -> list[dict[str, Any]]:
    """What became of the run's callbacks, the first first."""
    own = {"flow_run_id": {"any_": [run.id]}, "key": {"any_": [CALLBACK_KEY]}}
    found = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(own))
    assert not any("sekret42" in artifact.model_dump_json() for artifact in found)
    return [json.loads(str(artifact.data))[0] for artifact in found]


@pytest.mark.long
def test_a_receiver_that_is_away_for_a_while(
    client: SyncPrefectClient, run: LostRun, receiver: Receiver
) -> None:
    receiver.statuses = [503, 500, 429, 204]
    began = time.monotonic()
    end(run, Failed(message="no video"))
    assert time.monotonic() - began < 10, "the worker does not wait for the receiver"
    assert len(receiver.posts) == 1
    (kept,) = outbox.waiting_of(client, run.id)
    assert (kept.attempts, kept.event.status) == (1, "failed")
    assert "503" in kept.trouble
    assert "sekret42" not in str(kept)
    assert not notes(client, run)

    for attempts in (2, 3):
        state = recover(return_state=True)
        assert state.is_completed()
        assert len(receiver.posts) == attempts, "an attempt in each look"
    assert outbox.waiting_of(client, run.id)[0].attempts == 3
    state = recover(return_state=True)
    assert "1 callback sent, 0 wait" in (state.message or "")
    assert not outbox.waiting_of(client, run.id)
    events = receiver.events()
    assert len(events) == 4
    assert len({event["event_id"] for event in events}) == 1, "all attempts have one id"
    assert (events[-1]["tags"], events[-1]["metadata"]) == (["trailer"], {"order": 17})
    (told,) = notes(client, run)
    assert (told["delivered"], told["attempts"]) == (True, 4)
    recover()
    assert len(receiver.posts) == 4, "it is sent no more"


@pytest.mark.long
def test_events_of_a_run_arrive_in_their_order(
    client: SyncPrefectClient, run: LostRun, receiver: Receiver, allowed: Settings
) -> None:
    """What happened first is told first, and of the progress only what is still news."""
    receiver.statuses = [503]
    announcer = Announcer(receiver.url, run.id, allowed)
    announcer._tell(started_event(run.run))
    for frames in (10, 20, 30):
        now = JobProgress(phase="dit", frames=frames, num_frames=75, stall_seconds=1.0)
        announcer._latest = now
        announcer._tell(_progress(run, now, frames))
    assert len(receiver.posts) == 1, "what comes later waits behind it"
    waiting = outbox.waiting_of(client, run.id)
    assert [one.event.status for one in waiting] == ["started", "progress"]
    assert waiting[1].event.frames_done == 30
    end(run, Completed())
    assert len(receiver.posts) == 1
    receiver.posts.clear()
    receiver.statuses = [204]
    recover()
    events = receiver.events()
    assert [event["status"] for event in events] == ["started", "completed"]
    assert len({event["event_id"] for event in events}) == 2


def _progress(run: LostRun, progress: JobProgress, number: int) -> Any:
    from tasks.run.callbacks.events import progress_event

    return progress_event(run.run, progress, number)


def test_what_no_attempt_can_help_is_not_kept(
    client: SyncPrefectClient, run: LostRun, receiver: Receiver
) -> None:
    receiver.statuses = [503, 410]
    end(run, Failed(message="no video"))
    recover()
    assert len(receiver.posts) == 2
    assert not outbox.waiting_of(client, run.id)
    (told,) = notes(client, run)
    assert (told["delivered"], told["attempts"]) == (False, 2)
    assert "answered 410" in told["error"]


@pytest.mark.long
def test_it_is_given_up_after_its_time(
    client: SyncPrefectClient,
    run: LostRun,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver.statuses = [503]
    end(run, Failed(message="no video"))
    begin = callbacks._Round.__init__

    def later(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self._now += timedelta(hours=2, minutes=1)

    recover()
    assert outbox.waiting_of(client, run.id), "two hours are not over"
    monkeypatch.setattr(callbacks._Round, "__init__", later)
    recover()
    assert not outbox.waiting_of(client, run.id)
    (told,) = notes(client, run)
    assert told["delivered"] is False
    assert told["error"].startswith("given up after ")


def test_a_receiver_that_hangs_holds_up_no_other(
    client: SyncPrefectClient,
    deployed: dict[str, UUID],
    run: LostRun,
    receiver: Receiver,
    silent: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callbacks, "SEND_SECONDS", 1.5)
    hanging = LostRun(client, deployed["upscale"], callback_url=f"http://{silent}/x")
    for one in (hanging, run):
        outbox.put(client, one.id, started_event(one.run), attempts=0, trouble="")
    began = time.monotonic()
    callbacks.send_waiting()
    assert time.monotonic() - began < 8
    assert [event["job_id"] for event in receiver.events()] == [str(run.id)]
    assert not outbox.waiting_of(client, run.id)
    assert outbox.waiting_of(client, hanging.id)


def test_a_receiver_that_fails_is_asked_once_a_look(
    client: SyncPrefectClient, deployed: dict[str, UUID], run: LostRun, receiver: Receiver
) -> None:
    receiver.statuses = [503]
    other = LostRun(client, deployed["upscale"], callback_url=receiver.url)
    for one in (run, other):
        outbox.put(client, one.id, started_event(one.run), attempts=0, trouble="")
    callbacks.send_waiting()
    assert len(receiver.posts) == 1


def test_who_wants_no_end_is_told_of_none(
    client: SyncPrefectClient, deployed: dict[str, UUID], receiver: Receiver
) -> None:
    run = LostRun(client, deployed["upscale"], callback_url=receiver.url, callback_events="started")
    end(run, Completed())
    assert not receiver.posts


def test_a_run_that_was_deleted_leaves_nothing_to_send(
    client: SyncPrefectClient, run: LostRun, receiver: Receiver
) -> None:
    outbox.put(client, run.id, started_event(run.run), attempts=0, trouble="")
    client.delete_flow_run(run.id)
    callbacks.send_waiting()
    assert not receiver.posts
    assert not [one for one in outbox.all_waiting(client) if one.run_id == run.id]


def test_runs_of_the_version_before_are_told_of_their_end(
    client: SyncPrefectClient, deployed: dict[str, UUID], receiver: Receiver
) -> None:
    run = LostRun(client, deployed["upscale"], callback_url=receiver.url)
    end(run, Completed())
    (event,) = receiver.events()
    assert (event["event"], event["progress"]) == ("upscale.completed", None)
