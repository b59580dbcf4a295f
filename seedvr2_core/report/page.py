"""The report as one HTML file that needs nothing else: no script, no outside file, dark and light.

Whatever comes from outside (names, notes) goes in as text.
"""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from seedvr2_core.report.look import Moment
from seedvr2_core.report.pictures import inside, jpeg
from seedvr2_core.report.plots import bars, points
from seedvr2_core.report.record import QualityReport, VideoFacts

_JPEG_QUALITY = 88
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --quiet: #4a5560; --edge: #6b7682;
  --panel: #f2f4f7; --a: #0b5cad; --b: #b3440e; --c: #14632f; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --text: #e8ecf0; --quiet: #b3bdc7;
  --edge: #8593a1; --panel: #1f252c; --a: #7cb8f5; --b: #f5b07c; --c: #85d69b; } }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--back);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 400;
  color: var(--quiet); padding: .15rem 1rem .15rem 0; vertical-align: top; overflow-wrap: normal; }
td { padding: .15rem 1rem .15rem 0; } .quiet { color: var(--quiet); }
.plot { width: 100%; max-width: 40rem; height: auto; background: var(--panel); }
.plot text { fill: var(--text); font-size: 12px; } .bar, .s0 { fill: var(--a); }
@media (max-width: 34rem) { .plot text { font-size: 18px; } }
.s1 { fill: var(--b); } .s2 { fill: var(--c); } .axis { stroke: var(--edge); }
.keys { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
  gap: .5rem; margin-bottom: 1rem; } .pair img { width: 100%; height: auto; display: block; }
