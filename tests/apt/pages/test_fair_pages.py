"""The pages that are files or stand beside the gateway's own, for everybody: names, roles, contrast
in both colour schemes, the order of the focus, and no line that has to be moved sideways.

Needs Debian's package `chromium`. Pictures are kept under pytest's --basetemp, to be looked at.
The gateway's own page is judged in tests/apt/test_page.py, on each of its screens.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.gateway.app import create_app
from deployments.gateway.prefect_api import PrefectApi
from seedvr2_core.compare.make import make_comparison
from seedvr2_core.compare.record import ComparedFile, Comparison
from seedvr2_core.job import JobDir
from seedvr2_core.planning.build import build_plan
from seedvr2_core.report.make import make_report
from seedvr2_core.report.record import AboutJob
from seedvr2_core.video.probe import probe_video
from tasks.settings import Settings
from tests.kits.factories import make_options
from tests.kits.http.browser import Page, browser
from tests.kits.http.fair import each_look, judge
from tests.kits.http.gateway import served
from tests.kits.http.person import Person
from tests.kits.pipeline import KeepTorch, make_segments
from tests.kits.server import eventually

pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]
NOBODY = "http://127.0.0.1:9/api"
"""The address of a Prefect server that is not there: the description of the API needs none."""


@pytest.fixture(scope="module")
def job_dir(demo_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> JobDir:
    """A job with a report, by Lanczos."""
    folder = tmp_path_factory.mktemp("job") / "job"
    options = make_options(segment_seconds=1, preset="ultrafast")
    plan = build_plan(probe_video(demo_clip), "0" * 64, options)
    with KeepTorch():
        make_segments(plan, folder, demo_clip, range(len(plan.segments)))
    about = AboutJob(
        source_name="<b>my</b>.mp4",
        output_name="my_720p.mp4",
        output_sha256="ab" * 32,
        output_bytes=1_200_000,
        stage_seconds={"probe": 0.5, "restore": 7.25, "deliver": 2.0},
        seconds_so_far=10.0,
        notes=("a note",),
    )
    make_report(JobDir(folder), demo_clip, about, seconds=10.0)
    return JobDir(folder)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path / "browser") as page:
        page.call("Runtime.enable")
        yield page


def look(person: Person, folder: Path, axe: str | None) -> None:
    """Judge what is open, and keep a picture of it, narrow and wide, in both schemes."""
    assert person.page.run("document.documentElement.lang") == "en"
    assert person.page.run("document.querySelectorAll('h1').length") == 1
    for name in each_look(person, folder, "page"):
        judge(person, axe)
        assert broken_words(person) == [], name
        assert unreadable(person) == [], name


def broken_words(person: Person) -> list[str]:
    """Words of headings in tables that go on in the next line."""
    return person.page.run("""[...document.querySelectorAll('th')].flatMap((th) =>
      [...th.childNodes].filter((n) => n.nodeType === 3).flatMap((node) =>
        [...node.data.matchAll(/[^\\s-]+/g)].filter((word) => {
          const range = document.createRange();
          range.setStart(node, word.index);
          range.setEnd(node, word.index + word[0].length);
          return range.getClientRects().length > 1;
        }).map((word) => word[0])))""")


def unreadable(person: Person) -> list[str]:
    """Texts of plots that are too small, or cut off at the plot's edge."""
    return person.page.run("""[...document.querySelectorAll('svg text')].filter((text) => {
      const box = text.getBoundingClientRect(), plot = text.closest('svg').getBoundingClientRect();
      return box.height < 11 || box.left < plot.left || box.right > plot.right;
    }).map((text) => text.textContent)""")


def test_a_jobs_report(page: Page, job_dir: JobDir, tmp_path: Path, axe: str | None) -> None:
    page.open(job_dir.report_path.as_uri())
    person = Person(page)
    person.sees("<b>my</b>.mp4")
    look(person, tmp_path, axe)


def test_a_comparison(
    page: Page, demo_clip: Path, job_dir: JobDir, tmp_path: Path, axe: str | None
) -> None:
    """Its sliders have names, are reached by Tab in the order of the page, and take the arrows."""
    (folder := tmp_path / "made").mkdir()
    wanted = Comparison(
        a=ComparedFile(path=demo_clip, label="before"),
        b=ComparedFile(path=job_dir.video_path(0), label="after"),
        folder=folder,
        title="Two videos",
        video_name="compared.mp4",
    )
    make_comparison(wanted)
    page.open(wanted.page.as_uri())
    person = Person(page)
    person.sees("Two videos")
    look(person, tmp_path, axe)
    sliders = "[...document.querySelectorAll('input[type=range]')]"
    assert page.run(f"{sliders}.length") > 1
    page.run("document.activeElement.blur()")
    reached: list[int] = []
    for _ in range(page.run("document.querySelectorAll('a, input').length")):
        person.press("Tab")
        reached.append(page.run(f"{sliders}.indexOf(document.activeElement)"))
    assert [at for at in reached if at >= 0] == list(range(page.run(f"{sliders}.length")))
    before = page.run("document.activeElement.value")
    person.press("ArrowLeft")
    assert page.run("document.activeElement.value") != before, "the last slider has the focus"


def test_the_description_of_the_api(page: Page, tmp_path: Path) -> None:
    """Swagger UI is not ours: what it draws is looked at, and what our page adds is held."""
    with served(create_app(Settings(work_dir=tmp_path), PrefectApi(NOBODY))) as url:
        page.open(f"{url}/docs")
        person = Person(page)
        eventually(lambda: page.run("document.querySelectorAll('.opblock').length"), "the API")
        assert page.run("document.documentElement.lang") == "en"
        assert page.run("document.title")
        person.looks(tmp_path / "docs.png", width=1280)
