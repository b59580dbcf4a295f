"""The page of a job shows what its status says, as it comes: its place in the queue, stage, frames,
speed, time left with its range, price, and the log.

Needs Debian's package `chromium`. The job is made up: no worker serves it, and what a run would
publish is published by the test. Pictures are kept under pytest's --basetemp.
"""

import dataclasses
import logging
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.objects import StateType

from deployments.gateway.app import create_app
from deployments.gateway.auth import digest
from deployments.gateway.prefect_api import PrefectApi
from seedvr2_core.errors import BudgetError, in_full
from tasks.run.artifacts import SavedProgress, save_progress
from tasks.run.failures import OVER_BUDGET
from tasks.run.measures import Measures
from tasks.settings import RESOLUTIONS, Settings
from tests.kits.http.browser import browser
from tests.kits.http.fair import each_look, judge
from tests.kits.http.gateway import PLANNED, deployed, job_run, served, set_state, submit
from tests.kits.http.person import Person
from tests.kits.server import eventually

pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]
PROGRESS = SavedProgress(
    phase="dit",
    percent=41.0,
    frames=30,
    num_frames=75,
    seconds_left=90.0,
    prospect_json=PLANNED,
    measures=Measures(
        segment=2,
        segments=6,
        frames_per_second=0.42,
        seconds_left_low=60.0,
        seconds_left_high=150.0,
        estimated_seconds=120.0,
        device="cuda:0",
        seed=2**64 - 1,
        gpu_seconds=61.0,
        cost=0.25,
    ),
)
WIDTHS = """
  [...new Set([...document.querySelectorAll('#stages li')].map(
    (one) => Math.round(one.getBoundingClientRect().width)))]
"""
EDGES = """
  document.querySelector('.brand').getBoundingClientRect().x
  - document.querySelector('#view-sign-in').getBoundingClientRect().x
"""
"""How far the page's name is from the edge of its content."""
STAGE = "document.querySelector('#stages [aria-current]')?.innerText ?? ''"


@pytest.fixture
def url(api_url: str, tmp_path: Path) -> Iterator[str]:
    """A gateway in front of deployments that no worker serves."""
    settings = Settings(
        work_dir=tmp_path / "work", deployments=dict.fromkeys(RESOLUTIONS, "upscale/h100")
    )
    with deployed(api_url), served(create_app(settings, PrefectApi(api_url))) as url:
        yield url


@pytest.fixture
def person(url: str, tmp_path: Path) -> Iterator[Person]:
    with browser(tmp_path / "browser") as page:
        page.call("Runtime.enable")
        page.open(f"{url}/")
        eventually(lambda: page.run("!!document.querySelector('#option-model')"), "the form")
        yield Person(page)


def test_what_a_job_says_is_shown_as_it_comes(
    person: Person, url: str, tmp_path: Path, axe: str | None
) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        first, job = (submit(client, resolution="720p") for _ in range(2))
    person.page.run(f"location.hash = '#/jobs/{job}'")
    person.sees("Waiting, 1 job in front of it", "#job-status")
    for _ in each_look(person, tmp_path, "waiting"):
        judge(person, axe)
        assert len(person.page.run(WIDTHS)) == 1, "all stages are as wide"
    set_state(first, StateType.CANCELLED)
    person.sees("Waiting, the next in line", "#job-status")
    set_state(job, StateType.RUNNING)
    mine = save_progress(UUID(job), PROGRESS, None)
    person.sees("At work, segment 2 of 6", "#job-status")
    assert person.page.run(STAGE) == "Restore"
    facts = person.text("#job-facts").replace("\n", " ")
    for words in (
        *("Progress 41 %", "Frames 30 of 75", "Speed 0.42 frames/s", "Expected 2 min 00 s"),
        *("Time left 1 min 30 s (1 min 00 s to 2 min 30 s)", "Result 1920x1080"),
        *("Made by lanczos on cuda:0", f"Seed {2**64 - 1}", "GPU time 1 min 01 s", "Cost 0.25"),
    ):
        assert words in facts, words
    person.page.run("document.querySelector('#log-box').open = true")
    person.sees("Nothing has been logged yet", "#log")
    log(job, "Finished in state Completed()")
    log(job, "a line <b>of the log</b>")
    for _ in each_look(person, tmp_path, "at-work"):
        judge(person, axe)
    later = dataclasses.replace(PROGRESS, phase="upload", percent=97.0, frames=75)
    save_progress(UUID(job), later, mine)
    person.sees("75 of 75", "#job-facts")
    assert person.page.run(STAGE) == "Store"
    person.sees("a line <b>of the log</b>", "#log")
    assert not person.page.run("document.querySelectorAll('#log *').length")
    assert "Finished" not in person.text("#log"), "nobody knows of which task that is said"
    set_state(job, StateType.FAILED, message="the disk is full")
    person.sees("Failed", "#job-status")
    assert person.page.run(STAGE).split() == ["Store", "(failed)"]
    for _ in each_look(person, tmp_path, "failed"):
        judge(person, axe)


