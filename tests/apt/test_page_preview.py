"""Previews on the page, in a real browser in front of a real `seedvr2 serve`: asked for by
mouse and by keyboard, compared with a divider, and made the whole film. Single pictures likewise.

Needs Debian's package `chromium`. Pictures are kept under pytest's --basetemp, to be looked at.
"""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import get_args

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from seedvr2_core.video.output.formats import CODECS
from tasks.request.video import Codec
from tests.kits.http.browser import browser
from tests.kits.http.fair import judge, looks_everywhere
from tests.kits.http.gateway import served
from tests.kits.http.person import Person
from tests.kits.server import Serve, eventually

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "deployments" / "demo" / "bunny_320x180.mp4"
pytestmark = [
    pytest.mark.apt,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Segments of half a second: the clip has six."""
    with Serve(tmp_path_factory.mktemp("serve")) as serve:
        yield serve


@pytest.fixture
def person(serve: Serve, tmp_path: Path) -> Iterator[Person]:
    with browser(tmp_path / "browser") as page:
        yield at_form(Person(page), f"{serve.urls['gateway']}/")


def at_form(person: Person, url: str) -> Person:
    """Somebody at the form of a new job."""
    person.page.call("Runtime.enable")
    person.page.open(url)
    eventually(lambda: person.page.run("!!document.querySelector('#option-model')"), "the form")
    return person


def plan(person: Person, file: Path, *, crf: int, codec: str = "auto") -> None:
    """Plan a job of a few seconds; jobs of different qualities share nothing."""
    root = person.page.call("DOM.getDocument")["root"]["nodeId"]
    node = person.page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    person.page.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
    person.sees(file.name, "#chosen")
    person.choose("#option-model", "lanczos")
    person.choose("#option-resolution", "720p")
    person.choose("#option-codec", codec)
    person.page.run("document.querySelector('#new fieldset details').open = true")
    person.replace("#option-crf", str(crf))
    person.click("#make-plan")
    person.sees("The plan is ready", "#planning")


def is_hidden(person: Person, selector: str) -> bool:
    """Whether an element takes no place on the page."""
    return not person.page.run(f"document.querySelector('{selector}').checkVisibility()")


def shown(person: Person, folder: Path, selector: str) -> np.ndarray:
    """What a person sees of an element, (H, W, 3) uint8."""
    person.page.run(f"document.querySelector('{selector}').scrollIntoView()")
    x, y, width, height = person.page.run(
        f"(() => {{ const b = document.querySelector('{selector}').getBoundingClientRect();"
        "return [b.x + scrollX, b.y + scrollY, b.width, b.height]; })()"
    )
    file = person.looks(folder / "shown.png", width=1280)
    with Image.open(file) as image:
        box = (round(x), round(y), round(x + width), round(y + height))
        return np.asarray(image.convert("RGB").crop(box)).astype(int)


def test_a_preview_by_mouse_and_then_the_whole_film(
    person: Person, tmp_path: Path, axe: str | None
) -> None:
    plan(person, CLIP, crf=21)
    assert is_hidden(person, "#piece-place"), "no place has to be chosen"
    person.choose("#piece-length", "1")
    person.choose("#piece-where", "own")
    for wrong, told in (("soon", "is no time"), ("0:03", "The film ends at 0:03")):
        person.replace("#piece-at", wrong)
        person.click("#make-piece")
        person.sees(told, "#piece-told")
        assert person.focused() == "piece-at"
        judge(person, axe)
    person.replace("#piece-at", "0:01")
    person.sees("From 0:01 to 0:02 of 0:03.", "#piece-told")
    looks_everywhere(person, tmp_path, "piece")
    judge(person, axe)
    person.click("#make-piece")
    person.sees("Preview of bunny_320x180.mp4", "#job-title")
    person.sees("Completed", "#job-status")
    facts = person.text("#job-facts")
    for words in ("0:01 to 0:02", "of 6 segments", "The whole film", "25 of 25", "1280x720"):
        assert words in facts, facts
    person.sees("Download the piece", "#download")
    made = int(facts.split("Made for it\n")[1].split(" of ")[0])
    assert 1 < made < 6
    compared(person, tmp_path, axe)
    person.click("nav a[href='#/jobs']")
    person.sees("preview", "#jobs-list")
    person.page.run("history.back()")
    person.sees("Completed", "#job-status")
    preview = person.page.run("location.hash")
    eventually(lambda: not is_hidden(person, "#whole"), "the page of the preview again")
    person.click("#whole")
    eventually(lambda: person.page.run("location.hash") != preview, "the new job")
    person.sees("75 of 75", "#job-facts")
    person.sees("Completed", "#job-status")
    assert "Preview" not in person.text("#job-title")
    assert is_hidden(person, "#whole")
    person.sees(f"{made} segments kept from the preview", "#job-notes")
    looks_everywhere(person, tmp_path, "film")


def compared(person: Person, folder: Path, axe: str | None) -> None:
    """The picture and the clip have a divider that shows more of the source or of the result."""
    eventually(lambda: not is_hidden(person, "#compare"), "the picture")
    person.sees("in step", "#watch")
    person.click("#watch-load")
    ready = "['before', 'after'].every(n => document.querySelector('#video-' + n).readyState >= 3)"
    eventually(lambda: person.page.run(ready), "both clips")
    sizes = person.page.run(
        "['before', 'after'].map(n => document.querySelector('#video-' + n).videoWidth)"
    )
    assert sizes == [1280, 1280], "the source is enlarged to the result's size"
    person.page.run("document.querySelector('#watch-time').focus()")
    person.press("Home")
    parts: list[np.ndarray] = []
    for key in ("Home", "End"):
        person.page.run("document.querySelector('#watch-divider').focus()")
        person.press(key)
        parts.append(shown(person, folder, "#watch-pair"))
    result, source = (part[10:-10, 10:-10] for part in parts)
    assert np.abs(result - source).mean() > 0.3, "one is the result, the other the source"
    person.page.run(
        "(() => { const e = document.querySelector('#watch-divider'); e.value = 50;"
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    both = shown(person, folder, "#watch-pair")[10:-10, 10:-10]
    half = both.shape[1] // 2
    assert np.abs(both[:, : half - 4] - source[:, : half - 4]).mean() < 0.1
    assert np.abs(both[:, half + 4 :] - result[:, half + 4 :]).mean() < 0.1
    judge(person, axe)
    looks_everywhere(person, folder, "preview")
    person.choose("#watch-how", "beside")
    assert is_hidden(person, "#watch-divider")
    judge(person, axe)
    person.looks(folder / "beside-1280.png", width=1280)


def test_a_preview_and_the_whole_film_by_keyboard(person: Person, serve: Serve) -> None:
    plan(person, CLIP, crf=22)
    assert person.focused() == "plan-title"
    way = person.tab_to("piece-length")
    assert way == ["start", "piece-length"], "right behind the button for the whole"
    person.press("ArrowUp")
    assert person.page.run("document.querySelector('#piece-length').value") == "1"
    person.tab_to("piece-where")
    person.press("ArrowDown")
    assert person.focused() == "piece-where", "a choice moves nobody elsewhere"
    assert person.tab_to("piece-slide") == ["piece-at", "piece-slide"]
    for _ in range(15):
        person.press("ArrowRight")
    person.sees("From 0:01.5 to 0:02.5 of 0:03.", "#piece-told")
    person.tab_to("make-piece")
    person.press("Enter")
    person.sees("Preview of bunny_320x180.mp4", "#job-title")
    person.sees("Completed", "#job-status")
    assert person.focused() == "job-title"
    person.tab_to("whole")
    person.press("Enter")
    person.sees("75 of 75", "#job-facts")
    person.sees("Completed", "#job-status")
    person.sees("kept from the preview", "#job-notes")


@contextmanager
def under_path(url: str, path: str) -> Iterator[str]:
    """A proxy that shows a server under a path, as an operator's web server does."""
    client = httpx.AsyncClient(base_url=url, timeout=None)

    @asynccontextmanager
    async def closed_at_the_end(app: Starlette) -> AsyncIterator[None]:
        async with client:  # answers that are followed for long are cut then
            yield

    async def forward(request: Request) -> StreamingResponse:
        query = request.url.query and f"?{request.url.query}"
        asked = client.build_request(
            request.method,
            f"/{request.path_params['rest']}{query}",
            headers=request.headers.items(),  # with the host that the browser has asked
            content=request.stream(),
        )
        answer = await client.send(asked, stream=True)
        told = {k: v for k, v in answer.headers.items() if k != "transfer-encoding"}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, told)

    methods = ["GET", "HEAD", "POST", "PATCH"]
    route = Route(f"{path}{{rest:path}}", forward, methods=methods)
    with served(Starlette(routes=[route], lifespan=closed_at_the_end)) as proxy:
        yield f"{proxy}{path}"


