"""The words of a request for alpha."""

from dataclasses import replace

import pytest

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.planning.outputs import alpha_fault
from seedvr2_core.video.alpha.facts import AlphaFacts
from seedvr2_core.video.alpha.wish import parse_alpha, treated
from seedvr2_core.video.info import Reading
from tests.kits.factories import make_info

SEEN, OPAQUE = AlphaFacts(transparent=True, looked_at=1), AlphaFacts(looked_at=300)
PARTLY = AlphaFacts(looked_at=64)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *[("auto", "auto"), (" KEEP ", "keep"), ("refuse", "refuse"), ("flatten", "flatten")],
        *[("flatten:#000000", "flatten"), ("flatten:FFffff", "flatten:#ffffff")],
        ("flatten:#00ff80", "flatten:#00ff80"),
    ],
)
def test_words(given: str, kept: str) -> None:
    assert parse_alpha(given) == kept
    assert parse_alpha(kept) == kept


@pytest.mark.parametrize("given", ["", "yes", "flatten:", "flatten:#fff", "keep:#ffffff", "black"])
def test_other_words_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="choose auto, keep, flatten, refuse, or a colour"):
        parse_alpha(given)


@pytest.mark.parametrize(
    ("facts", "wish", "alpha"),
    [
        *[(SEEN, "auto", "keep"), (SEEN, "keep", "keep"), (SEEN, "flatten", "#000000")],
        *[(SEEN, "flatten:#112233", "#112233"), (OPAQUE, "auto", ""), (OPAQUE, "keep", "keep")],
        *[(OPAQUE, "flatten:#112233", ""), (OPAQUE, "refuse", ""), (PARTLY, "auto", "#000000")],
        *[(PARTLY, "keep", "keep"), (PARTLY, "refuse", "#000000")],
        *[(AlphaFacts(), "keep", ""), (AlphaFacts(), "flatten:#112233", "")],
    ],
)
def test_what_becomes_of_alpha(facts: AlphaFacts, wish: str, alpha: str) -> None:
    video = treated(replace(make_info(), alpha=facts), wish)
    assert video.reading == Reading(alpha=alpha)
    assert video.keeps_alpha == video.outline.keeps_alpha == (alpha == "keep")
    assert len(video.warnings) == bool(alpha)
    assert video.reading.told(300) == (f"alpha {alpha}" if alpha else "")


def test_transparency_can_be_refused() -> None:
    with pytest.raises(InvalidRequestError, match="transparent in places"):
        treated(replace(make_info(), alpha=SEEN), "refuse")


@pytest.mark.parametrize(
    ("codec", "container", "told"),
    [
        *[
            ("prores", "mkv", ""),
            ("auto", "auto", ""),
            ("auto", "folder", ""),
            ("ffv1", "auto", ""),
        ],
        (
            "h264",
            "auto",
            "codec h264 cannot hold alpha; choose codec prores or ffv1 or vp9",
        ),
        ("auto", "webm", ""),
        ("ffv1", "webm", "container webm cannot hold alpha; choose container mkv, or"),
        ("prores", "mp4", "container mp4 cannot hold alpha; choose container mov or mkv, or"),
    ],
)
def test_what_holds_alpha(codec: str, container: str, told: str) -> None:
    fault = alpha_fault(codec, container)
    assert fault.startswith(told)
    assert bool(fault) == bool(told)
