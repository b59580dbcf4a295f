"""The plan as a whole: keys, limits, shots with windows."""

import dataclasses
import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest

from seedvr2_core.config import find_engine
from seedvr2_core.errors import InvalidRequestError, PlanError, ResourceError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.cutting import shots_between
from seedvr2_core.planning.plan import Options, Plan
from seedvr2_core.planning.timing import WINDOW_SECONDS, stall_limit
from seedvr2_core.planning.windows import (
    engine_settings,
    num_latents,
    plan_windows,
    windows_of_piece,
)
from tasks.schemas import UpscaleRequest, check_request
from tests.kits.factories import make_info, make_options


def with_windows(window: int, overlap: int, color: str = "auto") -> Options:
    """Options of an engine with latents."""
    options = make_options(segment_seconds=2)
    engine = dataclasses.replace(
        options.engine, name="tiny", window=window, overlap=overlap, color_correction=color
    )
    return dataclasses.replace(options, engine=engine)


def test_key_changes_with_every_option_that_changes_bytes() -> None:
    info = make_info()

    def key(digest: str = "a", **changes: object) -> str:
        return build_plan(info, digest, make_options(**changes)).job_key

    assert key() == key(device="cuda:0", cpu_count=64, stall_seconds=5.0, notes=("x",))
    other_engine = dataclasses.replace(make_options().engine, seed=7)
    keys = [
        key(),
        key("b"),
        key(crf=20),
        key(preset="fast"),
        key(resolution="1080p"),
        key(segment_seconds=2),
        key(engine=other_engine),
        key(engine=dataclasses.replace(make_options().engine, strength=0.5)),
        key(codec="hevc"),
        key(codec="ffv1"),
        key(container="mkv"),
        key(audio="aac"),
        key(audio="none"),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(codec="h264", container="mp4")


def test_a_job_of_the_last_version_keeps_its_key_and_its_plan(tmp_path: Path) -> None:
    """Its plan and its key know nothing of codecs, containers and 16-bit frames."""
    plan = build_plan(make_info(pts=tuple(range(30))), "a" * 64, make_options())
    assert plan.job_key == "a7692bd48ee9684ece58c4a42c6b917c7c9692bab5354e59d84f12a37d02dea9"
    path = tmp_path / "plan.json"
    write_record(path, plan)
    record = json.loads(path.read_text())
    for owner, name in (("encoder", "hdr"), ("video", "hdr")):
        del record[owner][name]
    for name in ("output", "deep"):
        del record[name]
    path.write_text(json.dumps(record))
    assert read_record(path, Plan) == plan


@pytest.mark.parametrize(
    ("resolution", "key"),
    [
        ("4k", "df65a403c92d089e6ea321b18e330987dd1d5d279aad976c2df521210df14f57"),
        ("short:720", "ef5f051587e09ee9d88ed2a2fd880ccd41fc9935b4125e74cfee7ef350938223"),
        ("short:2160", "991f8aeeb03f08b3f3c57fc999e1b7abcf652bf22bf0e3f99ac5d136c3ebe940"),
    ],
)
def test_a_size_of_the_last_version_keeps_its_key(resolution: str, key: str) -> None:
    info = make_info(pts=tuple(range(30)))
    assert build_plan(info, "a" * 64, make_options(resolution=resolution)).job_key == key


def test_a_factor_and_a_box_are_jobs_of_their_own_with_the_limits_of_their_pixels() -> None:
    info = make_info(640, 360)
    names = ("720p", "2x", "1280x720")
    plans = [build_plan(info, "a", make_options(resolution=name)) for name in names]
    assert {(plan.width, plan.height, plan.limits.stall) for plan in plans} == {(1280, 720, 180.0)}
    assert len({plan.job_key for plan in plans}) == len(plans)
    stalls = [
        build_plan(info, "a", make_options(resolution=name)).limits.stall
        for name in ("2x", "6x", "12x")
    ]
    assert stalls == sorted(set(stalls))
    assert stalls[1] == stall_limit("4k", make_options().batch_size)


def test_a_target_that_is_smaller_than_the_source_is_said() -> None:
    for name in ("0.5x", "320x320"):
        plan = build_plan(make_info(640, 360), "a", make_options(resolution=name))
        assert (plan.width, plan.height) == (320, 180)
        assert "is scaled down" in "".join(plan.notes)


def test_a_lower_strength_is_said_and_engines_without_detail_ignore_it() -> None:
    engine = dataclasses.replace(make_options().engine, strength=0.5)
    plan = build_plan(make_info(), "a", make_options(engine=engine))
    assert any(note.startswith("strength 0.5: ") for note in plan.notes)
    request = UpscaleRequest(video_url="https://example.org/a.mp4", strength=0.5)
    settings, note = engine_settings(request, find_engine("lanczos"), "")
    assert (settings.strength, note) == (
        1.0,
        "strength is about SeedVR2 models; lanczos has no use for it",
    )
    settings, note = engine_settings(request, find_engine("seedvr2-7b"), "")
    assert (settings.strength, note) == (0.5, "")
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidRequestError, match="strength"):
            check_request(video_url="https://example.org/a.mp4", strength=wrong)