def test_without_a_place_and_behind_a_proxys_path(serve: Serve, tmp_path: Path) -> None:
    """Every address is relative, that of the whole film too."""
    with (
        under_path(serve.urls["gateway"], "/some/path/") as url,
        browser(tmp_path / "browser") as page,
    ):
        person = at_form(Person(page), url)
        plan(person, CLIP, crf=23)
        person.choose("#piece-length", "1")
        person.click("#make-piece")
        person.sees("Preview of", "#job-title")
        person.sees("Completed", "#job-status")
        eventually(lambda: not is_hidden(person, "#compare"), "the picture")
        person.click("#watch-load")
        ready = "document.querySelector('#video-after').readyState >= 3"
        eventually(lambda: person.page.run(ready), "the clip")
        person.click("#whole")
        person.sees("75 of 75", "#job-facts")
        person.sees("Completed", "#job-status")
        assert page.run("location.pathname") == "/some/path/"


@pytest.mark.parametrize("codec", ["auto", "tiff", "jpeg", "webp", "exr"])
def test_a_single_picture_has_a_divider_and_no_preview(
    person: Person, tmp_path: Path, axe: str | None, codec: str
) -> None:
    rng = np.random.default_rng(7)
    small = Image.fromarray(rng.integers(0, 255, (18, 32, 3), np.uint8))
    still = tmp_path / "still.png"
    small.resize((320, 180), Image.Resampling.BICUBIC).save(still)
    plan(person, still, crf=24, codec=codec)
    assert is_hidden(person, "#piece")
    person.click("#start")
    person.sees("Completed", "#job-status")
    person.sees(CODECS["png" if codec == "auto" else codec].ending, "#job-facts")
    eventually(lambda: not is_hidden(person, "#compare"), "the picture")
    size = "[document.querySelector('#picture').width, document.querySelector('#picture').height]"
    assert person.page.run(size) == [1280, 720], "all of it"
    assert is_hidden(person, "#watch")
    assert is_hidden(person, "#whole")
    judge(person, axe)
    person.page.run("document.querySelector('#divider').focus()")
    ends: list[str] = []
    for key in ("Home", "End"):
        person.press(key)
        ends.append(person.page.run("document.querySelector('#picture').toDataURL()"))
    assert ends[0] != ends[1]
    person.press("Home")
    for _ in range(40):
        person.press("ArrowRight")
    looks_everywhere(person, tmp_path, "still")


def test_every_codec_can_be_chosen_and_the_plan_says_it(person: Person) -> None:
    """The page's list is the schema's; pictures and transparent video among them."""
    offered = "[...document.querySelectorAll('#option-codec option')].map((one) => one.value)"
    assert person.page.run(offered) == list(get_args(Codec))
    for codec, container in (("jpeg", "folder"), ("exr", "folder"), ("vp9", "webm")):
        plan(person, CLIP, crf=22, codec=codec)
        for word in (codec, container):
            eventually(lambda word=word: word in person.text("#plan"), f"{word} in the plan")
        person.page.reload()
        eventually(lambda: person.page.run("!!document.querySelector('#option-model')"), "the form")
