"""Real clips that became tape, disc, broadcast and film are taken for what they are."""

from pathlib import Path

import pytest

from benchmarks.media.fields import KINDS, NAMES, measure, table

pytestmark = pytest.mark.soak


def test_samples_that_chose_no_threshold(shared: Path, tmp_path: Path) -> None:
    counts, wrong = measure([shared / "clips" / name for name in NAMES], tmp_path)
    print(table(counts), *wrong, sep="\n")
    assert counts.total() == len(KINDS) * len(NAMES)
    right = sum(count for (is_, found), count in counts.items() if is_ == found)
    assert right >= 0.9 * counts.total()
    # Whole pictures are never made softer, and fields never put into the wrong order.
    assert counts["top", "bottom"] == counts["bottom", "top"] == 0