def test_the_same_codec_for_more_bits_is_another_job() -> None:
    """The last version restored ten bits as eight, with the same encoder."""
    deep = dataclasses.replace(make_info(), bit_depth=10, pix_fmt="yuv420p10le")
    plans = [build_plan(i, "a", make_options(codec="h264")) for i in (make_info(), deep)]
    assert plans[0].encoder == plans[1].encoder
    assert plans[0].job_key != plans[1].job_key
    assert (plans[0].deep, plans[1].deep) == (False, True)


def test_a_shorter_side_is_a_job_of_its_own() -> None:
    """Its name is in the file's metadata, so the same pixels by another name are another file."""
    plans = [
        build_plan(make_info(), "a", make_options(resolution=r)) for r in ("720p", "short:720")
    ]
    assert {(plan.width, plan.height) for plan in plans} == {(1280, 720)}
    assert plans[0].job_key != plans[1].job_key
    old = "811a104062ee2b0e5ceedb85f8e6944f722ac9a5d4af47760ca5c62333c6c19f"
    assert build_plan(make_info(), "a", make_options(segment_seconds=5)).job_key == old
    four_to_three = build_plan(make_info(640, 480), "a", make_options())
    assert any("resolution short:720 makes it 960x720" in note for note in four_to_three.notes)


def test_limits_and_notes() -> None:
    options = make_options(stall_seconds=7, job_seconds=9)
    plan: Plan = build_plan(make_info(3840, 2160), "a", options)
    assert (plan.limits.stall, plan.limits.job) == (7, 9)
    assert plan.eta_seconds > 0
    assert any("scaled down" in note for note in plan.notes)
    usual = build_plan(make_info(), "a", make_options())
    assert usual.limits.job is None, "only an operator sets one"
    assert Fraction(*usual.encoder.time_base) == Fraction(1, 25)


def test_stall_limit_is_the_old_rule_in_every_case_of_it(shared: Path) -> None:
    cases = json.loads((shared / "seedvr2/golden/planning.json").read_text())["stall_timeout"]
    known = [case for case in cases if case["resolution"] in WINDOW_SECONDS]
    assert len(known) >= 20
    for case in known:
        seconds = stall_limit(case["resolution"], case["batch_size"])
        assert seconds == case["stall_timeout_s"], case


@pytest.mark.parametrize(
    ("resolution", "batch_size", "seconds"),
    [("720p", 100, 180), ("1080p", 100, 180), ("2k", 100, 495), ("4k", 100, 885)],
)
def test_stall_limit_is_the_old_rule(resolution: str, batch_size: int, seconds: float) -> None:
    assert stall_limit(resolution, batch_size) == seconds


@pytest.mark.parametrize("cuts", [(), (1,), (40, 41, 200), (299,)], ids=str)
def test_pieces_of_every_shot_begin_and_end_at_windows(cuts: tuple[int, ...]) -> None:
    options = with_windows(window=5, overlap=2)
    plan = build_plan(make_info(), "a", options, cuts=cuts)
    assert plan.shots == shots_between(cuts, 300)
    assert len(plan.segments) > 3
    frames = [f for s in plan.segments for p in s.pieces for f in range(p.start, p.stop)]
    assert frames == list(range(300))
    for segment, piece in ((s, p) for s in plan.segments for p in s.pieces):
        shot = plan.shots[piece.shot]
        windows = plan_windows(num_latents(shot.stop - shot.start), window=5, overlap=2)
        assert windows_of_piece(windows, piece.start - shot.start, piece.stop - shot.start)
        assert len(segment.pieces) == 1 or (piece.start, piece.stop) == (shot.start, shot.stop)
    for before, after in itertools.pairwise(plan.segments):
        assert before.stop == after.start


