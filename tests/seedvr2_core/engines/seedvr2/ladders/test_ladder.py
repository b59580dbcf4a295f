"""Less memory: which lever comes next, and how a piece is cut into shorter windows."""

import dataclasses
import itertools

import pytest

from seedvr2_core.config import VAE_PRODUCTION
from seedvr2_core.engines.seedvr2.ladder import describe, lower_rung, shorter_windows
from seedvr2_core.planning.memory import CHUNKS
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.planning.rungs.slices import SLICES, level_frames, ring_level_frames
from seedvr2_core.planning.windows import plan_windows

PLANNED = MemoryPlan(
    vae_dtype="float16",
    dit_dtype="bfloat16",
    encoder_slice=8,
    decoder_slice=8,
    encoder_level_frames=level_frames(VAE_PRODUCTION, 4),
    decoder_level_frames=level_frames(VAE_PRODUCTION, 2)[::-1],
    chunk_tokens=CHUNKS[0],
    park_caches=False,
    weights_resident=True,
    peaks=(("encode", 1),),
)


def ladder(memory: MemoryPlan, phase: str) -> list[MemoryPlan]:
    """All rungs below."""
    rungs = []
    while (memory := lower_rung(memory, phase, VAE_PRODUCTION, window_tokens=10**6)) is not None:
        rungs.append(memory)
    return rungs


@pytest.mark.parametrize("phase", ["encode", "dit", "decode"])
def test_first_everything_waits_elsewhere_then_the_phase_shrinks(phase: str) -> None:
    first, *others = ladder(PLANNED, phase)
    assert first == dataclasses.replace(PLANNED, park_caches=True, weights_resident=False)
    encoder = [(r.encoder_slice, r.encoder_level_frames[0]) for r in others]
    decoder = [(r.decoder_slice, r.decoder_level_frames[-1]) for r in others]
    chunks = [r.chunk_tokens for r in others]
    last = len(others)
    sizes = [rung[:2] for rung in SLICES]
    if phase != "dit":
        *others, streamed, straight, banded = others
        assert streamed == dataclasses.replace(others[-1], park_caches=False, stream_caches=True)
        assert "caches come from host memory for each layer" in describe(PLANNED, streamed, None)
        part = "encoder" if phase == "encode" else "decoder"
        assert straight == dataclasses.replace(streamed, **{f"{part}_block_bytes": 0})
        assert f"layers of the {part} wait for their caches" in describe(PLANNED, straight, None)
        frames = {f"{part}_level_frames": (1, 1, 1, 1)}
        assert banded == dataclasses.replace(straight, **{f"{part}_bands": True}, **frames)
        assert f"{part} in bands of rows" in describe(PLANNED, banded, None)
        encoder, decoder, chunks, last = encoder[:-3], decoder[:-3], chunks[:-3], last - 3
    assert encoder == (sizes[1:] if phase == "encode" else [(8, 4)] * last)
    assert decoder == (sizes[2:] if phase == "decode" else [(8, 2)] * last)
    assert chunks == (list(CHUNKS[1:]) if phase == "dit" else [CHUNKS[0]] * last)


@pytest.mark.parametrize("phase", ["encode", "decode"])
def test_below_rings_frames_are_moved_and_fewer_are_held(phase: str) -> None:
    size = (1088, 1920)
    planned = dataclasses.replace(
        PLANNED,
        encoder_level_frames=ring_level_frames(VAE_PRODUCTION, size),
        decoder_level_frames=ring_level_frames(VAE_PRODUCTION, size)[::-1],
        encoder_rings=True,
        decoder_rings=True,
        park_caches=True,
        weights_resident=False,
    )
    first, second, *_ = ladder(planned, phase)
    changed = {
        name for name in dataclasses.asdict(first) if getattr(first, name) != getattr(planned, name)
    }
    assert changed == {f"{phase[:2]}coder_rings", f"{phase[:2]}coder_level_frames"}
    assert sorted(getattr(first, f"{phase[:2]}coder_level_frames")) == [1, 2, 4, 8]
    assert getattr(second, f"{phase[:2]}coder_slice") == 4
    assert f"{phase[:2]}coder without rings" in describe(planned, first, None)


def test_where_caches_are_streamed_already_layers_wait_before_slices_shrink() -> None:
    """The first keeps every bit."""
    planned = dataclasses.replace(PLANNED, stream_caches=True, weights_resident=False)
    first, second, *_ = ladder(planned, "decode")
    assert first == dataclasses.replace(planned, decoder_block_bytes=0)
    assert second.decoder_level_frames != first.decoder_level_frames


def test_a_plan_without_bounds_gets_them() -> None:
    free = dataclasses.replace(
        PLANNED, chunk_tokens=0, encoder_slice=4, encoder_level_frames=(0, 0, 0, 0)
    )
    assert [rung.chunk_tokens for rung in ladder(free, "dit")] == [0, *CHUNKS]
    slices = [(rung.encoder_slice, rung.encoder_level_frames[0]) for rung in ladder(free, "encode")]
    assert slices == [(4, 0), (4, 1), (2, 1), (1, 1), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("overlap", [0, 1, 3, 8])
@pytest.mark.parametrize("num_latents", [2, 8, 25, 63, 91])
def test_shorter_windows_cover_the_same_latents(num_latents: int, overlap: int) -> None:
    window = max(25, 3 * overlap - 1)
    windows = plan_windows(num_latents, window=window, overlap=overlap, start=40)
    seen = 0
    while (shorter := shorter_windows(windows, overlap)) is not None:
        seen += 1
        assert (shorter[0].start, shorter[-1].stop) == (40, 40 + num_latents)
        assert max(map(len, shorter)) < max(map(len, windows))
        assert len(shorter) == 1 or min(map(len, shorter)) >= max(1, 2 * overlap)
        for before, after in itertools.pairwise(shorter):
            assert before.stop - after.start == overlap
        windows = shorter
    assert seen or max(map(len, windows)) <= max(2, 3 * overlap - 1)


def test_what_was_given_up_is_told_in_words() -> None:
    assert describe(PLANNED, PLANNED, None) == ""
    lower = dataclasses.replace(PLANNED, weights_resident=False, decoder_slice=4)
    words = describe(PLANNED, lower, (range(0, 9), range(6, 15)))
    assert words == (
        "everything that waits is in host memory, decoder_slice 4, windows of 9+9 latents"
    )
