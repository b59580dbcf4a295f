"""Makes a comparison in one pass over both videos: the video, the picture, the page.

Memory: two frames of each video, the sheet, one kept pair, and JPEGs of a few moments.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.compare.clock import MatchedFrames, match, sheet_clock
from seedvr2_core.compare.page import AboutPage, ShownMoment, page
from seedvr2_core.compare.record import ComparedFacts, ComparedFile, Comparison, ComparisonResult
from seedvr2_core.compare.sheet import Panel, beside, difference, layout_of, shallow
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.frames import Frame
from seedvr2_core.planning import Options
from seedvr2_core.planning.clock import fit_clock
from seedvr2_core.planning.outputs import choose_output, encoder_settings
from seedvr2_core.planning.plan import EngineSettings
from seedvr2_core.report.pictures import jpeg
from seedvr2_core.video.alpha.wish import FLATTEN
from seedvr2_core.video.foreign import media_errors_told
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.join import JoinPart, join_segments
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames, place_of, wanted_frames
from seedvr2_core.video.writer import SegmentWriter

MOMENTS = 5
"""Equal parts of the time; the page shows of each the moment of the largest difference."""
MAX_POINTS = 300
"""Of the plot."""
_CRF, _PRESET = 16, "fast"
_JPEG_QUALITY = 90


@dataclass(slots=True)
class _Seen:
    """What one pass has seen."""

    differences: list[float] = field(default_factory=list)
    largest: float = -1.0
    best: dict[int, ShownMoment] = field(default_factory=dict)
    """Part of the time -> its moment of the largest difference."""
    kept: tuple[float, np.ndarray] | None = None
    """Seconds and sheet of the picture."""
    chosen: ShownMoment | None = None
    """The moment that was asked for."""


def make_comparison(wanted: Comparison, *, beat: Beat = no_beat) -> ComparisonResult:
    """Write the video, the picture and the page of a comparison into its folder.

    Args:
        wanted: the files and what is wanted of them.
        beat: sign of life, with "probe" and "join" in bytes and "compare" in frames.

    Raises:
        InvalidVideoError: one of them is no video, or cannot be decoded.
        InvalidRequestError: a place lies outside of a video.
    """
    a, b = (_probed(one, beat) for one in (wanted.a, wanted.b))
    making = _Making(wanted, a, b, beat)
    segment = wanted.folder / "compare.part.mp4"
    with SegmentWriter(segment, making.settings, making.clock.pts[0]) as writer:
        seen = making.look(writer)
    notes = [*_notes(a, b), *making.join(segment)]
    segment.unlink()
    assert seen.kept is not None  # a comparison has a frame
    Image.fromarray(seen.kept[1]).save(wanted.picture)
    result = making.result(seen, notes)
    about = AboutPage(
        title=wanted.title,
        video_name=wanted.video_name,
        chosen=seen.chosen,
        moments=[seen.best[part] for part in sorted(seen.best)],
        points=_thinned(making.seconds, seen.differences),
    )
    told = page(about, result)
    write_bytes(wanted.page, told.encode())
    return result


def _probed(one: ComparedFile, beat: Beat) -> VideoInfo:
    """A file, from where its part of the comparison begins."""
    with media_errors_told(one.path, "its packets are read"):
        info = probe_video(one.path, beat=beat)
    return wanted_frames(info, WantedFrames(start=one.start, alpha=FLATTEN))


class _Making:
    """One comparison at work."""

    def __init__(self, wanted: Comparison, a: VideoInfo, b: VideoInfo, beat: Beat) -> None:
        self._wanted, self._infos, self._beat = wanted, (a, b), beat
        self._matched: MatchedFrames = match(a, b)
        lead = a if self._matched.leads_a else b
        sound = b if wanted.audio == "b" else a
        self.num_frames = len(self._matched.others)
        self.clock, self._clock_note = fit_clock(sheet_clock(lead, sound, self.num_frames))
        base = Fraction(*lead.time_base)
        self.seconds = [float((time - lead.pts[0]) * base) for time in lead.pts[: self.num_frames]]
        self._at = self._moment(wanted.at, lead)
        self._layout = layout_of(a, b, wanted.height)
        self._deep = max(a.wanted_bits, b.wanted_bits) > 8
        options = _options(wanted)
        coloured = a if a.color.is_wide or not b.color.is_wide else b
        choice = choose_output(coloured, options)
        self._output = choice.settings
        self.settings = encoder_settings(
            self.clock, self._layout.width, self._layout.height, choice, options
        )

    def _moment(self, at: str, lead: VideoInfo) -> int | None:
        """Index of the frame that is shown at the chosen moment; None: none was chosen.

        Raises:
            InvalidRequestError: the comparison has no such moment.
        """
        if not at:
            return None
        place = place_of(at)
        end = self.seconds[-1] + 1.0 / max(1e-9, float(Fraction(*lead.nominal_rate)))
        index = place.frame
        if index is None:
            index = sum(time <= place.seconds + Fraction(1, 2000) for time in self.seconds) - 1
        if index >= self.num_frames or (place.frame is None and place.seconds > end):
            raise InvalidRequestError(
                f"the comparison has no moment {at}: it has {self.num_frames} frames and lasts "
                f"{end:.3f} s, the time that both videos have"
            )
        return index

    def look(self, writer: SegmentWriter) -> _Seen:
        """Go through both videos once, and write the sheet of each moment."""
        seen, (left, right) = _Seen(), self._panels()
        for index, (a, b) in enumerate(self._pairs()):
            one, other = left.scaled(a), right.scaled(b)
            sheet = beside(left.labelled(one), right.labelled(other))
            writer.write(Frame(rgb=sheet, pts=self.clock.pts[index], index=index))
            self._note(seen, index, (shallow(one), shallow(other)), sheet)
            self._beat("compare", index + 1, self.num_frames)
        return seen

    def _note(
        self, seen: _Seen, index: int, pair: tuple[np.ndarray, np.ndarray], sheet: np.ndarray
    ) -> None:
        """Keep what the picture and the page show of this moment."""
        found = difference(*pair)
        largest = found > seen.largest
        seen.largest = max(found, seen.largest)
        seen.differences.append(found)
        part = index * MOMENTS // self.num_frames
        best = seen.best.get(part)
        if index == self._at or best is None or found > best.difference:
            shown = (jpeg(picture, quality=_JPEG_QUALITY) for picture in pair)
            moment = ShownMoment(self.seconds[index], found, *shown)
            if best is None or found > best.difference:
                seen.best[part] = moment
            if index == self._at:
                seen.chosen = moment
        if index == self._at or (self._at is None and largest):
            seen.kept = self.seconds[index], shallow(sheet).copy()

    def _panels(self) -> tuple[Panel, Panel]:
        files, layout = (self._wanted.a, self._wanted.b), self._layout
        left, right = (
            Panel(width, layout.height, one.label, deep=self._deep)
            for width, one in zip(layout.widths, files, strict=True)
        )
        return left, right

    def _pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The pictures of A and of B that are shown together, one moment after another."""
        files = (self._wanted.a, self._wanted.b)
        first, second = (0, 1) if self._matched.leads_a else (1, 0)
        others = self._matched.others
        leads = self._frames(files[first], self._infos[first], self.num_frames)
        follows = self._frames(files[second], self._infos[second], others[-1] + 1)
        shown = next(follows)
        for frame, wanted in zip(leads, others, strict=True):
            while shown.index < wanted:
                shown = next(follows)
            pair = (frame.rgb, shown.rgb)
            yield pair if self._matched.leads_a else (pair[1], pair[0])

    def _frames(self, one: ComparedFile, info: VideoInfo, stop: int) -> Iterator[Frame]:
        def on_bytes(done: int, total: int) -> None:
            self._beat("read", done, total)

        return read_frames(one.path, info, 0, stop, deep=self._deep, on_bytes=on_bytes)

    def join(self, segment: Path) -> list[str]:
        """Add the sound; returns notes."""
        sound = self._wanted.b if self._wanted.audio == "b" else self._wanted.a
        part = JoinPart(path=segment, first_pts=self.clock.pts[0], num_frames=self.num_frames)
        with media_errors_told(sound.path, "its sound and text are carried over"):
            joined = join_segments(
                [part],
                sound.path,
                self.clock,
                self.settings,
                self._wanted.video,
                metadata={"title": self._wanted.title},
                wanted=self._output,
                on_bytes=partial(self._beat, "join"),
            )
        return [*([self._clock_note] if self._clock_note else []), *joined.notes]

    def result(self, seen: _Seen, notes: list[str]) -> ComparisonResult:
        """What was found, in numbers."""
        assert seen.kept is not None
        a, b = (
            _facts(one, info)
            for one, info in zip((self._wanted.a, self._wanted.b), self._infos, strict=True)
        )
        base = Fraction(*self.clock.time_base)
        ticks = self.clock.pts[-1] + self.clock.last_duration - self.clock.pts[0]
        return ComparisonResult(
            a=a,
            b=b,
            num_frames=self.num_frames,
            duration_seconds=round(float(ticks * base), 3),
            width=self._layout.width,
            height=self._layout.height,
            picture_seconds=round(seen.kept[0], 3),
            mean_difference=round(float(np.mean(seen.differences)), 3),
            largest_difference=round(seen.largest, 3),
            largest_seconds=round(self.seconds[seen.differences.index(seen.largest)], 3),
            notes=tuple(notes),
        )


