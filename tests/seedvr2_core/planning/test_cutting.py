"""Shots and segments of made-up videos: whatever the cuts are, every frame is made once."""

import itertools
import random
from dataclasses import dataclass
from fractions import Fraction

import pytest

from seedvr2_core.planning.cutting import plan_segments, shots_between
from seedvr2_core.planning.plan import Segment, Shot
from seedvr2_core.video.info import VideoInfo
from tests.kits.factories import make_info

EACH_SEED = pytest.mark.parametrize("seed", range(60))


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """A video, its shots and where they may be divided."""

    video: VideoInfo
    shots: tuple[Shot, ...]
    soft: dict[int, list[int]]
    seconds: float

    @classmethod
    def of(cls, seed: int) -> "MadeUp":
        """Frames of any length, cuts anywhere, some shots that may be divided."""
        rng = random.Random(seed)
        count = rng.randrange(1, 300)
        ticks = rng.choices((1, 1, 1, 2, 50), k=count - 1)
        pts = tuple(itertools.accumulate(ticks, initial=rng.randrange(-5, 100)))
        cuts = sorted(rng.sample(range(1, count), min(count - 1, rng.randrange(12))))
        shots = shots_between(cuts, count)
        soft = {
            shot.index: sorted(
                rng.sample(range(shot.start + 1, shot.stop), rng.randrange(shot.stop - shot.start))
            )
            for shot in shots
            if rng.random() < 0.5
        }
        video = make_info(pts=pts, time_base=rng.choice(((1, 25), (1001, 30_000), (1, 1000))))
        return cls(video=video, shots=shots, soft=soft, seconds=rng.choice((0.01, 0.5, 2, 9, 1e6)))

    def segments(self, *, seconds: float | None = None) -> tuple[Segment, ...]:
        return plan_segments(
            self.video,
            self.shots,
            segment_seconds=self.seconds if seconds is None else seconds,
            soft_boundaries=self.soft,
        )

    def lasted(self, start: int, stop: int) -> Fraction:
        """Presentation time from one frame to another."""
        ticks = self.video.pts[stop] - self.video.pts[start]
        return ticks * Fraction(*self.video.time_base)


@EACH_SEED
def test_shots_cover_every_frame_once(seed: int) -> None:
    made = MadeUp.of(seed)
    frames = [frame for shot in made.shots for frame in range(shot.start, shot.stop)]
    assert frames == list(range(len(made.video.pts)))
    assert [shot.index for shot in made.shots] == list(range(len(made.shots)))


@EACH_SEED
def test_segments_are_whole_shots_or_a_part_of_one(seed: int) -> None:
    made = MadeUp.of(seed)
    segments = made.segments()
    assert [segment.index for segment in segments] == list(range(len(segments)))
    frames: list[int] = []
    for segment in segments:
        inside = [f for piece in segment.pieces for f in range(piece.start, piece.stop)]
        assert inside == list(range(segment.start, segment.stop))
        assert len(inside) == segment.num_frames > 0
        frames += inside
        shots = [made.shots[piece.shot] for piece in segment.pieces]
        for shot, piece in zip(shots, segment.pieces, strict=True):
            assert shot.start <= piece.start < piece.stop <= shot.stop
            whole = (piece.start, piece.stop) == (shot.start, shot.stop)
            assert whole or len(segment.pieces) == 1
    assert frames == list(range(len(made.video.pts)))


@EACH_SEED
def test_segments_end_at_cuts_and_soft_boundaries_only(seed: int) -> None:
    made = MadeUp.of(seed)
    allowed = {shot.start for shot in made.shots}.union(*made.soft.values())
    assert {segment.start for segment in made.segments()} <= allowed


@EACH_SEED
def test_a_segment_ends_as_soon_as_it_has_lasted_long_enough(seed: int) -> None:
    """Within a shot that is divided, and among whole shots that are gathered."""
    made = MadeUp.of(seed)
    for segment in made.segments():
        shot = made.shots[segment.pieces[0].shot]
        soft = made.soft.get(shot.index, [])
        inner = [b for b in soft if segment.start < b < segment.stop]
        if len(segment.pieces) > 1:
            inner = [piece.start for piece in segment.pieces[1:]]
        for boundary in inner:
            assert made.lasted(segment.start, boundary) < Fraction(made.seconds)
        if segment.stop < shot.stop:  # a later part of the same shot follows
            assert made.lasted(segment.start, segment.stop) >= Fraction(made.seconds)


@EACH_SEED
def test_longer_segments_are_never_more(seed: int) -> None:
    made = MadeUp.of(seed)
    counts = [len(made.segments(seconds=seconds)) for seconds in (0.01, 0.3, 1, 5, 50, 1e6)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1


@EACH_SEED
def test_segments_before_the_last_known_cut_are_those_of_every_plan_that_knows_more(
    seed: int,
) -> None:
    """With any number of the cuts, however the shot that is taken for the last one is divided."""
    made, rng = MadeUp.of(seed), random.Random(seed)
    whole = made.segments()
    for known in range(1, len(made.shots)):
        count = len(made.video.pts)
        cuts = [shot.start for shot in made.shots[1 : known + 1]]
        tail = range(cuts[-1] + 1, count)
        soft = {k: frames for k, frames in made.soft.items() if k < known}
        divided = {known: sorted(rng.sample(tail, rng.randrange(len(tail) + 1)))}
        early = plan_segments(
            made.video,
            shots_between(cuts, count),
            segment_seconds=made.seconds,
            soft_boundaries=soft | divided,
        )
        settled = tuple(segment for segment in early if segment.stop < cuts[-1])
        assert settled == whole[: len(settled)]
