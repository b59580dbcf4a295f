"""The gateway's page in a real browser, in front of a real `seedvr2 serve`: whole jobs by mouse and
by keyboard, hostile names, narrow and dark windows.

Needs Debian's package `chromium`. Pictures are kept under pytest's --basetemp, to be looked at.
axe-core is tried where npm can install it.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.kits.http.browser import browser
from tests.kits.http.person import Person
from tests.kits.server import Serve, eventually

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "deployments" / "demo" / "bunny_320x180.mp4"
CHROMIUM, NPM = shutil.which("chromium"), shutil.which("npm")
AXE = "axe-core@4.14.1"
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
    serve = Serve(tmp_path_factory.mktemp("serve"))
    yield serve.wait_until_ready()
    serve.stop()
    serve.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The script of axe-core; None where npm cannot install it."""
    folder = tmp_path_factory.mktemp("axe")
    if NPM is None:
        return None
    done = subprocess.run(
        [NPM, "install", "--no-save", "--ignore-scripts", "--prefix", str(folder), AXE],
        capture_output=True,
        timeout=180,
    )
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    return script.read_text() if done.returncode == 0 and script.is_file() else None


@pytest.fixture
def person(serve: Serve, tmp_path: Path) -> Iterator[Person]:
    with browser(tmp_path / "browser") as page:
        page.call("Runtime.enable")
        page.open(f"{serve.urls['gateway']}/")
        person = Person(page)
        person.sees("New job")
        eventually(lambda: person.page.run("!!document.querySelector('#option-model')"), "the form")
        yield person


def choose(person: Person, name: str, value: str) -> None:
    """Choose from a list, as the keyboard does: the list has the focus and takes letters."""
    person.page.run(f"document.querySelector('#option-{name}').focus()")
    person.page.call("Input.dispatchKeyEvent", type="char", text=value[0])
    for letter in value[1:]:
        person.page.call("Input.dispatchKeyEvent", type="char", text=letter)
    chosen = person.page.run(f"document.querySelector('#option-{name}').value")
    if chosen != value:  # lists of headless browsers differ in what they take
        person.page.run(
            f"(() => {{ const e = document.querySelector('#option-{name}'); e.value = '{value}';"
            "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )


def judge(person: Person, axe: str | None) -> None:
    """No serious fault in names, roles and contrast, in both colour schemes."""
    for scheme in ("light", "dark"):
        told = {"name": "prefers-color-scheme", "value": scheme}
        person.page.call("Emulation.setEmulatedMedia", features=[told])
        assert contrasts(person) == [], scheme
        assert nameless(person) == [], scheme
        if axe is not None:
            assert person.axe(axe) == [], scheme


def contrasts(person: Person) -> list[str]:
    """Texts whose contrast with what is behind them is less than 4.5 (WCAG 2.2, 1.4.3)."""
    return person.page.run("""(() => {
      const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) =>
        0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
      const behind = (e) => {
        for (; e; e = e.parentElement) {
          const c = numbers(getComputedStyle(e).backgroundColor);
          if (c.length < 4 || c[3] > 0) return c;
        }
        return [255, 255, 255];
      };
      const bad = [];
      for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.checkVisibility() || e.disabled) continue;
        const [a, b] = [light(numbers(getComputedStyle(e).color)), light(behind(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) bad.push(`${e.tagName} ${e.id} ${ratio.toFixed(2)}`);
      }
      return bad;
    })()""")


def nameless(person: Person) -> list[str]:
    """What can be operated and has no name, by the browser's own accessibility tree."""
    tree = person.page.call("Accessibility.getFullAXTree")["nodes"]
    operable = {"button", "link", "textbox", "searchbox", "combobox", "slider", "checkbox"}
    return [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored")
        and node.get("role", {}).get("value") in operable
        and not node.get("name", {}).get("value")
    ]


def test_a_whole_job_by_mouse(person: Person, tmp_path: Path, axe: str | None) -> None:
    clip = tmp_path / HOSTILE.replace("/", "_")
    clip.write_bytes(CLIP.read_bytes())
    judge(person, axe)
    person.looks(tmp_path / "new-1280.png", width=1280)
    person.drop("#drop", clip)
    person.sees(HOSTILE, "#chosen")
    choose(person, "model", "lanczos")
    choose(person, "resolution", "720p")
    person.click("#make-plan")
    person.sees("The plan is ready", "#planning")
    plan = person.text("#plan-facts")
    for words in ("320x180, 75 frames", "1280x720", "lanczos on cpu", "about"):
        assert words in plan
    assert KEPT in plan
    judge(person, axe)
    person.looks(tmp_path / "plan-1280.png", width=1280)
    person.click("#start")
    person.sees("Progress", "#job-facts")
    person.sees("Completed", "#job-status")
    facts = person.text("#job-facts")
    for words in ("75 of 75", "1280x720", "lanczos on cpu", "Expected", "Taken"):
        assert words in facts
    eventually(lambda: person.page.run("!document.querySelector('#compare').hidden"), "the picture")
    person.page.run("document.querySelector('#compare').scrollIntoView()")
    before = picture(person)
    person.click("#divider")  # its middle: where it is already
    person.press("Home")
    assert picture(person) != before, "the divider moves"
    judge(person, axe)
    address = person.page.run("document.querySelector('#download').href")
    assert httpx.get(address).content[4:8] == b"ftyp"
    for width in (390, 1280):
        for dark in (False, True):
            name = f"job-{width}-{'dark' if dark else 'light'}.png"
            person.looks(tmp_path / name, width=width, dark=dark)
            assert not person.overflows(), name
    assert person.page.run("document.title").startswith(KEPT), "and nobody else's"
    assert not person.page.run("document.querySelectorAll('main img').length")


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
    choose(person, "resolution", "1080p")
    person.tab_to("option-model")
    choose(person, "model", "span")
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
    person.sees("Cancelled", "#job-status")
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


def test_hostile_errors_and_addresses_are_text(person: Person, axe: str | None) -> None:
    person.page.run("document.querySelector('#address').focus()")
    person.write("http://127.0.0.1:9/<script>document.title='owned'</script>.mp4")
    person.click("#make-plan")
    person.sees("127.0.0.1", "#problem")
    assert person.page.run("document.title") == "New job - SeedVR2 upscaling"
    assert not person.page.run("document.querySelectorAll('main script').length")
    judge(person, axe)


def test_the_page_runs_no_script_of_others(person: Person) -> None:
    blocked = person.page.run("""new Promise((resolve) => {
      document.addEventListener('securitypolicyviolation', (e) => resolve(e.effectiveDirective));
      const s = document.createElement('script');
      s.textContent = 'document.title = "owned"';
      document.body.append(s);
      setTimeout(() => resolve('nothing'), 3000);
    })""")
    assert blocked.startswith("script-src")
