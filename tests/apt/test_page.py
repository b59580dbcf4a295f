"""The gateway's page in a real browser, in front of a real `seedvr2 serve`: whole jobs by mouse and
by keyboard, hostile names, narrow and dark windows.

Needs Debian's package `chromium`. Pictures are kept under pytest's --basetemp, to be looked at.
axe-core is tried where npm can install it.
"""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

from deployments.gateway.app import create_app
from deployments.gateway.auth import digest
from deployments.gateway.prefect_api import PrefectApi
from tasks.settings import Settings
from tests.kits.http.browser import browser
from tests.kits.http.fair import judge, looks_everywhere
from tests.kits.http.gateway import served
from tests.kits.http.person import Person
from tests.kits.server import Serve, eventually

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "deployments" / "demo" / "bunny_320x180.mp4"
CHROMIUM = shutil.which("chromium")
HOSTILE = "<img src=x onerror=document.title='owned'>.mp4"
KEPT = "_img src_x onerror_document.title__owned__.mp4"
"""What the gateway makes of this name; the page shows either as text."""
pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's package chromium is not installed"),
]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with Serve(tmp_path_factory.mktemp("serve")) as serve:
        yield serve


@pytest.fixture
def person(serve: Serve, tmp_path: Path) -> Iterator[Person]:
    with browser(tmp_path / "browser") as page:
        page.call("Runtime.enable")
        page.open(f"{serve.urls['gateway']}/")
        person = Person(page)
        person.sees("New job")
        eventually(lambda: person.page.run("!!document.querySelector('#option-model')"), "the form")
        yield person


def test_a_size_of_ones_own_has_a_field_beside_the_choices(person: Person) -> None:
    """It shows once it is chosen, and what is no size is not sent."""
    hidden = "document.querySelector('#option-resolution-own').hidden"
    person.drop("#drop", CLIP)
    person.choose("#option-model", "lanczos")
    assert person.page.run(hidden)
    person.choose("#option-resolution", "own")
    assert not person.page.run(hidden)
    assert person.focused() == "option-resolution-own"
    person.write("two")
    person.click("#make-plan")
    assert not person.page.run("document.querySelector('#option-resolution-own').validity.valid")
    assert not person.text("#planning")
    person.page.run("document.querySelector('#option-resolution-own').select()")
    person.write("2x")
    person.click("#make-plan")
    person.sees("The plan is ready", "#planning")
    assert "640x360" in person.text("#plan-facts")
    person.choose("#option-resolution", "720p")


def test_an_amount_is_told_in_the_unit_that_fits(person: Person) -> None:
    """As the commands tell it (tests/deployments/cli/test_words.py)."""
    told = person.page.run(
        "import('/page/words.js').then(w => [0, 0.0004, 0.0205, 0.1, 999.4, 1500].map(w.size))"
    )
    assert told == ["0 kB", "1 kB", "21 kB", "0.1 MB", "999.4 MB", "1.50 GB"]


