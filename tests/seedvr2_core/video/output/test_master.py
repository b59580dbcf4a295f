"""What a master gives back is what was written, bit for bit."""

from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.video.output.master import MasterWriter, count_master, read_master


def noise(deep: bool, height: int, width: int, seed: int) -> np.ndarray:
    """Every level may occur."""
    kind = np.uint16 if deep else np.uint8
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(kind).max, (height, width, 3), kind, endpoint=True)


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize(("height", "width"), [(18, 32), (35, 61)], ids=["even", "odd"])
def test_what_is_read_is_what_was_written(
    deep: bool, height: int, width: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.mkv.part"
    frames = [noise(deep, height, width, seed) for seed in range(30)]
    frames[1] = frames[1][:, ::-1]
    frames[2] = np.ascontiguousarray(frames[2].transpose(2, 0, 1)).transpose(1, 2, 0)
    with MasterWriter(path, width, height, deep=deep) as writer:
        for frame in frames:
            writer.write(frame)
    read = list(read_master(path, deep=deep))
    assert len(read) == len(frames) == count_master(path, deep=deep)
    for got, frame in zip(read, frames, strict=True):
        assert got.dtype == frame.dtype
        np.testing.assert_array_equal(got, frame)


def test_frames_of_another_kind_are_refused_and_nothing_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv.part"
    with (
        pytest.raises(SegmentError, match=r"uint16 \(18, 32, 3\), expected uint8 \(18, 32, 3\)"),
        MasterWriter(path, 32, 18, deep=False) as writer,
    ):
        writer.write(noise(True, 18, 32, 0))
    assert not path.exists()


def test_a_master_of_another_depth_or_none_at_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with MasterWriter(path, 32, 18, deep=False) as writer:
        writer.write(noise(False, 18, 32, 0))
    with pytest.raises(SegmentError, match=r"has pictures of bgr0, expected gbrp16le"):
        count_master(path, deep=True)
    path.write_bytes(b"no video")
    with pytest.raises(SegmentError, match="not a readable"):
        count_master(path, deep=False)
    with pytest.raises(SegmentError, match="not a readable"):
        count_master(tmp_path / "missing.mkv", deep=False)


@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
def test_a_flipped_bit_of_the_pictures_is_noticed(deep: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with MasterWriter(path, 64, 48, deep=deep) as writer:
        for seed in range(3):
            writer.write(noise(deep, 48, 64, seed))
    whole = list(read_master(path, deep=deep))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    try:
        read = list(read_master(path, deep=deep))
    except SegmentError:
        return
    assert len(read) == len(whole)
