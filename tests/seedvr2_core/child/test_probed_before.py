"""A video is read whole once: whoever asks again gets what was found, if it still holds."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from seedvr2_core.child.operations import probe
from seedvr2_core.child.progress import Emitter
from seedvr2_core.child.protocol import Probe, Probed
from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.video import probe as probing
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import prober
from seedvr2_core.video.wanted import WantedFrames


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read whole."""
    read: list[Path] = []
    whole = probing.probe_video

    def watched(path: Path, **changes: object) -> VideoInfo:
        read.append(path)
        return whole(path, **changes)  # type: ignore[arg-type]

    monkeypatch.setattr(probing, "probe_video", watched)
    return read


def asked(clip: Path, out: Path, **changes: object) -> Probed:
    request = Probe(path=clip, out=out, **changes)  # type: ignore[arg-type]
    return probe(request, Emitter(io.StringIO()))


@pytest.mark.parametrize("wanted", [WantedFrames(), WantedFrames(start="1", end="2")])
def test_the_second_time_nothing_is_read(
    demo_clip: Path, tmp_path: Path, reads: list[Path], wanted: WantedFrames
) -> None:
    out = tmp_path / "a.json"
    first = asked(demo_clip, out, wanted=wanted)
    content = out.read_bytes()
    again = asked(demo_clip, out, wanted=wanted, max_frames=75, max_seconds=3)
    assert reads == [demo_clip]
    assert again.video == first.video
    assert out.read_bytes() == content


def test_what_another_version_has_found_is_found_anew(
    demo_clip: Path, tmp_path: Path, reads: list[Path]
) -> None:
    out = tmp_path / "a.json"
    asked(demo_clip, out)
    write_record(out, replace(read_record(out, VideoInfo), prober="earlier", warnings=("old",)))
    asked(demo_clip, out)
    assert len(reads) == 2
    made = read_record(out, VideoInfo)
    assert (made.prober, made.warnings) == (prober(), ())


@pytest.mark.parametrize("limit", [{"max_frames": 74}, {"max_seconds": 2.9}])
@pytest.mark.parametrize("wanted", [WantedFrames(), WantedFrames(start="1", end="2")])
def test_a_narrower_limit_refuses_what_was_found_under_a_wider_one(
    demo_clip: Path, tmp_path: Path, wanted: WantedFrames, limit: dict[str, float]
) -> None:
    out = tmp_path / "a.json"
    asked(demo_clip, out, wanted=wanted)
    with pytest.raises(UnsupportedFormatError):
        asked(demo_clip, out, wanted=wanted, **limit)


def test_a_broken_record_and_another_file_are_read_anew(
    demo_clip: Path, tmp_path: Path, reads: list[Path]
) -> None:
    out, longer = tmp_path / "a.json", tmp_path / "longer.mp4"
    out.write_text("{")
    asked(demo_clip, out)
    longer.write_bytes(demo_clip.read_bytes() + bytes(8))
    asked(longer, out)
    assert reads == [demo_clip, longer]