figure { margin: 0; }
"""


def page(report: QualityReport, moments: Sequence[Moment]) -> str:
    """The whole file."""
    title = f"Report: {report.output.name}"
    parts = (
        _warnings(report),
        _facts(report),
        _moments(moments),
        _quality(report),
        _times(report),
        _notes(report),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{''.join(parts)}</main></body></html>\n"
    )


def _warnings(report: QualityReport) -> str:
    if not report.warnings:
        return "<h2>In short</h2><p>Nothing that was measured stands out.</p>"
    return f"<h2>In short</h2>{_list(report.warnings)}"


def _facts(report: QualityReport) -> str:
    engine = report.engine
    rows = [
        ("Source", _video(report.source)),
        ("SHA-256 of the source", report.source.sha256),
        ("Result", _video(report.output)),
        ("SHA-256 of the result", report.output.sha256),
        ("Coded as", report.output.settings),
        ("Engine", f"{engine.name} on {', '.join(engine.devices)}"),
        ("Precision", ", ".join(engine.precisions)),
        ("Weights", engine.weights_digest or "none, or those that the engine brings"),
        ("Options", ", ".join(f"{name} {value}" for name, value in engine.options.items())),
        ("Threads", str(engine.threads)),
        ("Versions", ", ".join(f"{name} {value}" for name, value in report.versions.items())),
        ("Job", report.job_key),
    ]
    return f"<h2>What was made of what</h2>{_table(rows)}"


def _video(video: VideoFacts) -> str:
    return (
        f"{video.name}: {video.width}x{video.height}, {video.num_frames} frames, "
        f"{video.duration_seconds:.2f} s, {video.codec} {video.pix_fmt} in {video.container}, "
        f"{video.num_bytes / 1e6:.2f} MB"
    )


def _moments(moments: Sequence[Moment]) -> str:
    if not moments:
        return ""
    shown = "".join(
        f"<h3>At {m.sight.seconds:.2f} s (frame {m.sight.frame}), {m.sight.difference:.1f} levels "
        f'</h3><div class="pair">{_picture(m.before, "before")}{_picture(m.after, "after")}</div>'
        for m in moments
    )
    return (
        "<h2>Where the result differs most from the source</h2><p class='quiet'>Parts of frames, "
        "pixel for pixel as in the result; the source is enlarged by a bicubic filter. Chosen among"
        f" the places that were looked at.</p>{shown}"
    )


def _picture(rgb: np.ndarray, name: str) -> str:
    return (
        f'<figure><img alt="{name}" src="{inside(jpeg(rgb, quality=_JPEG_QUALITY))}">'
        f"<figcaption>{name.capitalize()}</figcaption></figure>"
    )


def _quality(report: QualityReport) -> str:
    s, sights = report.summary, report.sights
    length = report.source.duration_seconds
    flicker = {
        "where pieces meet": [(x.seconds, x.flicker) for x in sights if x.join],
        "elsewhere": [(x.seconds, x.flicker) for x in sights if not x.join],
    }
    drift = {
        name: [(x.seconds, x.drift[channel]) for x in sights]
        for channel, name in enumerate(("luma", "blue (Cb)", "red (Cr)"))
    }
    rows = [
        ("Places looked at", f"{s.places} pairs of frames, {s.joins} of them where pieces meet"),
        ("Flicker where pieces meet", _number(s.flicker_at_joins, "levels")),
        ("Flicker elsewhere", _number(s.flicker_elsewhere, "levels")),
        ("Colour drift (Y', Cb, Cr)", ", ".join(f"{v:+.2f}" for v in s.drift or ()) or None),
        ("Largest drift at one place", _number(s.worst_drift, "levels")),
        ("Fine detail against the source", _number(s.detail_db, "dB", sign=True)),
        ("Detail beyond the source's size", _number(s.beyond, "levels")),
        ("Difference from the source", _number(s.difference, "levels")),
        ("Black frames", f"{s.black} of {s.places}"),
        ("Frozen frames", f"{s.frozen} of {s.places}"),
        ("Values that are no numbers", report.non_finite),
    ]
    words = (
        "Medians over the places; a level is one of 255. Flicker is how much the low frequencies of"
        " (result - source) change from one frame to the next. Fine detail compares the finest "
        "octave of both at the smaller size: 0 dB is as much as the source has. None of this rates "
        "the model, which re-renders: a plain enlargement would be nearer to the source."
    )
    return (
        f"<h2>What was measured</h2><p class='quiet'>{escape(words)}</p>{_table(rows)}"
        f"<h3>Flicker</h3>{points(flicker, length=length, unit='levels', name='Flicker over time')}"
        f"<h3>Colour drift</h3>"
        f"{points(drift, length=length, unit='levels', name='Colour drift over time')}"
    )


def _times(report: QualityReport) -> str:
    segments = {f"segment {one.index}": one.seconds for one in report.segments}
    sizes = {f"Planned, {phase}": size for phase, size in report.planned_peaks.items()}
    sizes["Host, the most that was measured"] = report.peak_bytes or 0
    if report.gpu_peak_bytes is not None:
        sizes["GPU, the most that was measured"] = report.gpu_peak_bytes
    told = [(name, f"{size / 2**30:.2f} GiB" if size else None) for name, size in sizes.items()]
    shown = dict(list(segments.items())[:60])
    many = f"<p class='quiet'>The first 60 of {len(segments)}.</p>" if len(segments) > 60 else ""
    return (
        "<h2>Time and memory</h2><h3>Time per stage of this run</h3>"
        f"{bars(report.stage_seconds, unit='s', name='Seconds per stage')}"
        f"<h3>Time per segment</h3>{bars(shown, unit='s', name='Seconds per segment')}{many}"
        f"<h3>Memory</h3>{_table(told)}"
        "<p class='quiet'>Measured: of a process that made segments, since it began.</p>"
        f"<p class='quiet'>Measuring for this report took {report.report_seconds:.1f} s.</p>"
    )


def _notes(report: QualityReport) -> str:
    return f"<h2>Notes of the job</h2>{_list(report.notes)}" if report.notes else ""


def _number(value: float | None, unit: str, *, sign: bool = False) -> str | None:
    if value is None:
        return None
    return f"{value:+.2f} {unit}" if sign else f"{value:.2f} {unit}"


def _table(rows: Iterable[tuple[str, str | None]]) -> str:
    told = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value or "not measured")}</td></tr>'
        for name, value in rows
    )
    return f"<table><tbody>{told}</tbody></table>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
