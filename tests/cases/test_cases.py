"""Every shared failing input through the real pipeline, against what is right for it."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.errors import InvalidVideoError, PlanError
from tests.kits.clips.cases import (
    Case,
    all_cases,
    make_video,
    pictures,
    sound_of,
    times_of,
    use_case_pictures,
)

REFUSED = {
    "15": "Dolby Vision",
    "16": "encrypted|DRM",
    "19": "picture",
    "25": "16384",
}
"""Kind -> what the one sentence says."""
FREE_COUNT = {"14": 0.25}
"""Kind -> share of frames that may be repeated pictures beside those that ffmpeg shows."""
LEVELS = 2.0
"""Largest mean difference of a picture's brightness, and of the mean of its colours, of 255."""
CHROMA_LEVELS = 5.0
"""The same of the colours of single pixels: ffmpeg places and interpolates chroma in another way,
which shows at the edges of test pictures; measured when right: 4.3 (VP8)."""
MIRRORED_CHROMA_LEVELS = 6.5
"""The same of mirrored pictures (kind 08), where ffmpeg mirrors the chroma samples and we the RGB
picture; measured when right: 5.9."""


@pytest.mark.slow
@pytest.mark.skipif(not all_cases(), reason="no shared cases; set SEEDVR2_SHARED")
@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_a_case_comes_out_right(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.kind in REFUSED:
        with pytest.raises((InvalidVideoError, PlanError), match=REFUSED[case.kind]):
            make_video(case.path, tmp_path)
        assert not list(tmp_path.iterdir())
        return
    use_case_pictures(monkeypatch)
    made = make_video(case.path, tmp_path)
    info = made.plan.video
    times = times_of(made.output)

    most = case.frames * (1 + FREE_COUNT.get(case.kind, 0))
    assert case.frames <= len(times) <= most
    if len(times) == case.frames:
        shown = [time - case.pts[0] for time in case.pts]
        ours = [time - times[0] for time in times]
        assert ours == pytest.approx(shown, abs=0.0011)
    assert all(a < b for a, b in pairwise(times))

    aspect = made.plan.width / made.plan.height
    assert aspect == pytest.approx(float(case.shown[0] / case.shown[1]), rel=0.03)
    if case.sounds:
        assert sound_of(made.output) == pytest.approx(case.sounds, abs=0.06), made.notes

    if len(times) == case.frames and case.kind not in {"18", "24"}:
        chosen = sorted({0, case.frames // 2, case.frames - 1})
        size = (made.plan.width, made.plan.height)
        wanted = pictures(case.path, info.stream_index, chosen, size)
        got = pictures(made.output, 0, chosen, size)
        chroma = MIRRORED_CHROMA_LEVELS if case.kind == "08" else CHROMA_LEVELS
        for ours, theirs, most in zip(got, wanted, (LEVELS, chroma, chroma), strict=True):
            assert np.abs((ours - theirs).mean(axis=1)).max() <= LEVELS
            assert np.abs(ours - theirs).mean(axis=1).max() <= most