def test_a_whole_job_by_mouse(person: Person, tmp_path: Path, axe: str | None) -> None:
    clip = tmp_path / HOSTILE.replace("/", "_")
    clip.write_bytes(CLIP.read_bytes())
    judge(person, axe)
    person.looks(tmp_path / "new-1280.png", width=1280)
    person.drop("#drop", clip)
    person.sees(HOSTILE, "#chosen")
    person.choose("#option-model", "lanczos")
    person.choose("#option-resolution", "720p")
    person.click("#make-plan")
    person.sees("The plan is ready", "#planning")
    plan = person.text("#plan-facts")
    expected = ("320x180, 75 frames", "1280x720", "lanczos on cpu", "about", "h264, 8 bits, in mp4")
    assert [words for words in expected if words not in plan] == []
    assert "1080p: Full HD, as many pixels as 1920x1080" in person.text("#option-resolution")
    assert KEPT in plan
    judge(person, axe)
    person.looks(tmp_path / "plan-1280.png", width=1280)
    note(person, tags="trailer, <b>4k", metadata="order = 17")
    person.click("#start")
    person.sees("'<b>4k' is no tag", "#problem")
    note(person, tags="trailer, 4k", metadata="order = 17\nfor = A <b>client</b> = B")
    assert not person.page.run("document.querySelector('#plan').hidden"), "the plan stays"
    person.click("#start")
    person.sees("Progress", "#job-facts")
    person.sees("Completed", "#job-status")
    facts = person.text("#job-facts")
    noted = ("trailer, 4k", "Noted: order\n17", "Noted: for\nA <b>client</b> = B")
    for words in ("75 of 75", "1280x720", "lanczos on cpu", "Expected", "Taken", *noted):
        assert words in facts
    eventually(lambda: person.page.run("!document.querySelector('#compare').hidden"), "the picture")
    person.page.run("document.querySelector('#compare').scrollIntoView()")
    before = picture(person)
    person.click("#divider")  # its middle: where it is already
    person.press("Home")
    assert picture(person) != before, "the divider moves"
    judge(person, axe)
    saved(person, tmp_path / "saved")
    looks_everywhere(person, tmp_path, "job")
    assert person.page.run("document.title").startswith(KEPT), "and nobody else's"
    assert not person.page.run("document.querySelectorAll('main img').length")
    in_step(person, tmp_path, axe)
    report = httpx.get(person.page.run("document.querySelector('#report').href"))
    assert KEPT in report.text
    assert "script" not in report.headers["content-security-policy"]
    thumbnails(person, tmp_path, axe)


def saved(person: Person, folder: Path) -> None:
    """The download is a file in the browser's folder, and the person stays on the page."""
    person.page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    person.sees("Download the result", "#download")
    before = person.page.run("location.href")
    person.click("#download")
    eventually(lambda: folder.is_dir() and list(folder.glob("*.mp4")), "the saved file")
    (file,) = folder.glob("*.mp4")
    assert file.read_bytes()[4:8] == b"ftyp"
    assert file.name in person.text("#job-facts")
    assert person.page.run("location.href") == before


def note(person: Person, **values: str) -> None:
    """Write into the fields of the notes."""
    person.page.run("document.querySelector('#notes details').open = true")
    for name, text in values.items():
        person.page.run(
            f"(() => {{ const e = document.querySelector('#option-{name}');"
            "e.value = ''; e.focus(); })()"
        )
        person.write(text)


def in_step(person: Person, tmp_path: Path, axe: str | None) -> None:
    """The source and the result play side by side, and stop at the same moment."""
    person.sees("in step", "#watch")
    person.click("#watch-load")
    ready = "['before', 'after'].every(n => document.querySelector('#video-' + n).readyState >= 3)"
    eventually(lambda: person.page.run(ready), "both videos")
    sizes = person.page.run(
        "['before', 'after'].map(n => document.querySelector('#video-' + n).videoWidth)"
    )
    assert sizes == [320, 1280]
    person.click("#watch-play")
    moved = "document.querySelector('#video-after').currentTime > 0.5"
    eventually(lambda: person.page.run(moved), "the film runs")
    person.click("#watch-play")
    apart = (
        "Math.abs(document.querySelector('#video-before').currentTime"
        " - document.querySelector('#video-after').currentTime)"
    )
    eventually(lambda: person.page.run(apart) < 0.05, "both stand at one moment")
    person.page.run("document.querySelector('#watch-time').focus()")
    person.press("Home")
    person.press("ArrowRight")
    person.click("#watch-on")
    eventually(lambda: person.page.run(apart) < 0.05, "both go a step")
    eventually(lambda: re.fullmatch(r"\d\.\d of 3\.0 s", person.text("#watch-at")), "the time")
    judge(person, axe)
    for width in (390, 1280):
        person.looks(tmp_path / f"watch-{width}.png", width=width)
        assert not person.overflows(), width


def thumbnails(person: Person, tmp_path: Path, axe: str | None) -> None:
    """The list shows a small picture of a result."""
    person.click("nav a[href='#/jobs']")
    person.page.run("document.querySelector('#search').focus()")
    person.write("client")
    person.sees("1 of 1 job", "#jobs-told")
    person.sees(KEPT, "#jobs-list")
    person.sees("trailer · 4k", "#jobs-list")
    eventually(lambda: len(person.page.run(COLOURS)) > 16, "the small picture")
    judge(person, axe)
    for width, dark in ((390, False), (1280, True)):
        person.looks(tmp_path / f"jobs-{width}.png", width=width, dark=dark)
        assert not person.overflows(), width