def test_a_shot_of_one_window_is_never_divided() -> None:
    options = with_windows(window=80, overlap=2)
    plan = build_plan(make_info(), "a", options)
    assert [(s.start, s.stop) for s in plan.segments] == [(0, 300)]


def test_lab_is_refused_where_a_shot_has_more_windows() -> None:
    options = with_windows(window=5, overlap=1, color="lab")
    with pytest.raises(PlanError, match="longer than one window"):
        build_plan(make_info(), "a", options)
    short = with_windows(window=80, overlap=1, color="lab")
    assert len(build_plan(make_info(), "a", short).segments) == 1


def test_engines_with_latents_have_a_memory_plan() -> None:
    assert build_plan(make_info(), "a", make_options()).memory is None
    memory = build_plan(make_info(), "a", with_windows(window=25, overlap=3)).memory
    assert memory is not None
    assert (memory.vae_dtype, memory.dit_dtype) == ("float32", "float32")
    on_gpu = dataclasses.replace(
        with_windows(window=25, overlap=3), device="cuda:0", device_kind="H100", device_bytes=10**11
    )
    memory = build_plan(make_info(), "a", on_gpu).memory
    assert memory is not None
    assert (memory.vae_dtype, memory.dit_dtype) == ("float16", "bfloat16")
    plain = build_plan(make_info(), "a", dataclasses.replace(on_gpu, own_kernels=False))
    assert plain.memory is not None
    assert dict(plain.memory.peaks)["dit"] > dict(memory.peaks)["dit"], "torch alone takes more"
    assert dict(plain.memory.peaks)["decode"] == dict(memory.peaks)["decode"]


@pytest.mark.parametrize("frames", [50, 200])
def test_what_moving_adds_to_the_time_is_said_for_this_video(frames: int) -> None:
    """The expected time does not hold it; other notes have it for 100 frames."""
    options = with_windows(window=25, overlap=3)
    small = dataclasses.replace(
        options,
        engine=dataclasses.replace(options.engine, name="seedvr2-3b"),
        resolution="1080p",
        device="cuda:0",
        device_kind="card",
        device_bytes=15 * 10**9,
    )
    video = make_info(pts=tuple(range(frames)))
    plan = build_plan(video, "a", small)
    assert plan.memory is not None
    adds = round(plan.memory.moving_seconds * frames / 100)
    assert adds > 1
    told = f"adds at most {adds} s for the {frames} frames of this video"
    assert sum(told in note for note in plan.notes) == 1
    roomy = build_plan(video, "a", dataclasses.replace(small, device_bytes=10**11))
    assert not any("moves to and from the GPU" in note for note in roomy.notes)


@pytest.mark.parametrize(("frames", "told"), [(1, False), (50, True)])
def test_an_engine_for_stills_says_so_of_a_video(frames: int, told: bool) -> None:
    options = with_windows(window=25, overlap=3)
    options = dataclasses.replace(
        options,
        engine=dataclasses.replace(options.engine, name="seedvr2-1.4b"),
        device="cuda:0",
        device_kind="H100",
        device_bytes=10**11,
    )
    notes = build_plan(make_info(pts=tuple(range(frames))), "a", options).notes
    assert ("seedvr2-1.4b is for stills, by its author's word" in notes) == told


def test_a_device_that_is_too_small_is_refused() -> None:
    options = with_windows(window=25, overlap=3)
    small = dataclasses.replace(options, device="cuda:0", device_kind="toy", device_bytes=10**9)
    with pytest.raises(ResourceError, match=r"toy has 1\.0 GB free"):
        build_plan(make_info(), "a", small)


def test_loading_a_model_is_part_of_the_expected_time_and_not_of_the_key() -> None:
    at_once = build_plan(make_info(), "a", make_options())
    large = build_plan(make_info(), "a", make_options(load_seconds=8.3))
    assert large.eta_seconds == pytest.approx(at_once.eta_seconds + 8.3, abs=0.11)
    assert large.job_key == at_once.job_key
