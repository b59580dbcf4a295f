"""HEVC with alpha in a layer of its own is read, or named; never flattened without a word."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.clips.transparent import disc, saved
from tests.kits.media import ffmpeg
from tests.kits.videos.layers import (
    ALPHA_PICTURE,
    AUXILIARY,
    MESSAGES,
    PARAMETERS,
    layers_record,
    message,
    parameters,
    record_of,
    units_of,
    with_units,
)

X265 = ["-c:v", "libx265", "-preset", "ultrafast"]
WITH_ALPHA = [*X265, "-pix_fmt", "yuva420p", "-x265-params", "log-level=error:alpha=1"]
NAMES = ("a.mov", "a.mkv", "a.ts")
OURS = parameters([{AUXILIARY: ALPHA_PICTURE}])
Units = Callable[[list[bytes]], list[bytes]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc as HEVC with alpha, in every container, and `plain.mov` without."""
    folder = tmp_path_factory.mktemp("layers")
    saved(folder / "a.mov", disc(), *WITH_ALPHA, "-tag:v", "hvc1")
    for name in NAMES[1:]:
        ffmpeg("-i", folder / "a.mov", "-map", "0:v", "-c", "copy", folder / name)
    plain = [*X265, "-pix_fmt", "yuv420p", "-tag:v", "hvc1"]
    saved(folder / "plain.mov", disc(), *plain, "-movflags", "0")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_it_is_known_whether_it_is_read(folder: Path, name: str) -> None:
    """A decoder that gives it as a plane has read it; one that does not has passed over it."""
    info = probe_video(folder / name)
    is_read = info.pix_fmt.startswith("yuva")
    assert (info.alpha.unread, info.alpha.transparent) == (not is_read, is_read)


def kind_of(one: bytes) -> int:
    return one[0] >> 1 & 63


def without(units: list[bytes], kind: int) -> list[bytes]:
    return [one for one in units if kind_of(one) != kind]


IN_FILES: dict[str, tuple[str, Units, list[bytes]]] = {
    "x265's parameters alone": ("a.mov", lambda units: without(units, MESSAGES), []),
    "x265's message alone": (
        "a.mov",
        lambda units: [parameters(), *without(units, PARAMETERS)],
        [],
    ),
    "our parameters alone": (
        "plain.mov",
        lambda units: [OURS, *without(without(units, PARAMETERS), MESSAGES)],
        [],
    ),
    "a message alone": ("plain.mov", lambda units: [*without(units, MESSAGES), message()], []),
    "both": ("plain.mov", lambda units: [OURS, *without(units, PARAMETERS), message()], []),
    "parameters in lhvC": ("plain.mov", lambda units: units, [OURS]),
    "a message in lhvC": ("plain.mov", lambda units: units, [message(layer=1)]),
}


@pytest.mark.parametrize("name", IN_FILES)
def test_every_way_of_telling_it_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    """In the record, beside it, by a message or by parameters: never without a word."""
    source, change, more = IN_FILES[name]
    units = change(units_of(record_of(folder / source)))
    content = layers_record(more)
    box = (8 + len(content)).to_bytes(4) + b"lhvC" + content if more else b""
    path = with_units(folder / source, tmp_path / "a.mov", units, box)
    info = probe_video(path)
    assert info.num_frames == len(disc())
    assert info.alpha.unread != info.pix_fmt.startswith("yuva")


def test_other_videos_have_none(folder: Path) -> None:
    assert not probe_video(folder / "plain.mov").alpha.unread


def test_what_cannot_be_read_is_named_or_refused(folder: Path) -> None:
    info = probe_video(folder / "a.mov")
    if not info.alpha.unread:
        assert wanted_frames(info, WantedFrames()).keeps_alpha
        return
    for wish in ("auto", "flatten", "flatten:#ffffff"):
        video = wanted_frames(info, WantedFrames(alpha=wish))
        assert not video.keeps_alpha
        assert "HEVC with alpha), which cannot be read here and is lost" in video.warnings[-1]
    for wish, words in (("keep", "nor kept; convert it to ProRes"), ("refuse", "alpha refuse was")):
        with pytest.raises(InvalidRequestError, match=words):
            wanted_frames(info, WantedFrames(alpha=wish))
