"""The shot engine: how a shot is cut into pieces, or where work is taken up, changes no bit.

The long shot has 60 latents in 7 windows of at most 12 with 3 shared; windows start at latents
0, 9, 17, 25, 33, 41, 49, so the last ones lie beyond both warm-ups (28 and 37 latents).
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from seedvr2_core.engines.protocol import Commit, Reads
from seedvr2_core.engines.seedvr2 import parking as residency
from seedvr2_core.engines.seedvr2 import sampler
from seedvr2_core.engines.seedvr2.tiny import open_session
from seedvr2_core.errors import InvalidRequestError, PlanError, SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.planning.plan import Piece, Plan
from seedvr2_core.vae import causal_conv
from seedvr2_core.vae.stream import StreamState
from tests.kits.restorer import (
    Result,
    begin_behind,
    differing,
    latents,
    make_frames,
    make_grid,
    make_pieces,
    make_plan,
    open_tiny,
    pictures,
    run_piece,
    run_shot,
    run_whole,
    state_bits,
    whole,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("either_path")]

LONG = 237
LEADS = (112, 37)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(LONG)


@pytest.fixture(scope="module")
def source(plan: Plan) -> list[Frame]:
    return make_frames(plan)


@dataclasses.dataclass(frozen=True)
class Walk:
    """The long shot window by window, and the state before each."""

    pieces: list[Piece]
    results: list[Result]
    states: list[dict[str, torch.Tensor]]
    held: list[list[int]]


@pytest.fixture(scope="module")
def walk(plan: Plan, source: list[Frame], either_path: None) -> Walk:
    session, pieces = open_tiny(plan), make_pieces(plan)
    frames = iter(source)
    state = session.begin(frames, shot=plan.shots[0], piece=pieces[0])
    walk = Walk(pieces=pieces, results=[], states=[], held=[])
    for piece in pieces:
        walk.states.append(state_bits(state))
        walk.held.append([frame.index for frame in state.frames])
        walk.results.append(run_piece(session, plan, piece, frames, state))
    assert next(frames, None) is None
    return walk


def assert_same(results: Sequence[Result], wanted: Sequence[Result]) -> None:
    """Bit-equal pictures, times and committed latents."""
    assert np.array_equal(pictures(results), pictures(wanted))
    assert torch.equal(latents(results), latents(wanted))
    times = [[(f.index, f.pts) for r in rs for f in r.frames] for rs in (results, wanted)]
    assert times[0] == times[1]


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param((7,), id="whole"),
        pytest.param((1, 5, 1), id="middle"),
    ],
)
def test_segmentation_changes_no_bit(
    plan: Plan, source: list[Frame], walk: Walk, groups: tuple[int, ...]
) -> None:
    results = run_shot(open_tiny(plan), plan, source, make_pieces(plan, *groups))
    assert_same(results, walk.results)
    assert results[-1].commit.tail is None


def take_up(
    plan: Plan, source: list[Frame], walk: Walk, k: int, leads: tuple[int, int] = LEADS
) -> tuple[Reads, list[str], Result]:
    """Rebuild the state before window k from commits and source, then restore its piece.

    Returns:
        What was read, names of tensors of the state that differ, and the result.
    """
    session, piece = open_tiny(plan), walk.pieces[k]
    assert (session._lead_frames, session._lead_latents) == LEADS
    session._lead_frames, session._lead_latents = leads
    reads = session.reads(plan.shots[0], [piece])
    state, frames = begin_behind(session, plan, source, piece, walk.results[:k])
    assert [frame.index for frame in state.frames] == walk.held[k]
    differences = differing(state_bits(state), walk.states[k])
    return reads, differences, run_piece(session, plan, piece, frames, state)


@pytest.mark.parametrize(
    ("k", "needed"),
    [
        pytest.param(1, (0, 0), id="1"),
        pytest.param(2, (0, 0), id="2"),
        pytest.param(3, (0, 0), id="3"),
        pytest.param(4, (5, 0), id="4"),
        pytest.param(5, (45, 4), id="5"),
        pytest.param(6, (77, 11), id="6"),
    ],
)
def test_taking_up_work_before_a_piece_changes_no_bit(
    plan: Plan, source: list[Frame], walk: Walk, k: int, needed: tuple[int, int]
) -> None:
    got, differences, result = take_up(plan, source, walk, k)
    assert (got.frames.start, got.latents.start) == needed
    assert not differences
    assert_same([result], walk.results[k : k + 1])
    tail, wanted = result.commit.tail, walk.results[k].commit.tail
    assert (tail is None) == (wanted is None) == (k == 6)
    assert tail is None or wanted is None or torch.equal(tail, wanted)


@pytest.mark.parametrize(
    "leads",
    [
        pytest.param((60, 37), id="60-frames"),
        pytest.param((112, 20), id="20-latents"),
        pytest.param((0, 0), id="no-state"),
    ],
)
def test_a_shorter_warm_up_shows(
    plan: Plan, source: list[Frame], walk: Walk, leads: tuple[int, int]
) -> None:
    _, differences, result = take_up(plan, source, walk, 6, leads)
    assert differences
    assert not np.array_equal(pictures([result]), pictures(walk.results[6:]))


def test_pieces_yield_every_frame_once_and_commit_every_latent(plan: Plan, walk: Walk) -> None:
    given = [(f.index, f.pts) for result in walk.results for f in result.frames]
    assert given == list(enumerate(plan.video.pts))
    assert pictures(walk.results).shape == (LONG, 32, 32, 3)
    assert pictures(walk.results).dtype == np.uint8
    commits = [result.commit for result in walk.results]
    assert [len(c.latents) for c in commits if c.latents is not None] == [9, 8, 8, 8, 8, 8, 11]
    for commit in commits[:-1]:
        assert commit.latents is not None
        assert commit.latents.dtype == torch.float16
        assert commit.tail is not None
        assert (commit.tail.dtype, commit.tail.shape) == (torch.float32, (3, 8, 4, 16))


def test_reading_ahead_and_what_is_held_are_bounded(
    plan: Plan, source: list[Frame], walk: Walk
) -> None:
    """In groups of windows, whose bits are those of the walk as well."""
    session, shot, pieces = open_tiny(plan), plan.shots[0], make_pieces(plan, 2, 1, 4)
    read = 0

    def counted() -> Iterator[Frame]:
        nonlocal read
        for frame in source:
            read += 1
            yield frame

    frames, ahead = counted(), 4 * plan.engine.overlap
    state, results = session.begin(frames, shot=shot, piece=pieces[0]), list[Result]()
    for piece in pieces:
        made: list[Frame] = []
        restored = session.restore(frames, shot=shot, piece=piece, state=state)
        stop = session.reads(shot, [piece]).frames.stop
        assert stop == min(piece.stop + ahead, shot.stop)
        for done, frame in enumerate(restored, start=1):
            assert frame.index == piece.start + done - 1
            assert read == stop
            assert len(state.frames) <= stop - piece.start - done
            made.append(frame)
        results.append(Result(made, session.take_commit()))
        assert len(state.encoded_ZhwC) <= plan.engine.overlap
    assert_same(results, walk.results)


def test_parking_changes_no_bit(
    plan: Plan, source: list[Frame], walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is parked is moved for good: the memory it had is spoilt here."""
    parked: list[str] = []

    def park(_: residency.Parking, state: StreamState) -> StreamState:
        moved = state.clone()
        for _name, tensor in state.named_tensors():
            with torch.inference_mode(tensor.is_inference()):
                tensor.fill_(torch.nan)
        parked.append(type(state).__name__)
        return moved

    monkeypatch.setattr(residency.Parking, "park", park)
    lean = make_plan(LONG, memory={"park_caches": True, "weights_resident": False})
    pieces = make_pieces(lean)[:3]
    assert_same(run_shot(open_tiny(lean), lean, source, pieces), walk.results[:3])
    assert parked == ["EncoderState", "DecoderState"] * 3


