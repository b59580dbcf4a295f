"""Windows, slices and joins of a shot."""

import itertools
import math

import pytest
import torch

from seedvr2_core.engines.seedvr2.blend import StitchMode, join_weights, join_windows
from seedvr2_core.errors import PlanError
from seedvr2_core.planning.windows import (
    decoder_slices,
    encoder_slices,
    encoder_warm_up_start,
    first_frame,
    num_latents,
    owned_latents,
    plan_windows,
    soft_boundaries,
    warm_up_start,
    windows_of_piece,
)
from tests.golden.reference_rules import padded_num_frames

SETTINGS = [(1, 0), (2, 0), (2, 1), (3, 1), (5, 2), (8, 3), (12, 3), (25, 3), (25, 8), (25, 0)]
EACH_SETTING = pytest.mark.parametrize(("window", "overlap"), SETTINGS, ids=str)


@EACH_SETTING
def test_windows_cover_a_shot_of_any_length(window: int, overlap: int) -> None:
    for total in range(1, 200):
        spans = plan_windows(total, window=window, overlap=overlap)
        lengths = [len(span) for span in spans]
        assert spans[0].start == 0
        assert spans[-1].stop == total
        assert max(lengths) <= window
        assert max(lengths) - min(lengths) <= 1
        assert lengths == sorted(lengths, reverse=True)
        for before, after in itertools.pairwise(spans):
            assert before.stop - after.start == overlap
        if len(spans) > 1:
            assert len(spans) == math.ceil((total - overlap) / (window - overlap))
        count = [0] * total
        for span in spans:
            for latent in span:
                count[latent] += 1
        assert set(count) <= {1, 2}


def test_the_default_windows_of_a_long_shot() -> None:
    spans = plan_windows(60, window=25, overlap=3)
    assert spans == (range(0, 22), range(19, 41), range(38, 60))
    assert soft_boundaries(spans) == (73, 149)


@pytest.mark.parametrize(("window", "largest"), [(1, 0), (2, 1), (4, 1), (5, 2), (25, 8)])
def test_a_latent_never_lies_in_three_windows(window: int, largest: int) -> None:
    plan_windows(500, window=window, overlap=largest)
    with pytest.raises(PlanError, match=f"at most {largest}"):
        plan_windows(500, window=window, overlap=largest + 1)


def test_nonsense_is_refused() -> None:
    for total, window, overlap in ((0, 5, 1), (5, 0, 0), (5, 5, -1)):
        with pytest.raises(PlanError, match="need latents"):
            plan_windows(total, window=window, overlap=overlap)


def test_a_part_of_a_shot_can_be_cut_again() -> None:
    spans = plan_windows(22, window=9, overlap=3, start=19)
    assert (spans[0].start, spans[-1].stop) == (19, 41)
    assert max(map(len, spans)) <= 9


def test_latents_and_frames() -> None:
    for frames in range(1, 60):
        latents = num_latents(frames)
        assert first_frame(latents) == padded_num_frames(frames)
        assert first_frame(latents - 1) < frames
    assert [first_frame(m) for m in range(4)] == [0, 1, 5, 9]


@EACH_SETTING
def test_pieces_own_every_latent_once(window: int, overlap: int) -> None:
    for total in (1, 2, 7, 30, 61):
        spans = plan_windows(total, window=window, overlap=overlap)
        owned = [latent for i in range(len(spans)) for latent in owned_latents(spans, i)]
        assert owned == list(range(total))


def test_windows_of_a_piece() -> None:
    spans = plan_windows(60, window=25, overlap=3)
    last_frame = first_frame(60) - 2
    assert windows_of_piece(spans, 0, last_frame) == range(0, 3)
    assert windows_of_piece(spans, 0, 73) == range(0, 1)
    assert windows_of_piece(spans, 73, 149) == range(1, 2)
    assert windows_of_piece(spans, 73, last_frame) == range(1, 3)
    for start, stop in ((1, 73), (0, 74), (0, 238)):
        with pytest.raises(PlanError, match="do not begin and end"):
            windows_of_piece(spans, start, stop)


@EACH_SETTING
@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_slices_cover_the_shot_and_break_at_windows(window: int, overlap: int, size: int) -> None:
    for total in (1, 2, 3, 9, 26, 77):
        spans = plan_windows(total, window=window, overlap=overlap)
        starts = {span.start for span in spans}
        both = starts | {span.stop for span in spans}
        for edges, slices in (
            (both, encoder_slices(spans, size)),
            (starts, decoder_slices(spans, size)),
        ):
            assert [latent for piece in slices for latent in piece] == list(range(total))
            assert edges - {total} <= {piece.start for piece in slices}
            assert all(0 < len(piece) <= max(size, 2) for piece in slices)
            first = min({*edges, total} - {0})
            assert slices[0] == range(0, min(2, first))


