"""`recover` with everything real: a server with its automations, workers, processes that are killed
and stopped. The short forms of these tests, in one process, are in tests/flows/recover.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect._internal.observers import FlowRunCancellingObserver
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.recovery.states import cancelling
from tests.kits.hosts.site import Site, until
from tests.kits.processes import is_running

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

AWAY_SECONDS = 75.0
"""An outage of the server: longer than a process may show no sign of life."""
BACK_SECONDS = 150.0
"""Longest time until a run whose machine died is scheduled again, on a busy test machine: by
arithmetic it is 120."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with everything deployed and a worker that runs `recover`."""
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.deploy()
        site.start_worker("cpu")
        yield site
    finally:
        site.close()


@pytest.fixture
def clip(
    demo_clip: Path, tmp_path: Path, ffmpeg: Callable[..., subprocess.CompletedProcess[bytes]]
) -> Callable[[int], Path]:
    """Make a source that repeats the demo clip; each test has its own, so that jobs differ."""

    def make(times: int) -> Path:
        path = tmp_path / "looped.mp4"
        loop = ("-stream_loop", str(times - 1), "-i", demo_clip, "-c", "copy")
        ffmpeg(*loop, "-metadata", f"title={tmp_path.name}", path)
        return path

    return make


def submit(site: Site, clip: Path, **more: object) -> str:
    """Submit a job that takes 50 ms a frame."""
    asked = {"model": "sleep", "resolution": "720p", "preset": "ultrafast"}
    return site.create("upscale/local", video_path=str(clip), **asked, **more)


def told(site: Site, job: str) -> dict[str, Any]:
    """What a job's one result says, by its rows."""
    (result,) = site.artifacts(job, "upscale-result")
    return {row["what"]: row["value"] for row in json.loads(result["data"])}


def stop(site: Site) -> list[int]:
    """SIGSTOP what the local worker runs, as if its machine hung; returns the process ids."""
    stopped = site.running("local")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    return stopped


def test_worker_and_flow_killed_and_no_human(site: Site, clip: Callable[[int], Path]) -> None:
    # Its appointment is far away, and the server is started again, which loses events or has them
    # come late: the sweep finds that the run shows no sign of life.
    site.start_worker("local", SEEDVR2_RECOVER_MARGIN_SECONDS="900")
    before = site.committed()
    job = submit(site, clip(10))
    until(lambda: site.committed() >= before + 3, "three segments")
    killed = site.kill_worker("local")
    assert len(killed) >= 3, "worker, flow, child"
    until(lambda: not any(is_running(pid) for pid in killed), "the end of all of them")
    began = time.monotonic()
    site.kill_server()
    site.start_server()
    site.start_worker("cpu")
    site.start_worker("local")
    until(lambda: "AwaitingRetry" in site.states(job), "AwaitingRetry")
    seconds = time.monotonic() - began
    print(f"scheduled again {seconds:.0f} s after its machine died")
    assert seconds < BACK_SECONDS
    until(lambda: site.state(job) == "Completed", "Completed")
    until(lambda: any("re-queued, 1" in said for said in site.looks(job)), "its report")
    run = site.run(job)
    assert (run["run_count"], run["labels"]["recoveries"]) == (2, 1)
    ends = ("Cancelling", "AwaitingRetry", "Completed")
    assert [name for name in site.states(job) if name in ends] == list(ends)
    of_run = {"flow_runs": {"id": {"any_": [job]}}}
    tasks = {task["state_type"] for task in site.post("/task_runs/filter", of_run)}
    assert not tasks & {"RUNNING", "PENDING"}, "what the killed attempt left is ended"
    assert told(site, job)["segments_reused"] >= 3
    assert any("re-queued, 1" in said for said in site.looks(job))


def test_a_preview_whose_worker_is_killed_is_made_all_the_same_and_the_film_keeps_it(
    site: Site, clip: Callable[[int], Path]
) -> None:
    """In the middle of its piece; nobody asks for it again."""
    site.start_worker("local")
    before, source = site.committed(), clip(10)
    job = submit(site, source, preview="250f@200")
    until(lambda: site.committed() > before, "a segment")
    killed = site.kill_worker("local")
    made = site.committed() - before
    until(lambda: not any(is_running(pid) for pid in killed), "the end of all of them")
    assert not site.artifacts(job, "upscale-result"), "it was not done yet"
    site.start_worker("local")
    until(lambda: site.state(job) == "Completed", "Completed")
    run = site.run(job)
    assert (run["run_count"], run["labels"]["recoveries"]) == (2, 1)
    shown = told(site, job)
    assert (shown["frames"], shown["segments_reused"]) == (250, made)
    assert ".preview-" in shown["filename"]
    pieces = site.committed() - before
    assert made < pieces < 15, "the segments of the piece, and no more"
    film = submit(site, source)
    until(lambda: site.state(film) == "Completed", "Completed")
    assert told(site, film)["segments_reused"] == pieces
    assert ".preview-" not in told(site, film)["filename"]


def test_a_worker_hears_a_cancel_once_more_and_a_recovery_never(site: Site) -> None:
    """By Prefect's own part of a worker, begun after the cancel: it would kill the next attempt."""

    async def killed(run_id: str) -> list[UUID]:
        found: list[UUID] = []

        def kill(flow_run_id: UUID) -> None:
            found.append(flow_run_id)

        async with FlowRunCancellingObserver(on_cancelling=kill) as observer:
            observer.add_in_flight_flow_run_id(UUID(run_id))
            await asyncio.sleep(5)
        return found

    flow = site.post("/flows/", {"name": "nothing"})["id"]
    for heard in (True, False):
        state = cancelling("it was lost", heard_by_workers=heard)
        run = site.post("/flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING"}})["id"]
        for told in ({"type": state.type.value, "name": state.name}, {"type": "RUNNING"}):
            site.post(f"/flow_runs/{run}/set_state", {"state": told, "force": True})
        of_run = {"resource": {"id": [f"prefect.flow-run.{run}"]}}
        wanted = {"filter": of_run | {"event": {"name": [f"prefect.flow-run.{state.name}"]}}}
        until(lambda wanted=wanted: site.post("/events/filter", wanted)["total"], "its event")
        with temporary_settings({PREFECT_API_URL: site.url}):
            assert asyncio.run(killed(run)) == ([UUID(run)] if heard else [])


