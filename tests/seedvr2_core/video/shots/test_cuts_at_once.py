"""A CPU looks for cuts in several windows at once; nothing but the time depends on how many."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from seedvr2_core.video import cuts
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import probe_video
from tests.seedvr2_core.video.shots.test_cuts import joined

pytestmark = pytest.mark.slow


def looked_at(path: Path, info: VideoInfo, threads: int) -> tuple[np.ndarray, list[int]]:
    """(log odds of every frame, what was told of the way) with so many of torch's threads."""
    told: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = range(-(-info.num_frames // cuts.STEP))
        logits, _ = cuts.CutSearch(path, info).at(whole, beat=told.append)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    return logits, told


@pytest.mark.long
def test_the_number_of_cores_changes_no_bit_and_progress_counts(
    demo_clip: Path, tmp_path: Path
) -> None:
    path = tmp_path / "joined.mp4"
    joined(path, [("mandel", 0, 40), (demo_clip, 0, 60), ("bars", 0, 5), (demo_clip, 50, 110)])
    info = probe_video(path)
    alone, told = looked_at(path, info, 1)
    assert told == [*range(50, info.num_frames, 50), info.num_frames]
    assert len(told) > 2
    for threads in (2, 5):
        together, also_told = looked_at(path, info, threads)
        assert together.tobytes() == alone.tobytes()
        assert also_told == told


def test_several_windows_are_looked_at_at_once(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "joined.mp4"
    joined(path, [("bars", 0, 120), (demo_clip, 0, 80)])
    meeting = threading.Barrier(2, timeout=60)

    def waiting(*_: object) -> np.ndarray:
        meeting.wait()  # nobody goes on alone
        assert torch.get_num_threads() == 1
        return np.zeros(50, np.float32)

    monkeypatch.setattr(cuts, "_cut_logits", waiting)
    info = probe_video(path)
    assert info.num_frames > 150
    logits, _ = looked_at(path, info, 2)
    assert logits.shape == (info.num_frames,)


@pytest.mark.long
def test_who_stops_looking_leaves_nothing_behind(demo_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "joined.mp4"
    joined(path, [("mandel", 0, 100), (demo_clip, 0, 100)])
    threads = torch.get_num_threads()

    def cancelled(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cuts.detect_cuts(path, probe_video(path), beat=cancelled)
    assert not [one.name for one in threading.enumerate() if one.name.startswith("cuts")]
    assert torch.get_num_threads() == threads