COLOURS = """(() => {
  const c = document.querySelector('#jobs-list canvas');
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return [...new Set(Array.from({length: d.length / 4}, (_, i) => d[4 * i] * 256 + d[4 * i + 1]))];
})()"""


def picture(person: Person) -> str:
    """What the canvas shows."""
    return person.page.run("document.querySelector('#picture').toDataURL()")


def test_a_whole_job_by_keyboard_and_its_end_by_cancel_and_retry(
    person: Person, serve: Serve, tmp_path: Path, axe: str | None
) -> None:
    # The focus begins at the page's title, so that the next stop is the form.
    assert person.tab_to("file") == ["file"]
    # A file dialog belongs to the system: the browser is told what was chosen in it.
    root = person.page.call("DOM.getDocument")["root"]["nodeId"]
    node = person.page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    person.page.call("DOM.setFileInputFiles", nodeId=node, files=[str(CLIP)])
    person.sees("bunny_320x180.mp4", "#chosen")
    person.tab_to("option-resolution")
    person.choose("#option-resolution", "1080p")
    person.tab_to("option-model")
    person.choose("#option-model", "span")
    person.tab_to("make-plan")
    person.press("Enter")
    person.sees("The plan is ready", "#planning")
    assert person.focused() == "plan-title", "the focus goes to what is new"
    person.tab_to("start")
    person.press("Enter")
    person.sees("Job ", "#job-id")
    eventually(lambda: person.focused() == "job-title", "the focus on the new page")
    person.sees("At work", "#job-status")
    person.tab_to("cancel")
    person.press("Space")
    eventually(lambda: person.text("#job-status") == "Cancelled", "the job's end")
    assert person.focused() == "job-title", "the focus is not lost with the button"
    first = person.page.run("location.hash")
    person.tab_to("retry")
    person.press("Enter")
    eventually(lambda: person.page.run("location.hash") != first, "the new job")
    person.sees("Completed", "#job-status", seconds=300)
    eventually(lambda: person.page.run("!document.querySelector('#compare').hidden"), "the picture")
    person.tab_to("divider")
    before = picture(person)
    person.press("ArrowRight")
    assert picture(person) != before
    judge(person, axe)
    # The list, by its link, and a search in it.
    person.page.run("document.querySelector('.brand').scrollIntoView()")
    person.page.run("location.hash = '#/jobs'")
    person.sees("of", "#jobs-told")
    person.tab_to("search")
    person.write("no such job")
    person.sees("0 of", "#jobs-told")
    person.page.run("document.querySelector('#search').value = ''")
    person.write("bunny")
    person.sees("bunny_320x180.mp4", "#jobs-list")
    judge(person, axe)
    person.looks(tmp_path / "jobs-390.png", width=390)
    assert not person.overflows()


def test_hostile_errors_and_addresses_are_text(
    person: Person, serve: Serve, axe: str | None
) -> None:
    person.page.run("document.querySelector('#address').focus()")
    person.write("http://127.0.0.1:9/<script>document.title='owned'</script>.mp4")
    person.click("#make-plan")
    person.sees("127.0.0.1", "#problem")
    assert person.page.run("document.title") == "New job - SeedVR2 upscaling"
    assert not person.page.run("document.querySelectorAll('main script').length")
    judge(person, axe)
    # A job whose failure, source and log speak HTML; whoever can make runs can make them say so.
    words = "<img src=x onerror=document.title='owned'> cannot be read"
    with httpx.Client(base_url=f"{serve.urls['prefect']}/api/", auth=serve.auth) as api:
        deployment = api.get("deployments/name/upscale/local").raise_for_status().json()["id"]
        asked = {"video_url": f"https://example.org/{quote('<b>bold</b>.mp4', safe='')}"}
        body = {
            "parameters": asked,
            "state": {"type": "FAILED", "message": words},
            "idempotency_key": "gateway:hostile",
        }
        run = api.post(f"deployments/{deployment}/create_flow_run", json=body).raise_for_status()
    person.page.run(f"location.hash = '#/jobs/{run.json()['id']}'")
    person.sees(words, "#job-error")
    person.page.run("document.querySelector('#log-box').open = true")
    person.sees("Nothing has been logged yet", "#log")
    assert "owned" not in person.page.run("document.title")
    assert not person.page.run("document.querySelectorAll('main img, main b').length")
    judge(person, axe)