def test_slices_do_not_depend_on_segments() -> None:
    spans = plan_windows(60, window=25, overlap=3)
    assert decoder_slices(spans, 8)[:4] == (range(2), range(2, 10), range(10, 18), range(18, 19))
    assert range(19, 22) in encoder_slices(spans, 8)
    assert range(19, 27) in decoder_slices(spans, 8)
    with pytest.raises(PlanError, match="at least 1"):
        decoder_slices(spans, 0)


def test_warm_up_starts_at_a_slice_with_enough_lead() -> None:
    slices = decoder_slices(plan_windows(200, window=25, overlap=3), 4)
    starts = [piece.start for piece in slices]
    for needed in range(200):
        got = warm_up_start(slices, first_needed=needed, lead_latents=37)
        if needed <= 37:
            assert got == 0
        else:
            assert got in starts
            assert got <= needed - 37
            assert not any(got < start <= needed - 37 for start in starts)


def test_encoder_lead_is_counted_in_frames() -> None:
    slices = encoder_slices(plan_windows(200, window=25, overlap=3), 1)
    for needed in (28, 29, 100, 151):
        got = encoder_warm_up_start(slices, first_needed=needed, lead_frames=112)
        assert got == warm_up_start(slices, first_needed=needed, lead_latents=28)
    assert encoder_warm_up_start(slices, first_needed=28, lead_frames=112) == 0
    assert encoder_warm_up_start(slices, first_needed=100, lead_frames=112) == 72


def test_join_weights_rise_and_add_up() -> None:
    for overlap in range(9):
        weights = join_weights(overlap)
        assert len(weights) == overlap
        assert list(weights) == sorted(weights)
        assert all(0 < w < 1 for w in weights)
        for new, old in zip(weights, reversed(weights), strict=True):
            assert new + old == pytest.approx(1)
    assert join_weights(3) == pytest.approx((0.5 - 0.5 * math.sqrt(0.5), 0.5, 0.5 + 0.25 * 2**0.5))


@EACH_SETTING
@pytest.mark.parametrize("mode", ["crossfade", "later"])
def test_joining_equal_windows_gives_the_shot_back(
    window: int, overlap: int, mode: StitchMode
) -> None:
    """Where all windows agree, a shot comes out as if it had been one window."""
    shot = torch.randn(50, 2, 3, 4)
    spans = plan_windows(50, window=window, overlap=overlap)
    tail, finals = None, []
    for i, span in enumerate(spans):
        output = shot[span.start : span.stop]
        final, tail = join_windows(tail, output, num_final=len(owned_latents(spans, i)), mode=mode)
        finals.append(final)
    assert tail is not None
    assert len(tail) == 0
    assert torch.equal(torch.cat(finals), shot.half())


def test_join_mixes_the_shared_zone_in_float32_and_rounds_once() -> None:
    tail, output = torch.randn(3, 2, 2, 1), torch.randn(8, 2, 2, 1)
    final, rest = join_windows(tail, output, num_final=5, mode="crossfade")
    new = torch.tensor(join_weights(3)).view(3, 1, 1, 1)
    mixed = (1 - new) * tail + new * output[:3]
    assert final.dtype == torch.float16
    torch.testing.assert_close(final[:3].float(), mixed, atol=2e-3, rtol=0)
    assert torch.equal(final[3:], output[3:5].half())
    assert rest.dtype == torch.float32
    assert torch.equal(rest, output[5:])


def test_later_keeps_the_older_window() -> None:
    tail, output = torch.randn(3, 2, 2, 1), torch.randn(8, 2, 2, 1)
    final, _ = join_windows(tail, output, num_final=5, mode="later")
    assert torch.equal(final, torch.cat([tail, output[3:5]]).half())


def test_the_tail_is_a_copy_and_must_fit() -> None:
    output = torch.randn(8, 2, 2, 1)
    _, rest = join_windows(None, output, num_final=5, mode="crossfade")
    output.zero_()
    assert rest.abs().sum() > 0
    with pytest.raises(PlanError, match="tail of 3"):
        join_windows(torch.zeros(3, 2, 2, 1), output, num_final=2, mode="crossfade")
