"""What the measures of a report mean, in sentences.

The thresholds are rules of thumb, chosen on the clips that the tests use; each sentence gives the
number that it rests on, so that people can judge for themselves.
"""

from collections.abc import Sequence
from statistics import median

from seedvr2_core.report.record import QualitySummary, Sight
from seedvr2_core.words import counted

SHARP_DETAIL, SHARP_SIDE = 0.1, 540
"""Share of the finest octave in sharp pictures (clips made half as large: 0.05 to 0.3), and the
shorter side from which that matters: small pictures are nearly always sharp, for they were larger
once."""
SOFT_DETAIL = 0.012
"""The same in pictures that were enlarged or blurred (clips made twice as large: 0.007 to 0.04)."""
FEW_PLACES = 8
FLICKER_TIMES, FLICKER_LEVELS = 2.0, 0.25
DRIFT_LEVELS = 3.0
LOST_DB = -3.0


def summarize(sights: Sequence[Sight]) -> QualitySummary:
    """Medians and counts over all places."""

    def middle(values: Sequence[float]) -> float | None:
        return round(median(values), 4) if values else None

    channels = [middle([sight.drift[channel] for sight in sights]) for channel in range(3)]
    drift = None if channels[0] is None else tuple(value or 0.0 for value in channels)
    return QualitySummary(
        places=len(sights),
        joins=sum(sight.join for sight in sights),
        flicker_at_joins=middle([sight.flicker for sight in sights if sight.join]),
        flicker_elsewhere=middle([sight.flicker for sight in sights if not sight.join]),
        drift=drift,  # type: ignore[arg-type]
        worst_drift=max((abs(v) for sight in sights for v in sight.drift), default=None),
        difference=middle([sight.difference for sight in sights]),
        detail_db=middle([sight.detail_db for sight in sights]),
        beyond=middle([sight.beyond for sight in sights]),
        source_detail=middle([sight.source_detail for sight in sights]),
        black=sum(sight.black for sight in sights),
        frozen=sum(sight.frozen for sight in sights),
    )


def warnings_of(
    summary: QualitySummary, *, source_side: int, enlarges: bool, num_frames: int
) -> tuple[str, ...]:
    """Sentences for whoever has to decide whether the result is good.

    Args:
        summary: of the places looked at.
        source_side: pixels of the source's shorter side.
        enlarges: whether the result is larger than the source.
        num_frames: of the video.
    """
    if not summary.places:
        return ("No frames could be compared in the time that a report may take.",)
    found = [*_about_source(summary, source_side, enlarges), *_about_result(summary)]
    if summary.places < FEW_PLACES:
        found.append(
            f"Only {counted(summary.places, 'place')} of {counted(num_frames, 'frame')} could be "
            "looked at in the time that a report may take, so the numbers say little."
        )
    return tuple(found)


def _about_source(summary: QualitySummary, source_side: int, enlarges: bool) -> list[str]:
    detail = summary.source_detail or 0.0
    found: list[str] = []
    if detail > SHARP_DETAIL and source_side >= SHARP_SIDE:
        found.append(
            "This source is already sharp for its size: the model may only repaint it "
            f"(its finest octave has {detail:.2f} of the contrast; above {SHARP_DETAIL:g} counts "
            "as sharp)."
        )
    elif detail < SOFT_DETAIL:
        found.append(
            "This source holds less than its size says, as after an enlargement or a blur: what "
            f"fine detail the result shows is the engine's own (finest octave: {detail:.3f} of "
            "the contrast)."
        )
    if not enlarges:
        found.append("The result is not larger than the source.")
    return found


def _about_result(summary: QualitySummary) -> list[str]:
    found: list[str] = []
    at, away = summary.flicker_at_joins, summary.flicker_elsewhere
    if at is not None and away is not None and at > FLICKER_TIMES * away + FLICKER_LEVELS:
        found.append(
            f"Where pieces meet the picture changes more than elsewhere ({at:.2f} against "
            f"{away:.2f} levels): look at these moments."
        )
    if summary.drift and max(map(abs, summary.drift)) > DRIFT_LEVELS:
        y, cb, cr = summary.drift
        found.append(
            f"The result's colours differ from the source's: {y:+.1f} levels of luma, {cb:+.1f} "
            f"of blue (Cb) and {cr:+.1f} of red (Cr) difference."
        )
    if summary.detail_db is not None and summary.detail_db < LOST_DB:
        found.append(
            "Made as small as the source again, the result has less fine detail than the source "
            f"({summary.detail_db:+.1f} dB): it was smoothed."
        )
    for number, what in (
        (summary.black, "black where the source's is not"),
        (summary.frozen, "the same as the one before, though the source moves"),
    ):
        if number:
            found.append(f"{counted(number, 'frame')} of the result: {what}.")
    return found
