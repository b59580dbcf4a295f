"""Precision and recall of the cuts, on films joined from real clips whose cuts are known."""

from pathlib import Path

import pytest

from benchmarks.media.cuts import NAMES, SHORT, Score, films, measure, read_clip

pytestmark = pytest.mark.soak

SAME_PLACES = {"flashes", "fades"}
"""A flash may be taken for a shot, and both ends of a fade for a cut: that costs little."""


@pytest.fixture(scope="module")
def found(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Score]:
    clips = [read_clip(shared / "clips" / name) for name in NAMES]
    folder = tmp_path_factory.mktemp("films")
    return {name: measure(film, folder) for name, film in films(clips).items()}


def test_cuts_of_known_films(found: dict[str, Score]) -> None:
    for name, row in found.items():
        print(f"{name}: precision {row.precision:.3f}, recall {row.recall:.3f}")
        assert row.recall >= 0.9, name
        if name not in SAME_PLACES:
            assert row.precision >= 0.9, name
    assert found["shots of 10 to 50"].recall == 1
    assert min(found[f"shots of {count}"].recall for count in SHORT) >= 0.9
