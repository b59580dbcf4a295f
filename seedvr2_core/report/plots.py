"""Plots as SVG: bars for times, points over the length of the video. No script, no outside file.

Colours come from the page's style sheet by class, so that they fit dark and light alike. What a
plot shows stands beside it as numbers too.
"""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 640, 180, 72
_ROW, _NAMES = 24, 130


def bars(values: Mapping[str, float], *, unit: str, name: str) -> str:
    """One bar a row, with its number."""
    most = max(values.values(), default=0.0) or 1.0
    rows: list[str] = []
    for row, (label, value) in enumerate(values.items()):
        y = row * _ROW
        length = (WIDTH - _NAMES - 90) * value / most
        rows.append(
            f'<text x="{_NAMES - 8}" y="{y + 16}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="bar" x="{_NAMES}" y="{y + 4}" width="{max(1.0, length):.1f}" '
            f'height="16"/><text x="{_NAMES + length + 6:.1f}" y="{y + 16}">'
            f"{value:.1f} {escape(unit)}</text>"
        )
    return _svg("".join(rows), name, max(1, len(values)) * _ROW)


def points(
    series: Mapping[str, Sequence[tuple[float, float]]], *, length: float, unit: str, name: str
) -> str:
    """Points (seconds, value) of several series, in classes `s0`, `s1` and so on.

    Args:
        series: name -> points.
        length: of the video in seconds.
        unit: of the values.
        name: what the plot shows, for those who do not see it.
    """
    values = [value for dots in series.values() for _, value in dots]
    low, high = min([0.0, *values]), max([0.0, *values])
    high = high if high > low else low + 1.0

    def place(at: float, value: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - MARGIN - 10) * at / max(length, 1e-9)
        return x, 10 + (HEIGHT - 40) * (high - value) / (high - low)

    dots: list[str] = []
    for number, each in enumerate(series.values()):
        for at, value in each:
            x, y = place(at, value)
            dots.append(f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    zero = place(0, 0.0)[1]
    axes = (
        f'<line class="axis" x1="{MARGIN}" y1="{zero:.1f}" x2="{WIDTH - 10}" y2="{zero:.1f}"/>'
        f'<text x="{MARGIN - 6}" y="18" text-anchor="end">{high:.2g}</text>'
        f'<text x="{MARGIN - 6}" y="{HEIGHT - 28}" text-anchor="end">{low:.2g}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 6}">0 s</text>'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{length:.1f} s</text>'
    )
    keys = "".join(
        f'<li><svg width="12" height="12" aria-hidden="true"><circle class="s{number}" cx="6" '
        f'cy="6" r="4"/></svg> {escape(label)} ({escape(unit)})</li>'
        for number, label in enumerate(series)
    )
    return _svg(axes + "".join(dots), name, HEIGHT) + f'<ul class="keys">{keys}</ul>'


def _svg(inside: str, name: str, height: int) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(name, quote=True)}">{inside}</svg>'
    )
