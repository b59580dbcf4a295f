"""The session shared by the engines without memory: exactly the piece's frames, or an error."""

import numpy as np
import pytest
import torch

from seedvr2_core.engines.per_frame import PerFrameSession, rgb_to_unit, unit_to_rgb
from seedvr2_core.engines.protocol import Commit, Reads, ShotState
from seedvr2_core.errors import SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.planning.plan import Piece, Shot

SHOT = Shot(index=0, start=0, stop=20)
PIECE = Piece(shot=0, start=5, stop=9)


def make_frames(*indices: int) -> list[Frame]:
    return [
        Frame(np.full((2, 3, 3), index, np.uint8), 1000 + 7 * index, index) for index in indices
    ]


def make_session(beats: list[tuple[str, int, int]]) -> PerFrameSession:
    return PerFrameSession(lambda rgb: 255 - rgb, beat=lambda *beat: beats.append(beat))


def test_restore_yields_the_piece_and_leaves_the_rest():
    beats: list[tuple[str, int, int]] = []
    session = make_session(beats)
    frames = iter(make_frames(*range(5, 12)))
    state = session.begin(frames, shot=SHOT, piece=PIECE)
    restored = list(session.restore(frames, shot=SHOT, piece=PIECE, state=state))
    assert [(f.index, f.pts) for f in restored] == [(i, 1000 + 7 * i) for i in range(5, 9)]
    assert all((f.rgb == 255 - f.index).all() for f in restored)
    assert beats == [("restore", done, 4) for done in (1, 2, 3, 4)]
    assert next(frames).index == 9


def test_restore_is_lazy():
    beats: list[tuple[str, int, int]] = []
    session = make_session(beats)
    restored = session.restore(
        iter(make_frames(5, 6, 7, 8)), shot=SHOT, piece=PIECE, state=ShotState()
    )
    assert beats == []
    next(restored)
    assert beats == [("restore", 1, 4)]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        pytest.param((4, 5, 6), "got frame 4 after 0 of 4 .* expected frame 5", id="starts-early"),
        pytest.param((6, 7, 8), "got frame 6 after 0 of 4 .* expected frame 5", id="starts-late"),
        pytest.param((5, 6, 8), "got frame 8 after 2 of 4 .* expected frame 7", id="gap"),
        pytest.param((5, 6), "ended after 2 of 4 .* expected frame 7", id="ends-early"),
        pytest.param((), "ended after 0 of 4 .* expected frame 5", id="empty"),
    ],
)
def test_restore_refuses_other_frames(indices: tuple[int, ...], message: str):
    session = make_session([])
    frames = iter(make_frames(*indices))
    with pytest.raises(SegmentError, match=message):
        list(session.restore(frames, shot=SHOT, piece=PIECE, state=ShotState()))


def test_a_piece_inside_a_shot_needs_its_own_frames_alone():
    session = make_session([])
    frames = iter(make_frames(5))
    behind = Piece(shot=0, start=9, stop=14)
    assert session.reads(SHOT, [PIECE]) == Reads(frames=range(5, 9), latents=range(0))
    assert session.reads(SHOT, [PIECE, behind]) == Reads(frames=range(5, 14), latents=range(0))
    assert session.begin(frames, shot=SHOT, piece=PIECE) == ShotState()
    assert next(frames).index == 5
    assert session.take_commit() == Commit(precision="float32")
    assert session.step_down() == ""
    session.close()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["uint8", "uint16"])
def test_conversion_is_exact_both_ways(dtype: type):
    white = np.iinfo(dtype).max
    levels = np.linspace(0, white, 256).astype(dtype)
    rgb = np.stack(
        [levels.reshape(16, 16), levels.reshape(16, 16).T, levels[::-1].reshape(16, 16)], 2
    )
    for picture in (rgb, np.rot90(rgb), rgb[::-2]):
        again = unit_to_rgb(rgb_to_unit(picture, "cpu"), picture.dtype)
        assert again.dtype == dtype
        np.testing.assert_array_equal(again, picture)


def test_conversion_rounds_and_clamps():
    unit = rgb_to_unit(np.zeros((1, 4, 3), np.uint8), "cpu")
    unit[..., 0, :] = unit.new_tensor([-0.2, 0.6 / 255, 254.4 / 255, 1.3])
    assert unit_to_rgb(unit, np.dtype(np.uint8))[0, :, 0].tolist() == [0, 1, 254, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (301, 97)], ids=["dot", "wide", "high"])
def test_rounding_is_that_of_whole_pictures(
    dtype: type, layout: torch.memory_format, size: tuple[int, int]
):
    """Pictures are worked through in parts; no bit may depend on where these begin."""
    white = np.float32(np.iinfo(dtype).max)
    rng = np.random.default_rng(7)
    unit = rng.uniform(-0.1, 1.1, (1, 3, *size)).astype(np.float32)
    halves = rng.integers(0, int(white), unit.shape) + np.float32(0.5)
    unit = np.where(rng.random(unit.shape) < 0.5, unit, halves.astype(np.float32) / white)
    wanted = np.clip(np.rint(unit * white), 0, white).astype(dtype)[0].transpose(1, 2, 0)
    x_BCHW = torch.from_numpy(unit).contiguous(memory_format=layout)
    before = x_BCHW.clone()
    got = unit_to_rgb(x_BCHW, np.dtype(dtype))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, wanted)
    assert torch.equal(x_BCHW, before), "what is given stays as it is"


def test_read_only_frames_are_accepted():
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb.flags.writeable = False
    assert rgb_to_unit(rgb, "cpu").shape == (1, 3, 2, 2)