def test_a_slow_run_that_beats_is_left_alone(site: Site, clip: Callable[[int], Path]) -> None:
    site.start_worker("local")
    job = submit(site, clip(10))
    until(lambda: site.beats(job), "beats")
    assert site.said(site.create("recover/lost-runs", run_id=job)) == "alive: Running"
    until(lambda: site.state(job) == "Completed", "Completed")
    assert site.run(job)["run_count"] == 1
    assert not {"Cancelling", "Crashed"} & set(site.states(job))
    assert site.said(site.create("recover/lost-runs", run_id=job)) == "ended: Completed"


def test_a_hung_run_whose_file_is_stored_is_completed(
    site: Site, clip: Callable[[int], Path]
) -> None:
    site.start_worker("local")
    source = clip(10)
    first = submit(site, source)
    until(lambda: site.state(first) == "Completed", "the first, undisturbed")
    for result in (site.folder / "work").glob("jobs/*/result.json"):
        result.unlink()  # else the second would find the output itself
    job = submit(site, source)
    until(lambda: site.beats(job), "beats")
    stopped = stop(site)
    until(lambda: site.state(job) == "Completed", "Completed")
    until(lambda: any("; completed: looped" in said for said in site.looks(job)), "its report")
    assert not any(is_running(pid) for pid in stopped)
    (result,) = site.artifacts(job, "upscale-result")
    assert job in result["data"]
    assert site.states(job)[-3:] == ["Cancelling", "Cancelled", "Completed"]


def test_a_run_that_hangs_again_and_again_fails(site: Site, clip: Callable[[int], Path]) -> None:
    site.start_worker("local")
    job = submit(site, clip(10))
    ended = 0
    for attempt in (1, 2, 3):
        until(lambda attempt=attempt: site.beats(job, attempt), f"beats of attempt {attempt}")
        stopped = stop(site)
        expected = "AwaitingRetry" if attempt < 3 else "Failed"
        until(
            lambda name=expected, after=ended: name in site.states(job)[after:],
            f"{expected} after attempt {attempt}",
        )
        ended = len(site.states(job))
        assert not any(is_running(pid) for pid in stopped)
    assert site.run(job)["state"]["message"].startswith("output file not found")
    assert site.run(job)["run_count"] == 3


def test_a_worker_that_lives_and_cannot_end_its_process_costs_no_more_than_two_minutes(
    site: Site, clip: Callable[[int], Path]
) -> None:
    """The longest way: the process hangs, and the worker waits half a minute before it kills it."""
    site.start_worker("local")  # if an earlier test has left none
    site.kill_worker("local")
    site.start_worker("local", SEEDVR2_STALL_SECONDS="3600")
    job = submit(site, clip(10))
    until(lambda: site.beats(job), "beats")
    began = time.monotonic()
    stopped = stop(site)
    until(lambda: "AwaitingRetry" in site.states(job), "AwaitingRetry")
    seconds = time.monotonic() - began
    print(f"scheduled again {seconds:.0f} s after its process hung")
    assert seconds < BACK_SECONDS
    assert not any(is_running(pid) for pid in stopped)
    until(lambda: site.state(job) == "Completed", "Completed")
    assert site.run(job)["run_count"] == 2


def test_a_server_that_was_away_kills_no_job(site: Site, clip: Callable[[int], Path]) -> None:
    site.start_worker("local")
    job = submit(site, clip(50))
    until(lambda: site.beats(job), "beats")
    at_work = site.running("local")
    site.kill_server()
    time.sleep(AWAY_SECONDS)
    site.start_server()
    site.start_worker("cpu")
    site.start_worker("local")
    time.sleep(AWAY_SECONDS)  # a sweep comes by
    assert site.state(job) == "Running"
    assert all(is_running(pid) for pid in at_work)
    until(lambda: site.state(job) == "Completed", "Completed")
    assert site.run(job)["labels"]["recoveries"] == 0
    assert "Cancelling" not in site.states(job)


def test_a_second_run_frees_its_slot_and_takes_the_result_when_it_is_there(
    site: Site, clip: Callable[[int], Path], demo_clip: Path
) -> None:
    site.start_worker("local")  # if an earlier test has left none
    site.kill_worker("local")
    site.start_worker("local", limit=2)
    source = clip(10)
    first = submit(site, source)
    until(lambda: site.beats(first), "beats")
    second = submit(site, source)
    until(lambda: site.state(second) == "AwaitingRetry", "AwaitingRetry")
    assert f"waiting for job {first}" in site.run(second)["state"]["message"]
    other = submit(site, demo_clip)
    until(lambda: site.state(other) == "Running", "another job in the slot")
    assert site.state(first) == "Running"
    until(lambda: site.state(first) == "Completed", "the first")
    began = time.monotonic()
    until(lambda: site.state(second) == "Completed", "the second")
    print(f"the second took its result {time.monotonic() - began:.0f} s after the first had ended")
    assert told(site, first)["filename"] == told(site, second)["filename"]
    assert site.run(second)["labels"]["recoveries"] == 0
    until(lambda: site.state(other) == "Completed", "the other")