SETTINGS = {
    "one-latent-slices": {"encoder_slice": 1, "decoder_slice": 1},
    "large-slices": {"encoder_slice": 9, "decoder_slice": 9},
    "level-bounds": {"encoder_level_frames": (1, 2, 4, 4), "decoder_level_frames": (4, 4, 2, 1)},
    "chunks": {"chunk_tokens": 16},
    "rings": {
        "encoder_rings": True,
        "decoder_rings": True,
        "encoder_level_frames": (1, 1, 1, 4),
        "decoder_level_frames": (2, 1, 1, 1),
    },
}


@pytest.fixture(scope="module")
def short(either_path: None) -> Result:
    """61 frames in two windows, by the plan's usual memory."""
    plan = make_plan(61)
    return run_whole(plan, make_frames(plan))


@pytest.mark.parametrize("memory", SETTINGS.values(), ids=SETTINGS)
def test_slices_and_chunks_change_rounding_only(
    short: Result, memory: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_conv, "RING_PIXELS", 1)
    other = make_plan(61, memory=memory)
    a, b = short, run_whole(other, make_frames(other))
    assert a.commit.latents is not None
    torch.testing.assert_close(a.commit.latents, b.commit.latents, atol=4e-3, rtol=2e-3)
    assert np.abs(pictures([a]).astype(int) - pictures([b])).max() <= 1