def test_a_token_is_asked_for_and_stays_in_the_tab(
    serve: Serve, tmp_path: Path, axe: str | None
) -> None:
    settings = Settings(work_dir=serve.work_dir, gateway_operator_tokens=(digest("right"),))
    password = serve.urls["prefect password"]
    with (
        temporary_settings({PREFECT_API_AUTH_STRING: password}),
        served(create_app(settings, PrefectApi(f"{serve.urls['prefect']}/api"))) as url,
        browser(tmp_path / "browser") as page,
    ):
        page.call("Runtime.enable")
        page.open(f"{url}/")
        person = Person(page)
        person.sees("Token of this gateway", "#view-sign-in")
        assert person.focused() == "token"
        judge(person, axe)
        person.looks(tmp_path / "sign-in-390.png", width=390, dark=True)
        person.write("wrong")
        person.press("Enter")
        person.sees("not known here", "#problem")
        judge(person, axe)
        assert person.focused() == "token", "to write it again"
        person.write("right")
        person.press("Enter")
        person.sees("A file: choose it", "#view-new")
        for places in ("localStorage", "document.cookie", "location.href"):
            assert "right" not in page.run(f"JSON.stringify({places})")
        page.open(f"{url}/#/jobs")
        page.reload()
        person.sees("of", "#jobs-told")
        assert person.text("#problem") == "", "a tab that is loaded again is still signed in"
        person.click("#sign-out")
        person.sees("Token of this gateway", "#view-sign-in")
        assert page.run("sessionStorage.length") == 0


def test_a_job_goes_on_while_gateway_and_server_are_started_again(
    person: Person, serve: Serve, axe: str | None
) -> None:
    root = person.page.call("DOM.getDocument")["root"]["nodeId"]
    node = person.page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    person.page.call("DOM.setFileInputFiles", nodeId=node, files=[str(CLIP)])
    person.choose("#option-model", "span")
    person.choose("#option-resolution", "720p")  # no other test has made it
    person.click("#make-plan")
    person.sees("The plan is ready", "#planning")
    person.click("#start")
    person.sees("segment 1 of", "#job-status")
    judge(person, axe)
    gateway, server = serve.part("deployments.gateway"), serve.part("prefect_server")
    for part in (gateway, server):
        os.kill(part, signal.SIGKILL)
    person.sees("The page goes on asking", "#problem")
    eventually(lambda: person.page.run("document.querySelector('#problem').hidden"), "its return")
    person.sees("Completed", "#job-status", seconds=300)
    assert "75 of 75" in person.text("#job-facts")
    person.sees("in step", "#watch")
    assert {gateway, server}.isdisjoint(serve.processes())


def test_a_page_that_comes_up_too_early_makes_its_form_later(serve: Serve, tmp_path: Path) -> None:
    os.kill(serve.part("prefect_server"), signal.SIGKILL)
    with browser(tmp_path / "browser") as page:
        page.call("Runtime.enable")
        page.open(f"{serve.urls['gateway']}/")
        person = Person(page)
        person.sees("Prefect", "#problem")
        assert not page.run("!!document.querySelector('#option-model')")
        eventually(lambda: page.run("!!document.querySelector('#option-model')"), "the form")
        assert page.run("document.querySelectorAll('#option-model').length") == 1
        assert person.text("#problem") == ""


def test_the_page_runs_no_script_of_others(person: Person) -> None:
    blocked = person.page.run("""new Promise((resolve) => {
      document.addEventListener('securitypolicyviolation', (e) => resolve(e.effectiveDirective));
      const s = document.createElement('script');
      s.textContent = 'document.title = "owned"';
      document.body.append(s);
      setTimeout(() => resolve('nothing'), 3000);
    })""")
    assert blocked.startswith("script-src")
