"""The memory plan: what fits, what it prefers, what it refuses. Nothing is allocated."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from seedvr2_core.config import DIT_3B, DIT_7B, DIT_TINY_3B, VAE_PRODUCTION, VAE_TINY, DiTConfig
from seedvr2_core.errors import PlanError, ResourceError
from seedvr2_core.planning.memory import cache_seconds, memory_notes, plan_memory
from seedvr2_core.planning.peaks import CONSTANTS, MemoryRequest, PhasePeaks, Residency
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.planning.queues import bytes_waiting
from seedvr2_core.planning.rungs.slices import Slices
from seedvr2_core.vae.model import build_vae, random_weights

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080), "2k": (2560, 1440), "4k": (3840, 2160)}
H100, H200 = 78_000_000_000, 139_000_000_000


def request_for(
    resolution: str, device_bytes: int | None, config: DiTConfig = DIT_7B
) -> MemoryRequest:
    width, height = SIZES[resolution]
    return MemoryRequest(
        dit_config=config,
        vae_config=VAE_PRODUCTION,
        width=width,
        height=height,
        num_latents_in_window=25,
        overlap=3,
        segment_latents=91,
        source_frame_bytes=width * height * 3 // 4,
        device_bytes=device_bytes,
        device_kind="NVIDIA test card",
    )


def slices_of(plan: MemoryPlan) -> tuple[int, ...]:
    return (plan.encoder_slice, plan.decoder_slice, plan.chunk_tokens)


@pytest.mark.parametrize("config", [DIT_3B, DIT_7B], ids=["3b", "7b"])
@pytest.mark.parametrize(
    ("resolution", "device_bytes"),
    [("720p", H100), ("1080p", H100), ("2k", H100), ("2k", H200), ("4k", H200)],
)
def test_design_points_fit(resolution: str, device_bytes: int, config: DiTConfig) -> None:
    plan = plan_memory(request_for(resolution, device_bytes, config))
    peaks = dict(plan.peaks)
    assert list(peaks) == ["encode", "dit", "decode", "host"]
    assert all(0 < peaks[phase] <= device_bytes for phase in ("encode", "dit", "decode"))
    assert (plan.vae_dtype, plan.dit_dtype) == ("float16", "bfloat16")


def test_1080p_keeps_everything_on_80_gb_and_4k_parks_on_141_gb() -> None:
    small, large = (plan_memory(request_for(r, b)) for r, b in (("1080p", H100), ("4k", H200)))
    assert small.weights_resident
    assert not small.park_caches
    assert large.park_caches
    # Weights of 16 GB and caches of 41 or 94 GB, as dit.md and vae.md count them.
    assert dict(small.peaks)["dit"] > 40e9
    assert 94e9 + 16e9 < dict(large.peaks)["host"] < 118e9


@pytest.mark.parametrize(
    ("resolution", "device_bytes", "config"),
    [("1080p", 23, DIT_3B), ("2k", 31, DIT_3B), ("2k", 31, DIT_7B), ("4k", 78, DIT_7B)],
    ids=["1080p-3b-24", "2k-3b-32", "2k-7b-32", "4k-7b-80"],
)
def test_smaller_cards_take_caches_from_host_memory(
    resolution: str, device_bytes: int, config: DiTConfig
) -> None:
    request = request_for(resolution, device_bytes * 10**9, config)
    plan = plan_memory(request)
    assert plan.stream_caches
    assert not plan.park_caches
    assert not plan.encoder_rings
    assert not plan.decoder_rings
    assert (
        max(dict(plan.peaks)[phase] for phase in ("encode", "dit", "decode")) <= device_bytes * 1e9
    )
    (note,) = memory_notes(request, plan)
    assert re.search(
        r"host memory for each layer: \d+ GB each way for 100 frames"
        r"(, \d+ GB of them while a layer waits)?, about \d+ s",
        note,
    )
    roomy = plan_memory(replace(request, device_bytes=H200))
    assert memory_notes(request, roomy) == []


@pytest.mark.parametrize("resolution", SIZES)
def test_more_memory_never_gives_smaller_slices(resolution: str) -> None:
    before: MemoryPlan | None = None
    streamed = False
    for gigabytes in range(20, 261, 4):
        try:
            plan = plan_memory(request_for(resolution, gigabytes * 10**9))
        except ResourceError:
            assert before is None
            continue
        if before is not None and plan.stream_caches == streamed:
            pairs = zip(slices_of(before), slices_of(plan), strict=True)
            # With layers in host memory there is room for more tokens at once.
            request = request_for(resolution, None)
            assert not streamed or cache_seconds(request, plan) <= cache_seconds(request, before)
            same = before.streamed_layers == plan.streamed_layers
            # Streamed caches move less often where more frames pass at once, whatever the slice.
            slices = [] if streamed else list(pairs)[: None if same else 2]
            assert all(a <= b for a, b in slices)
            for part in ("encoder", "decoder"):
                # The last rung is another way: one large frame at a time, which are not moved.
                rings = [getattr(p, f"{part}_rings") for p in (before, plan)]
                assert rings[0] <= rings[1]
                frames = [getattr(p, f"{part}_level_frames") for p in (before, plan)]
                assert rings[1] or all(a <= b for a, b in zip(*frames, strict=True))
        # Whatever fits without streaming is faster, with the smallest slices too.
        assert streamed or before is None or not plan.stream_caches
        before, streamed = plan, plan.stream_caches
    assert before is not None
    assert before.weights_resident
    assert not before.park_caches
    assert slices_of(before) == (8, 8, 65_536)
    assert before.encoder_rings
    assert before.decoder_rings


def test_residency_is_given_up_last_at_equal_slices() -> None:
    request = request_for("1080p", None)
    peaks = dict(plan_memory(request).peaks)
    most = max(peaks[phase] for phase in ("encode", "dit", "decode"))
    plans = [plan_memory(replace(request, device_bytes=most - lack)) for lack in (0, 1)]
    assert [plan.park_caches for plan in plans] == [False, True]
    assert slices_of(plans[0]) == slices_of(plans[1])


def test_a_picture_too_large_is_refused_with_the_numbers() -> None:
    request = replace(request_for("4k", 15_000_000_000), num_latents_in_window=8)
    with pytest.raises(
        ResourceError,
        match=r"3840x2160 .* decode needs \d+\.\d GB at the least \(\d+\.\d GB of it for one frame "
        r"in decoder\.up_blocks\.2\.upsamplers\.0\) and NVIDIA test card has 15\.0 GB free",
    ):
        plan_memory(request)


@pytest.mark.parametrize("resolution", SIZES)
def test_of_all_ways_to_stream_the_one_that_costs_least_is_taken(resolution: str) -> None:
    """With less memory caches are moved more often, or layers wait for them; never without need."""
    seconds: list[float] = []
    blocks: set[int | None] = set()
    for gigabytes in range(5, 80):
        request = request_for(resolution, gigabytes * 10**9)
        try:
            plan = plan_memory(request)
        except ResourceError:
            assert not seconds
            continue
        if not plan.stream_caches:
            break
        seconds.append(cache_seconds(request, plan))
        blocks |= {plan.encoder_block_bytes, plan.decoder_block_bytes}
        phases = PhasePeaks.of(request)
        chosen = Slices(
            plan.decoder_slice,
            plan.decoder_level_frames[-1],
            block_bytes=plan.decoder_block_bytes,
            bands=plan.decoder_bands,
        )
        stay = Residency(weights=plan.weights_resident, caches=False, streamed=True)
        for rung in phases.streamed_rungs("decode"):
            if phases.cache_seconds("decode", rung) < phases.cache_seconds("decode", chosen):
                lean = replace(stay, weights=False)
                assert not request.fits(phases.decode(rung, lean))
    assert seconds == sorted(seconds, reverse=True)
    assert len(seconds) > 3
    assert {None, 0} < blocks


def test_bands_of_rows_are_for_cards_that_do_not_hold_a_frame_with_those_before_it() -> None:
    small, larger = (request_for("4k", gigabytes * 10**9) for gigabytes in (23, 31))
    plan = plan_memory(small)
    assert plan.encoder_bands
    assert plan.decoder_bands
    assert plan.encoder_level_frames == plan.decoder_level_frames == (1, 1, 1, 1)
    assert plan.stream_caches
    without = plan_memory(larger)
    assert not without.encoder_bands
    assert not without.decoder_bands
    # What it costs is told as for the other rungs, and is more.
    assert cache_seconds(small, plan) > cache_seconds(larger, without)
    told = "the VAE's encoder and decoder work on them in bands of rows"
    assert told in memory_notes(small, plan)[-2]
    assert not any("bands of rows" in note for note in memory_notes(larger, without))


def test_a_window_too_long_is_refused_with_the_numbers() -> None:
    request = replace(request_for("1080p", H100), num_latents_in_window=900)
    with pytest.raises(ResourceError, match=r"phase dit with a window of 900 latents needs"):
        plan_memory(request)


def test_the_phase_that_needs_most_is_named_and_its_gpu_suffices() -> None:
    """Three phases do not fit: a GPU for the first of them would be refused again."""
    request = replace(request_for("4k", 10**9), num_latents_in_window=50)
    with pytest.raises(ResourceError) as refusal:
        plan_memory(request)
    found = re.search(r"use a GPU with (\d+) GB free", str(refusal.value))
    assert found is not None
    plan_memory(replace(request, device_bytes=int(found[1]) * 10**9))


def test_lab_counts_the_whole_shot() -> None:
    request = request_for("4k", H100)
    plan_memory(request)
    with pytest.raises(ResourceError, match=r"phase decode needs"):
        plan_memory(replace(request, color_correction="lab"))


def test_the_host_is_taken_as_large_enough() -> None:
    request = replace(request_for("4k", None), device_kind="cpu", num_latents_in_window=1000)
    plan = plan_memory(replace(request, vae_dtype="float32", dit_dtype="float32"))
    assert plan.weights_resident
    assert not plan.park_caches
    assert slices_of(plan) == (8, 8, 65_536)
    assert not plan.encoder_rings
    assert not plan.decoder_rings
    peaks = dict(plan.peaks)
    assert peaks["dit"] > dict(plan_memory(request).peaks)["dit"]


def test_the_vae_obeys_a_tiny_plan() -> None:
    request = replace(
        request_for("720p", None),
        dit_config=DIT_TINY_3B,
        vae_config=VAE_TINY,
        width=48,
        height=32,
        num_latents_in_window=5,
        overlap=1,
        device_kind="cpu",
        vae_dtype="float32",
    )
    plan = plan_memory(request)
    vae = build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=torch.float32)
    video = torch.zeros(1, 3, 5, *request.padded)
    with torch.inference_mode():
        latents, _ = vae.encode_latents(video, max_frames=plan.encoder_level_frames)
        frames, _ = vae.decode_latents(latents, max_frames=plan.decoder_level_frames)
    assert latents.shape[2:4] == request.latent_size
    assert frames.shape == video.shape
    assert plan.encoder_level_frames[0] == plan.decoder_level_frames[-1] == 4


@pytest.mark.parametrize(
    "changes",
    [{"vae_dtype": "int8"}, {"num_latents_in_window": 0}, {"overlap": -1}, {"width": 0}],
    ids=str,
)
def test_nonsense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        plan_memory(replace(request_for("720p", H100), **changes))


def test_reserves_are_inside_the_peaks() -> None:
    reserve = CONSTANTS.context + CONSTANTS.workspace
    request = request_for("720p", None)
    on_gpu, on_cpu = (
        dict(plan_memory(replace(request, device_kind=kind)).peaks) for kind in ("cuda", "cpu")
    )
    assert on_gpu["dit"] > on_cpu["dit"] + reserve


@pytest.mark.parametrize("bit_depth", [8, 10])
def test_host_memory_counts_the_frames_in_the_queues(bit_depth: int) -> None:
    source, restored = 1920 * 1080 * 3 // 4, 1920 * 1080 * 3 * (1 if bit_depth == 8 else 2)
    plan = plan_memory(replace(request_for("1080p", H100), bit_depth=bit_depth))
    at_once = 4 * 8
    moving = sum(bytes_waiting(at_once, size) + at_once * size for size in (source, restored))
    # Two slices of restored frames wait, and one comes from the device.
    assert moving > 3 * at_once * restored
    assert dict(plan.peaks)["host"] == 4 * 91 * source + moving


def test_few_layers_of_the_7b_come_from_host_memory_on_24_gb() -> None:
    request = request_for("1080p", 23 * 10**9)
    plan = plan_memory(request)
    assert 0 < plan.streamed_layers < DIT_7B.num_layers
    peaks = dict(plan.peaks)
    assert 21e9 < peaks["dit"] <= 23e9
    # One layer less has no room.
    more = replace(request, device_bytes=peaks["dit"] - 1)
    assert plan_memory(more).streamed_layers > plan.streamed_layers
    notes = memory_notes(request, plan)
    assert f"{plan.streamed_layers} of the transformer's 36 layers" in notes[0]
    assert re.search(r"about 0\.\d s for 100 frames at 20 GB/s", notes[0])


def test_what_does_not_fit_the_host_is_refused_with_the_numbers() -> None:
    request = request_for("4k", H200)
    need = dict(plan_memory(request).peaks)["host"] + CONSTANTS.host_process
    assert plan_memory(replace(request, host_bytes=need)) == plan_memory(request)
    with pytest.raises(
        ResourceError,
        match=r"3840x2160 on NVIDIA test card needs \d+\.\d GB of host memory .*"
        r"64\.0 GB are free; use a machine with \d+ GB free",
    ):
        plan_memory(replace(request, host_bytes=64 * 10**9))


def test_less_waits_in_host_memory_where_there_is_less() -> None:
    """With smaller slices the weights can stay on the card."""
    request = request_for("4k", H200)
    plan = plan_memory(request)
    assert not plan.weights_resident
    host = dict(plan.peaks)["host"] + CONSTANTS.host_process
    other = plan_memory(replace(request, host_bytes=host - 1))
    assert other.weights_resident
    assert not other.decoder_rings
    assert dict(other.peaks)["host"] < host - 15e9


def test_planning_loads_no_torch() -> None:
    """The flow's process plans, and stays small."""
    code = """
import sys
from seedvr2_core.config import DIT_7B, VAE_PRODUCTION
from seedvr2_core.planning.memory import plan_memory
from seedvr2_core.planning.peaks import MemoryRequest
plan_memory(MemoryRequest(
    dit_config=DIT_7B, vae_config=VAE_PRODUCTION, width=1920, height=1080,
    num_latents_in_window=25, overlap=3, segment_latents=91, source_frame_bytes=1000000,
    device_bytes=78 * 10**9, device_kind="H100",
))
sys.exit('torch' in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
