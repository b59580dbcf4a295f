"""The comparison as one HTML file that needs nothing else and works without a network.

It says itself, by a content security policy with digests, that no other script or style may run.
Without scripts both pictures of a moment stand below each other. What comes from outside (names,
notes) goes in as text.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from seedvr2_core.compare.record import ComparedFacts, ComparisonResult
from seedvr2_core.report.pictures import inside
from seedvr2_core.report.plots import points as plot

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --quiet: #4a5560; --edge: #6b7682;
  --panel: #f2f4f7; --a: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --text: #e8ecf0; --quiet: #b3bdc7;
  --edge: #8593a1; --panel: #1f252c; --a: #7cb8f5; } }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--back);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
a { color: var(--a); } .quiet { color: var(--quiet); }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { text-align: left; font-weight: 400; padding: .15rem 1rem .15rem 0; vertical-align: top; }
th { color: var(--quiet); overflow-wrap: break-word; }
.plot { width: 100%; max-width: 40rem; height: auto; background: var(--panel); }
.plot text { fill: var(--text); font-size: 12px; } .s0 { fill: var(--a); }
@media (max-width: 34rem) { .plot text { font-size: 18px; } }
.axis { stroke: var(--edge); } .keys { list-style: none; padding: 0; }
.moment img { display: block; width: 100%; height: auto; } figure { margin: 0 0 1.5rem; }
.moment input { display: none; }
.slides .pair { position: relative; }
.slides .b { position: absolute; inset: 0; object-fit: fill; height: 100% !important;
  clip-path: inset(0 0 0 var(--at, 50%)); }
.slides .pair::after { content: ""; position: absolute; top: 0; bottom: 0; width: 2px;
  left: calc(var(--at, 50%) - 1px); background: #fff; box-shadow: 0 0 0 1px #0008; }
.slides input { display: block; width: 100%; margin: .5rem 0 0; min-height: 1.5rem;
  accent-color: var(--a); }
.slides .pair { cursor: ew-resize; touch-action: pan-y; }
"""
_SCRIPT = """
for (const moment of document.querySelectorAll(".moment")) {
  const pair = moment.querySelector(".pair"), slider = moment.querySelector("input");
  const show = () => pair.style.setProperty("--at", slider.value + "%");
  const follow = (event) => {
    const box = pair.getBoundingClientRect();
    slider.value = String(100 * (event.clientX - box.left) / box.width);
    show();
  };
  moment.classList.add("slides");
  slider.addEventListener("input", show);
  pair.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    pair.setPointerCapture(event.pointerId);
    follow(event);
  });
  pair.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
  show();
}
"""


@dataclass(frozen=True, slots=True)
class ShownMoment:
    """A moment of the page."""

    seconds: float
    difference: float
    """Mean absolute difference of the luma, in levels."""
    a: bytes
    """JPEG."""
    b: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutPage:
    """What stands on a page beside the result's numbers."""

    title: str
    video_name: str
    """Of the video that lies beside it."""
    chosen: ShownMoment | None
    """The moment that was asked for."""
    moments: Sequence[ShownMoment]
    """In the order of time."""
    points: Sequence[tuple[float, float]]
    """(seconds, difference) over the whole time."""


def page(about: AboutPage, result: ComparisonResult) -> str:
    """The whole file."""
    title, labels = escape(about.title), (result.a.label, result.b.label)
    moments = list(about.moments)
    if about.chosen is not None:
        moments = [about.chosen, *(m for m in moments if m.seconds != about.chosen.seconds)]
    first = "The chosen moment first, then one" if about.chosen else "One moment"
    body = (
        f"<h1>{title}</h1>{_notes(result)}"
        f'<p><a href="{escape(quote(about.video_name), quote=True)}">The video with both side by '
        f"side</a> ({result.width}x{result.height}) lies beside this page.</p>"
        f"<h2>Moments</h2><p class='quiet'>{first} from each part of the time: that at which both "
        f"differ most. {escape(labels[0])} is on the left of the line, {escape(labels[1])} on its "
        f"right.</p>{''.join(_moment(number, one, labels) for number, one in enumerate(moments))}"
        f"{_measures(result, about.points)}{_facts(result)}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _policy() -> str:
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (_SCRIPT, _STYLE)
    ]
    return (
        f"default-src 'none'; img-src data:; script-src 'sha256-{digests[0]}'; "
        f"style-src 'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
    )


def _notes(result: ComparisonResult) -> str:
    if not result.notes:
        return ""
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in result.notes)}</ul>"


def _moment(number: int, moment: ShownMoment, labels: tuple[str, str]) -> str:
    names = [f"{label} at {moment.seconds:.2f} s" for label in labels]
    pictures = "".join(
        f'<img class="{side}" alt="{escape(name, quote=True)}" src="{inside(content)}">'
        for side, name, content in zip("ab", names, (moment.a, moment.b), strict=True)
    )
    return (
        f'<figure class="moment"><div class="pair">{pictures}</div>'
        f'<input id="slider-{number}" type="range" min="0" max="100" step="0.5" value="50" '
        f'aria-label="Divider at {moment.seconds:.2f} s">'
        f"<figcaption>At {moment.seconds:.2f} s, difference {moment.difference:.2f} levels"
        "</figcaption></figure>"
    )


def _measures(result: ComparisonResult, points: Sequence[tuple[float, float]]) -> str:
    words = (
        f"Mean absolute difference of the luma, in levels of 255, both at the size of the video "
        f"above: {result.mean_difference:.2f} over all frames, at most "
        f"{result.largest_difference:.2f} at {result.largest_seconds:.2f} s. It says where to "
        "look, not which of them is better."
    )
    drawn = plot(
        {"difference": points},
        length=result.duration_seconds,
        unit="levels",
        name="Difference over time",
    )
    return f"<h2>Difference over time</h2><p class='quiet'>{escape(words)}</p>{drawn}"


def _facts(result: ComparisonResult) -> str:
    def row(name: str, *values: str) -> str:
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        return f'<tr><th scope="row">{name}</th>{cells}</tr>'

    a, b = result.a, result.b
    rows = [
        row("File", a.name, b.name),
        row("Size", _size(a), _size(b)),
        row("Codec", a.codec, b.codec),
        row("Frames", _frames(a), _frames(b)),
        row("Length", f"{a.duration_seconds:.3f} s", f"{b.duration_seconds:.3f} s"),
        row("Bytes", f"{a.num_bytes / 1e6:.2f} MB", f"{b.num_bytes / 1e6:.2f} MB"),
    ]
    head = f'<tr><td></td><th scope="col">A: {escape(a.label)}</th>'
    head += f'<th scope="col">B: {escape(b.label)}</th></tr>'
    return f'<h2>The files</h2><div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _size(one: ComparedFacts) -> str:
    return f"{one.width}x{one.height}"


def _frames(one: ComparedFacts) -> str:
    return f"{one.num_frames}, {one.frames_per_second:.3f} a second"
