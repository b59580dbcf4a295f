"""What an mp4 orders is known before libav spends memory on it."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.files import mp4_index
from seedvr2_core.files.mp4_index import most_indexed
from seedvr2_core.video.probe import probe_video, sniff_video
from tests.kits.media import ALL_CLIPS, ffmpeg, write_endless

GetClip = Callable[[str], Path]
LOOK = """
import sys
from pathlib import Path
from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.video import probe
from tests.kits.hosts.memory import forget_peak, peak_kib
forget_peak()
begun = peak_kib()
try:
    getattr(probe, sys.argv[1])(Path(sys.argv[2]), max_frames=1_000_000)
except UnsupportedFormatError as error:
    print(peak_kib() - begun, error)
"""


@pytest.mark.parametrize("look", ["sniff_video", "probe_video"])
def test_fifty_million_frames_in_a_small_file_cost_nothing(tmp_path: Path, look: str) -> None:
    """libav alone would take 1.8 GB and several seconds to open it."""
    path = tmp_path / "endless.mp4"
    assert write_endless(path, num_chunks=90_000) > 50 * 10**6
    assert path.stat().st_size < 400_000
    seen = subprocess.run(
        [sys.executable, "-c", LOOK, look, str(path)], capture_output=True, text=True, check=True
    )
    grown_kib, _, sentence = seen.stdout.partition(" ")
    assert "more than 1000000 frames" in sentence
    assert int(grown_kib) < 16 * 1024


def test_the_count_is_exact_and_the_bound_is_the_last_frame_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    count = write_endless(path, num_chunks=2, per_chunk=10)
    assert most_indexed(path) == count == probe_video(path, max_frames=count).num_frames
    sniff_video(path, max_frames=count)
    for look in (sniff_video, probe_video):
        with pytest.raises(UnsupportedFormatError, match="more than 19 frames"):
            look(path, max_frames=count - 1)


@pytest.mark.parametrize("name", ALL_CLIPS)
def test_the_count_is_that_of_libav(clip: GetClip, name: str) -> None:
    with av.open(str(clip(name))) as container:
        tracks = [stream.frames for stream in container.streams.video]
        indexed = "mp4" in container.format.name
    assert most_indexed(clip(name)) == (max(tracks) if indexed else 0)


def test_fragments_count_for_their_video_track_alone(tmp_path: Path) -> None:
    """Raw pictures and raw sound have runs without a word on each sample."""
    path = tmp_path / "a.mp4"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=16x16:r=25:d=2", "-f", "lavfi", "-i", "sine=d=2"),
        *("-c:v", "mpeg4", "-g", "1", "-c:a", "pcm_s16le", "-frag_duration", "200000"),
        *("-movflags", "empty_moov+default_base_moof", "-f", "mov", path),
    )
    assert b"moof" in path.read_bytes()
    assert most_indexed(path) <= 50
    grown = _with_run_of(path.read_bytes(), 10**9)
    path.write_bytes(grown)
    assert most_indexed(path) >= 10**9
    with pytest.raises(UnsupportedFormatError, match="more than 1000000"):
        probe_video(path, max_frames=10**6)


def _with_run_of(content: bytes, count: int) -> bytes:
    """The same file, the first run of its video without a word on each sample, and so many."""
    at = content.index(b"trun") + 4
    return content[:at] + bytes(4) + count.to_bytes(4, "big") + content[at + 8 :]


@pytest.mark.parametrize("depth", [1, 50, 5000])
def test_boxes_within_boxes_are_not_followed_for_ever(tmp_path: Path, depth: int) -> None:
    content = b""
    for _ in range(depth):
        content = (8 + len(content)).to_bytes(4, "big") + b"trak" + content
    path = tmp_path / "deep.mp4"
    path.write_bytes((8 + len(content)).to_bytes(4, "big") + b"moov" + content)
    assert most_indexed(path) == 0


def test_boxes_after_boxes_are_not_followed_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "many.mp4", tmp_path / "a.mp4"
    write_endless(whole, num_chunks=1, per_chunk=5)
    monkeypatch.setattr(mp4_index, "_MOST_BOXES", 40)
    for number, counted in ((0, 5), (10, 5), (40, 0)):
        path.write_bytes(((8).to_bytes(4, "big") + b"free") * number + whole.read_bytes())
        assert most_indexed(path) == counted


def test_any_cut_and_any_changed_byte_are_counted_or_passed_over(
    demo_clip: Path, tmp_path: Path
) -> None:
    content = demo_clip.read_bytes()
    at = content.index(b"moov")
    path = tmp_path / "a.mp4"
    for place, value in itertools.product(range(at - 4, at + 900, 7), (0, 1, 255)):
        path.write_bytes(content[:place] + bytes([value]) + content[place + 1 : at + 1200])
        assert most_indexed(path) >= 0


def test_what_is_no_file_is_told_as_ever(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, tmp_path / "missing.mp4"):
        assert most_indexed(path) == 0
        with pytest.raises(InvalidVideoError, match="there is no such file"):
            sniff_video(path, max_frames=5)