def _options(wanted: Comparison) -> Options:
    """How the video is coded, as a job would say it; no engine runs."""
    return Options(
        resolution="",
        engine=EngineSettings.without_latents(""),
        device="cpu",
        cpu_count=1,
        crf=_CRF,
        preset=_PRESET,
        segment_seconds=1.0,
        container="mp4",
        audio="none" if wanted.audio == "none" else "keep",
    )


def _facts(one: ComparedFile, info: VideoInfo) -> ComparedFacts:
    width, height = info.display_size
    return ComparedFacts(
        name=one.path.name,
        label=one.label,
        width=round(width),
        height=round(height),
        codec=f"{info.codec} {info.pix_fmt}",
        num_frames=info.num_frames,
        duration_seconds=round(info.duration_seconds, 3),
        frames_per_second=round(info.num_frames / max(1e-9, info.duration_seconds), 3),
        num_bytes=info.size_bytes,
    )


def _notes(a: VideoInfo, b: VideoInfo) -> list[str]:
    """What people must know to read the comparison rightly."""
    told: list[str] = []
    lengths, rates = (
        [round(info.duration_seconds, 2) for info in (a, b)],
        [info.num_frames / max(1e-9, info.duration_seconds) for info in (a, b)],
    )
    if abs(lengths[0] - lengths[1]) > 0.5 / min(rates):
        told.append(
            f"A lasts {lengths[0]:.2f} s and B {lengths[1]:.2f} s; what both have is compared"
        )
    if max(rates) > 1.01 * min(rates):
        told.append(
            f"A has {rates[0]:.3g} frames a second and B {rates[1]:.3g}; they are matched by time"
        )
    if a.alpha.transparent or b.alpha.transparent:
        told.append("what is transparent is put on black")
    if (a.color.transfer, a.color.primaries) != (b.color.transfer, b.color.primaries) and (
        a.color.is_wide or b.color.is_wide
    ):
        told.append("one of them has other colours (HDR or BT.2020); they are not converted")
    elif a.color.is_wide:
        told.append("the picture and the page show the HDR's codes as they are: pale on a screen")
    return told


def _thinned(seconds: list[float], differences: list[float]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points; of the frames that share one, the largest difference."""
    step = -(-len(differences) // MAX_POINTS)
    return [
        (seconds[first], max(differences[first : first + step]))
        for first in range(0, len(differences), step)
    ]