def test_a_job_that_its_limit_has_stopped_goes_on_with_another(
    person: Person, url: str, tmp_path: Path, axe: str | None
) -> None:
    """By keyboard: with a larger limit, and without any."""
    with httpx.Client(base_url=url, timeout=60) as client:
        job = submit(client, resolution="720p", max_seconds=5)
    person.page.run(f"location.hash = '#/jobs/{job}'")
    person.sees("Waiting", "#job-status")
    hidden = "document.querySelector('#limit-form').hidden"
    assert person.page.run(hidden)
    error = BudgetError("the job has spent 4 s, and segment 2 is expected to take 3 s")
    set_state(job, StateType.FAILED, name=OVER_BUDGET, message=in_full(error))
    person.sees("segment 2 is expected to take 3 s", "#job-error")
    assert not person.page.run(hidden)
    assert person.page.run("document.querySelector('#retry').hidden"), "it would be stopped again"
    for _ in each_look(person, tmp_path, "stopped"):
        judge(person, axe)
    person.tab_to("limit-price")
    person.write("2")
    person.press("Enter")
    person.sees("nobody has said here what an hour costs", "#problem")
    person.page.run("document.querySelector('#limit-price').value = ''")
    person.page.run("document.querySelector('#limit-seconds').focus()")
    person.write("60.5")
    person.press("Enter")
    eventually(lambda: job not in person.page.run("location.hash"), "the new job's page")
    again = str(person.page.run("location.hash")).rpartition("/")[2]
    assert job_run(again).parameters["max_seconds"] == 60.5
    set_state(again, StateType.FAILED, name=OVER_BUDGET, message=in_full(error))
    eventually(lambda: not person.page.run(hidden), "the form")
    assert person.page.run("document.querySelector('#limit-seconds').value") == ""
    person.tab_to("go-on")
    person.press("Space")
    eventually(lambda: again not in person.page.run("location.hash"), "the new job's page")
    last = str(person.page.run("location.hash")).rpartition("/")[2]
    assert not {"max_seconds", "max_price"} & job_run(last).parameters.keys()


def test_what_went_wrong_is_seen_however_far_the_form_is(
    person: Person, tmp_path: Path, axe: str | None
) -> None:
    """The button that asks stands at the form's end, the sentence at the page's beginning."""
    person.looks(tmp_path / "form.png", width=390, height=500)
    person.page.run("document.querySelector('#address').focus()")
    person.write("http://127.0.0.1:9/a.mp4")
    person.click("#make-plan")
    person.sees("(127.0.0.1:9). What helps: Check the address", "#problem")
    assert person.page.run("scrollY") > 100, "the beginning is out of sight"
    top, bottom = person.page.run(
        "(({top, bottom}) => [top, bottom])(document.querySelector('#problem')"
        ".getBoundingClientRect())"
    )
    assert 0 <= top < bottom <= 500
    for _ in each_look(person, tmp_path, "problem"):
        judge(person, axe)


def test_an_empty_list_says_so(api_url: str, tmp_path: Path, axe: str | None) -> None:
    """As everybody with a new token sees it: a token sees its own jobs."""
    settings = Settings(work_dir=tmp_path / "work", gateway_tokens=(digest("new"),))
    with (
        served(create_app(settings, PrefectApi(api_url))) as url,
        browser(tmp_path / "browser") as page,
    ):
        page.call("Runtime.enable")
        page.open(f"{url}/#/jobs")
        person = Person(page)
        person.sees("Token of this gateway", "#view-sign-in")
        for _ in each_look(person, tmp_path, "sign-in"):
            assert person.page.run(EDGES) == 0, "the top of the page begins where its content does"
        person.write("old")
        person.press("Enter")
        person.sees("Whoever runs the gateway can give you one", "#problem")
        person.write("new")
        person.press("Enter")
        person.sees("No jobs of yours yet.", "#jobs-told")
        judge(person, axe)
        person.choose("#state", "failed")
        person.sees("No jobs of this state.", "#jobs-told")


def log(job: str, message: str) -> None:
    """What a run logs."""
    line = LogCreate(
        name="prefect.flow_runs",
        level=logging.INFO,
        message=message,
        timestamp=datetime.now(UTC),
        flow_run_id=UUID(job),
    )
    with get_client(sync_client=True) as client:
        client.create_logs([line])
