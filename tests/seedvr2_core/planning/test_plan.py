"""Arithmetic of the plan: sizes, windows, segments, keys."""

import itertools

import pytest

from seedvr2_core.errors import PlanError
from seedvr2_core.planning.cutting import plan_segments
from seedvr2_core.planning.plan import Segment, Shot
from seedvr2_core.planning.sizes import BUDGETS_PX, output_name, target_size
from seedvr2_core.planning.windows import plan_latent_windows
from tests.kits.factories import make_info


@pytest.mark.parametrize(
    ("resolution", "size"),
    [("720p", (1280, 720)), ("1080p", (1920, 1080)), ("2k", (2560, 1440)), ("4k", (3840, 2160))],
)
def test_16_9_sources_come_out_exact(resolution: str, size: tuple[int, int]) -> None:
    for width, height in ((320, 180), (640, 360), (1280, 720), (3840, 2160)):
        assert target_size(make_info(width, height), resolution) == size


def test_rotation_and_sar_are_resolved() -> None:
    assert target_size(make_info(480, 270, rotation=90), "720p") == (720, 1280)
    wide = target_size(make_info(160, 180, sar=(2, 1)), "720p")
    assert wide == (1280, 720)
    assert target_size(make_info(160, 180, sar=(2, 1), rotation=270), "720p") == (720, 1280)


@pytest.mark.parametrize("resolution", BUDGETS_PX)
@pytest.mark.parametrize("size", [(176, 144), (320, 241), (853, 480), (48, 1080), (7680, 4320)])
def test_sides_are_even_and_area_is_the_budget(resolution: str, size: tuple[int, int]) -> None:
    width, height = target_size(make_info(*size), resolution)
    assert width % 2 == height % 2 == 0
    assert width >= 2
    if min(width, height) > 100:
        assert width * height == pytest.approx(BUDGETS_PX[resolution], rel=0.01)


@pytest.mark.parametrize(
    ("batch_size", "overlap", "expected"),
    [
        (100, None, (25, 3)),
        (100, 12, (25, 3)),
        (21, 12, None),
        (101, 0, (26, 0)),
        (1, None, (1, 0)),
    ],
)
def test_latent_windows(
    batch_size: int, overlap: int | None, expected: tuple[int, int] | None
) -> None:
    if expected is None:
        with pytest.raises(PlanError, match="at most 8 frames fit"):
            plan_latent_windows(batch_size, overlap)
    else:
        assert plan_latent_windows(batch_size, overlap)[:2] == expected


@pytest.mark.parametrize("batch_size", range(1, 60))
def test_lowered_overlap_never_puts_a_latent_into_three_windows(batch_size: int) -> None:
    window, overlap, note = plan_latent_windows(batch_size, None)
    assert overlap <= (window + 1) // 3
    assert bool(note) == (overlap < 3)


def assert_covers(segments: tuple[Segment, ...], num_frames: int) -> None:
    """Every frame once, in order, in segments and in pieces."""
    frames = [
        frame
        for segment in segments
        for piece in segment.pieces
        for frame in range(piece.start, piece.stop)
    ]
    assert frames == list(range(num_frames))
    assert [s.index for s in segments] == list(range(len(segments)))
    for before, after in itertools.pairwise(segments):
        assert before.stop == after.start


@pytest.mark.parametrize("seconds", [0.04, 0.1, 1, 3.33, 10, 1000])
def test_one_shot_is_cut_at_any_frame(seconds: float) -> None:
    info = make_info()
    shots = [Shot(index=0, start=0, stop=300)]
    segments = plan_segments(
        info, shots, segment_seconds=seconds, soft_boundaries={0: range(1, 300)}
    )
    assert_covers(segments, 300)
    for segment in segments[:-1]:
        lasted = (info.pts[segment.stop] - info.pts[segment.start]) / 25
        assert seconds <= lasted < seconds + 0.04 + 1e-9


def test_vfr_is_cut_by_time_not_by_count() -> None:
    pts = (*range(0, 100), *range(1000, 3000, 100))
    info = make_info(pts=pts, time_base=(1, 100))
    shots = [Shot(index=0, start=0, stop=len(pts))]
    segments = plan_segments(
        info, shots, segment_seconds=5, soft_boundaries={0: range(1, len(pts))}
    )
    assert_covers(segments, len(pts))
    assert [s.start for s in segments] == [0, 100, 105, 110, 115]


def test_short_shots_are_gathered_and_a_long_one_stands_alone() -> None:
    info = make_info(pts=tuple(range(1000)))
    bounds = [0, 50, 120, 130, 700, 710, 1000]
    shots = [Shot(index=i, start=a, stop=b) for i, (a, b) in enumerate(itertools.pairwise(bounds))]
    soft = {3: range(150, 700, 50)}
    segments = plan_segments(info, shots, segment_seconds=4, soft_boundaries=soft)
    assert_covers(segments, 1000)
    assert [(s.start, s.stop) for s in segments] == [
        (0, 120),
        (120, 130),
        *[(a, b) for a, b in itertools.pairwise([130, 250, 350, 450, 550, 650, 700])],
        (700, 1000),
    ]
    for segment in segments:
        inside = {piece.shot for piece in segment.pieces}
        assert len(inside) == 1 or 3 not in inside


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Mein Film (1).mov", "Mein_Film_1"),
        ("../../etc/passwd", "passwd"),
        ("видео.mp4", "video"),
        ("a.b.c.mkv", "a.b.c"),
        ("..", "video"),
    ],
)
def test_output_names_are_safe(name: str, stem: str) -> None:
    assert output_name(name, "4k", "0123456789abcdef") == f"{stem}_4k_0123456789ab.mp4"