def test_the_seed_decides_the_noise_of_each_file_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(7, 61)
    source = make_frames(plan)
    asked: list[tuple[int, list[int]]] = []
    noise = sampler.latent_noise

    def spy(seed: int, first_frames: Sequence[int], *args: object, **kwargs: object) -> object:
        asked.append((seed, list(first_frames)))
        return noise(seed, first_frames, *args, **kwargs)

    monkeypatch.setattr(sampler, "latent_noise", spy)
    result = run_whole(plan, source, 1)
    grid = make_grid(plan, 1)
    assert asked == [(5, [max(7, 4 + 4 * m) for m in w]) for w in grid.windows]
    assert_same([run_whole(plan, source, 1)], [result])
    other = run_whole(make_plan(7, 61, seed=2**64 - 1), source, 1)
    assert not np.array_equal(pictures([other]), pictures([result]))


@pytest.mark.parametrize("length", [1, 2, 5, 6, 45], ids=str)
def test_shots_of_one_window_and_their_last_frames(length: int) -> None:
    """45 frames fill 12 latents; other lengths are padded with their last frame."""
    plan = make_plan(length)
    source = make_frames(plan)
    result = run_whole(plan, source)
    assert [(f.index, f.pts) for f in result.frames] == list(enumerate(plan.video.pts))
    padded = -(-(length - 1) // 4) * 4 + 1
    longer = make_plan(padded)
    repeated = [
        dataclasses.replace(source[min(i, length - 1)], pts=pts, index=i)
        for i, pts in enumerate(longer.video.pts)
    ]
    wanted = run_whole(longer, repeated)
    assert np.array_equal(pictures([result]), pictures([wanted])[:length])
    assert torch.equal(latents([result]), latents([wanted]))


@pytest.mark.long
def test_shots_do_not_know_each_other() -> None:
    """One session for both shots, with a stopped piece between, or each in its own."""
    plan = make_plan(50, 58)
    source = make_frames(plan)
    session = open_tiny(plan)
    first = run_shot(session, plan, source, [whole(plan, 0)])
    shot, piece = plan.shots[0], whole(plan, 0)
    state = session.begin(iter(()), shot=shot, piece=piece)
    next(session.restore(iter(source), shot=shot, piece=piece, state=state))
    second = run_shot(session, plan, source, make_pieces(plan, shot=1))
    assert len(second) > 1
    assert_same(first, [run_whole(plan, source, 0)])
    assert_same(second, [run_whole(plan, source, 1)])
    assert [f.index for r in second for f in r.frames] == list(range(50, 108))


def test_sixteen_bit_frames_stay_sixteen_bit() -> None:
    plan = make_plan(6)
    source = make_frames(plan)
    deep = [dataclasses.replace(f, rgb=f.rgb.astype(np.uint16) * 257) for f in source]
    got, wanted = pictures([run_whole(plan, deep)]), pictures([run_whole(plan, source)])
    assert got.dtype == np.uint16
    assert np.abs(got / 257 - wanted).max() < 0.51
    assert (got % 257 != 0).any()


def test_colour_methods() -> None:
    plan = make_plan(9)
    source = make_frames(plan)
    auto = run_whole(plan, source)
    for method in ("wavelet", "wavelet_rgb", "lab", "adain", "none"):
        result = run_whole(make_plan(9, color_correction=method), source)
        assert len(result.frames) == 9
        same = np.array_equal(pictures([result]), pictures([auto]))
        assert same == (method == "wavelet"), method
        assert torch.equal(latents([result]), latents([auto])), method


def test_lab_is_refused_where_a_shot_has_more_than_one_window() -> None:
    with pytest.raises(PlanError, match="shot 1 has 46 frames in 2 windows"):
        open_tiny(make_plan(45, 46, color_correction="lab"))
    with pytest.raises(InvalidRequestError, match="unknown colour method 'hsv'"):
        open_tiny(make_plan(9, color_correction="hsv"))


@pytest.mark.long
@pytest.mark.parametrize(("mode", "overlap"), [("later", 3), ("crossfade", 0)])
def test_other_joins_resume_too(mode: str, overlap: int) -> None:
    plan = make_plan(61, stitch_mode=mode, overlap=overlap, window=8)
    source, session = make_frames(plan), open_tiny(plan)
    pieces = make_pieces(plan)
    results = run_shot(session, plan, source, pieces)
    assert_same(results, [run_whole(plan, source)])
    state, frames = begin_behind(session, plan, source, pieces[1], results[:1])
    assert_same([run_piece(session, plan, pieces[1], frames, state)], results[1:2])


def test_heartbeats_come_for_every_slice_and_window() -> None:
    plan = make_plan(61)
    beats: list[tuple[str, int, int]] = []
    session = open_session(plan, device="cpu", beat=lambda *beat: beats.append(beat))
    shot, grid = plan.shots[0], make_grid(plan)
    state = session.begin(iter(()), shot=shot, piece=whole(plan))
    restored = session.restore(iter(make_frames(plan)), shot=shot, piece=whole(plan), state=state)
    assert not beats
    next(restored)
    counts = {
        "restore encode": len(grid.encoder_slices),
        "restore dit": len(grid.windows),
        "restore decode": 1,
    }
    assert [phase for phase, _, _ in beats] == [p for p, n in counts.items() for _ in range(n)]
    assert len(list(restored)) == 60
    total = len(grid.decoder_slices)
    wanted = [("restore decode", done, total) for done in range(1, total + 1)]
    assert [beat for beat in beats if beat[0] == "restore decode"] == wanted


def test_wrong_states_frames_and_commits_are_refused() -> None:
    plan = make_plan(61)
    source, session, shot = make_frames(plan), open_tiny(plan), plan.shots[0]
    first, second = make_pieces(plan)
    fresh = [session.begin(iter(()), shot=shot, piece=first) for _ in range(3)]
    with pytest.raises(SegmentError, match="starts at latent 7 of its shot, the state is at 0"):
        session.restore(iter(source), shot=shot, piece=second, state=fresh[0])
    wrong = ((source[1:], r"got Frame\(1"), (source[:20], "the frames ended"))
    for state, (frames, got) in zip(fresh[1:], wrong, strict=True):
        with pytest.raises(SegmentError, match=f"expected source frame .*: {got}"):
            run_piece(session, plan, first, iter(frames), state)
    result = run_shot(session, plan, source, [first])[0]
    for before in (
        None,
        Commit(),
        dataclasses.replace(result.commit, latents=result.commit.latents[1:]),
    ):
        with pytest.raises(SegmentError, match=r"work goes on from latents \[0, 7\)"):
            session.begin(iter(source), shot=shot, piece=second, before=before)
    with pytest.raises(AssertionError, match="no piece"):
        session.take_commit()
    assert session.reads(shot, [first]) == Reads(frames=range(37), latents=range(0))
    assert session.reads(shot, [first, second]) == Reads(frames=range(61), latents=range(0))
    with pytest.raises(PlanError, match="needs a memory plan"):
        open_tiny(dataclasses.replace(plan, memory=None))
