"""A gateway that takes requests and answers none, as behind a dead line: its process stands still.

The page says so, keeps what the person has, and goes on by itself once there are answers again.
Needs Debian's package `chromium`.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prefect.client.schemas.objects import StateType

from tests.kits.http.browser import browser
from tests.kits.http.gateway import (
    PLANNED,
    GatewayProcess,
    deployed,
    record_progress,
    set_state,
    submit,
)
from tests.kits.http.person import Person
from tests.kits.http.s3 import line_to
from tests.kits.http.video_server import VideoServer
from tests.kits.server import eventually

pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]
SILENT = "The gateway does not answer."
QUIET = "document.querySelector('#problem').hidden"


@pytest.fixture
def videos(demo_clip: Path) -> Iterator[VideoServer]:
    server = VideoServer()
    server.offer("/clip.mp4", content=demo_clip.read_bytes())
    yield server
    server.close()


@pytest.fixture
def gateway(api_url: str, videos: VideoServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway in front of deployments that no worker serves."""
    with deployed(api_url):
        process = GatewayProcess(
            "--port",
            "0",
            SEEDVR2_WORK_DIR=str(tmp_path / "work"),
            SEEDVR2_DEPLOYMENTS="*=upscale/h100",
            SEEDVR2_FETCH_ALLOW=videos.host,
            SEEDVR2_ALLOW_CPU_ENGINE="true",
            PREFECT_API_URL=api_url,
        )
        yield process
        os.kill(process.process.pid, signal.SIGCONT)
        process.end()


@contextmanager
def opened(url: str, folder: Path) -> Iterator[Person]:
    """Somebody at the page, once it can be used."""
    with browser(folder / "browser") as page:
        page.call("Runtime.enable")
        page.open(f"{url}/")
        eventually(lambda: page.run("!!document.querySelector('#option-model')"), "the form")
        yield Person(page)


@pytest.fixture
def person(gateway: GatewayProcess, tmp_path: Path) -> Iterator[Person]:
    with opened(gateway.url, tmp_path) as person:
        yield person


def a_job(gateway: GatewayProcess) -> str:
    """A job at work, as far as anybody can see."""
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        job = submit(client, resolution="720p")
    set_state(job, StateType.RUNNING)
    record_progress(job, 40.0, job=PLANNED)
    return job


def test_the_page_of_a_job_says_so_and_goes_on(person: Person, gateway: GatewayProcess) -> None:
    job = a_job(gateway)
    person.page.run(f"location.hash = '#/jobs/{job}'")
    person.sees("At work", "#job-status")
    person.sees("40 %", "#job-facts")
    os.kill(gateway.process.pid, signal.SIGSTOP)
    person.sees(f"{SILENT} The page goes on asking.", "#problem")
    assert "40 %" in person.text("#job-facts"), "what is known of the job stays"
    os.kill(gateway.process.pid, signal.SIGCONT)
    eventually(lambda: person.page.run(QUIET), "the answer")
    set_state(job, StateType.FAILED, message="it ended while the page went on asking")
    person.sees("it ended while the page went on asking", "#job-error")


def test_the_list_says_so_asks_no_more_than_once_at_a_time_and_goes_on(
    person: Person, gateway: GatewayProcess
) -> None:
    person.page.run("location.hash = '#/jobs'")
    person.sees("of", "#jobs-told")
    asked = "performance.getEntriesByType('resource').filter(e => e.name.includes('jobs?')).length"
    os.kill(gateway.process.pid, signal.SIGSTOP)
    before = person.page.run(asked)
    person.sees(SILENT, "#problem")
    assert person.page.run(asked) - before <= 2, "the browser would have no connection left"
    os.kill(gateway.process.pid, signal.SIGCONT)
    eventually(lambda: person.page.run(QUIET), "the answer")
    a_job(gateway)
    person.sees("clip.mp4", "#jobs-list")


def test_a_job_whose_answer_was_lost_is_made_once(
    gateway: GatewayProcess, videos: VideoServer, tmp_path: Path
) -> None:
    """The page cannot know whether its request has arrived: it is asked again under its key."""
    with (
        httpx.Client(base_url=gateway.url, timeout=60) as client,
        line_to(gateway.url) as line,
        opened(line.url, tmp_path) as person,
    ):
        before = num_jobs(client)
        person.page.run("document.querySelector('#address').focus()")
        person.write(videos.url("/clip.mp4"))
        person.click("#make-plan")
        person.sees("The plan is ready", "#planning")
        line.fail("cut", "^POST /upscale", times=1)  # a browser sends it again if nothing comes
        person.click("#start")
        person.sees("The gateway cannot be reached", "#problem")
        assert num_jobs(client) == before + 1, "it has arrived"
        assert not person.page.run("document.querySelector('#plan').hidden"), "the plan stays"
        person.click("#start")
        eventually(lambda: "#/jobs/" in person.page.run("location.hash"), "the job's page")
        assert num_jobs(client) == before + 1


def num_jobs(client: httpx.Client) -> int:
    return len(client.get("/jobs", params={"limit": 100}).json()["jobs"])
