"""The options of the page for a new job: their sections, names, contrast and the focus's way.

Needs Debian's package `chromium`. Pictures are kept under pytest's --basetemp, to be looked at.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.gateway.app import create_app
from deployments.gateway.prefect_api import PrefectApi
from tasks.request.sections import SECTIONS
from tasks.settings import Settings
from tests.kits.http.browser import browser
from tests.kits.http.fair import each_look, judge
from tests.kits.http.gateway import served
from tests.kits.http.person import Person
from tests.kits.server import eventually

pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]
LEFT_OUT = {
    *("video_url", "video_path", "video_base64", "preview"),
    *("output_url", "callback_url", "callback_events"),
}
"""The page has other ways for these, or none."""
FORM = """(() => {
  const names = (where) => [...where.querySelectorAll('[name]')].map((one) => one.name);
  const sections = [...document.querySelectorAll('#more-options fieldset')];
  return {
    first: names(document.querySelector('#options')),
    more: sections.map((one) => [one.querySelector('legend').textContent, names(one)]),
    notes: names(document.querySelector('#notes')),
  };
})()"""


@pytest.fixture
def person(api_url: str, tmp_path: Path) -> Iterator[Person]:
    app = create_app(Settings(work_dir=tmp_path), PrefectApi(api_url))
    with served(app) as url, browser(tmp_path / "browser") as page:
        page.call("Runtime.enable")
        page.open(f"{url}/")
        eventually(lambda: page.run("!!document.querySelector('#option-model')"), "the form")
        yield Person(page)


def test_more_options_stand_in_the_sections_of_prefects_form(
    person: Person, tmp_path: Path, axe: str | None
) -> None:
    shown = person.page.run(FORM)
    first = {*shown["first"]}
    wanted = {
        heading: [name for name in names if name not in LEFT_OUT | first]
        for heading, names in SECTIONS.items()
    }
    assert shown["notes"] == wanted.pop("Notes")
    assert [(heading, names) for heading, names in shown["more"]] == [*wanted.items()]
    person.tab_to("option-codec")
    person.press("Tab")
    assert person.focused() == "More options"
    person.press("Enter")
    for names in wanted.values():
        for name in names:
            assert person.tab_to(f"option-{name}", most=1), "the focus goes as the eye does"
    for _ in each_look(person, tmp_path, "options"):
        judge(person, axe)
