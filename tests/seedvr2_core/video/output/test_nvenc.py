"""NVIDIA's encoder as far as a machine without its driver can go: options, samples, refusals."""

import ctypes
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from seedvr2_core.child import segments
from seedvr2_core.engines import reuse
from seedvr2_core.errors import InvalidRequestError, PlanError, ResourceError
from seedvr2_core.frames import Frame
from seedvr2_core.planning.build import NVENC_BYTES, build_plan
from seedvr2_core.planning.outputs import encoder_name
from seedvr2_core.planning.timing import ENCODE_SECONDS_PER_MPX
from seedvr2_core.video.info import ColorInfo, EncoderSettings, HdrMetadata
from seedvr2_core.video.output import encoders
from seedvr2_core.video.output.encoders import check_encoder, spec_of
from seedvr2_core.video.output.formats import CODECS, NVENC_CODECS
from seedvr2_core.video.writer import SegmentWriter
from tasks.schemas import check_request
from tests.kits.factories import make_info, make_options
from tests.kits.pipeline import Heard, make_segments

RunFfmpeg = Callable[..., subprocess.CompletedProcess[bytes]]
URL = "https://example.org/a.mp4"


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


no_driver = pytest.mark.skipif(has_driver(), reason="this machine has NVIDIA's driver")


def settings_of(codec: str, *, bits: int = 8, **changes: object) -> EncoderSettings:
    info = replace(make_info(), bit_depth=bits)
    return build_plan(info, "a", make_options(codec=codec, encoder="nvenc", **changes)).encoder


def test_this_build_has_it() -> None:
    assert NVENC_CODECS == ("h264", "hevc", "av1")
    assert {CODECS[name].nvenc for name in NVENC_CODECS} <= av.codecs_available


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_every_option_and_value_is_one_that_ffmpeg_knows(codec: str, ffmpeg: RunFfmpeg) -> None:
    """libav passes over an option that it does not know without a word."""
    told = ffmpeg("-h", f"encoder={CODECS[codec].nvenc}").stdout.decode()
    formats = re.search(r"Supported pixel formats: (.*)", told)
    assert formats is not None
    (most,) = re.findall(r"-cq .*from 0 to (\d+)", told)
    general = {"b", "bf"}  # of every encoder
    for preset in ENCODE_SECONDS_PER_MPX:
        for crf in (0, 1, 18, 40, 51):
            for bits in (8, 10) if codec != "h264" else (8,):
                settings = settings_of(codec, bits=bits, preset=preset, crf=crf)
                options = spec_of(settings).options(settings)
                for name, value in options.items():
                    if name in general:
                        continue
                    assert re.search(rf"^ +-{name} ", told, re.MULTILINE), name
                    if not value.isdigit():
                        assert re.search(rf"^ +{value} +\d", told, re.MULTILINE), (name, value)
                assert 1 <= int(options["cq"]) <= int(most), "0 would let it choose"
                taken = spec_of(settings).takes.get(settings.pix_fmt, settings.pix_fmt)
                assert taken in formats[1].split()
    best, worst = (settings_of(codec, crf=crf) for crf in (0, 51))
    assert int(spec_of(worst).options(worst)["cq"]) == int(most)
    assert int(spec_of(best).options(best)["cq"]) == 1


@pytest.mark.parametrize("codec", ["hevc", "av1"])
def test_ten_bits_reach_it_as_they_reach_the_software(codec: str, tmp_path: Path) -> None:
    """It wants them in the upper bits of 16, with the colours side by side."""
    rgb = np.random.default_rng(2).integers(0, 65536, (720, 1280, 3)).astype(np.uint16)
    frame = Frame(rgb=rgb, pts=0, index=0)
    by_gpu = settings_of(codec, bits=10)
    writer = SegmentWriter(tmp_path / "gpu.part", by_gpu, 0)
    got = writer._to_yuv(frame)
    writer._discard()
    plan = build_plan(replace(make_info(), bit_depth=10), "a", make_options(codec=codec))
    software = SegmentWriter(tmp_path / "software.part", plan.encoder, 0)
    want = software._to_yuv(frame)
    software._discard()
    assert (got.format.name, want.format.name) == ("p010le", "yuv420p10le")
    assert by_gpu.pix_fmt == "yuv420p10le"

    def samples(picture: av.VideoFrame, plane: int) -> np.ndarray:
        part = picture.planes[plane]
        rows = np.frombuffer(part, np.uint16).reshape(part.height, part.line_size // 2)
        return rows[:, : picture.width if picture.format.name == "p010le" else part.width]

    assert np.array_equal(samples(got, 0) >> 6, samples(want, 0))
    both = samples(got, 1) >> 6
    assert np.array_equal(both[:, 0::2], samples(want, 1))
    assert np.array_equal(both[:, 1::2], samples(want, 2))
    assert not (samples(got, 0) & 63).any()


@no_driver
@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
@pytest.mark.parametrize("bits", [8, 10])
def test_libav_takes_all_that_it_is_told_up_to_the_driver(codec: str, bits: int) -> None:
    settings = settings_of(codec, bits=8 if codec == "h264" else bits)
    with pytest.raises(ResourceError) as caught:
        check_encoder(settings)
    told = str(caught.value)
    assert told.startswith(f"encoder nvenc cannot code {codec} at 1280x720 on this machine (Cannot")
    assert "libcuda" in told
    assert "choose encoder software" in told


@no_driver
def test_the_job_fails_before_anything_is_spent(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the GPU, and no engine is loaded."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the device or the engine was asked for")

    monkeypatch.setattr(segments, "hold_device", never)
    monkeypatch.setattr(reuse, "load_engine", never)
    plan = build_plan(make_info(), "a", make_options(encoder="nvenc"))
    heard = Heard()
    with pytest.raises(ResourceError, match="choose encoder software, or a machine whose NVIDIA"):
        make_segments(plan, tmp_path / "job", demo_clip, [0], heard=heard)
    assert heard.events.empty()


def test_software_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "add_encoder", lambda *_: pytest.fail("it was tried"))
    check_encoder(build_plan(make_info(), "a", make_options()).encoder)


def test_codecs_that_it_does_not_know_are_refused_at_the_door_and_in_the_plan() -> None:
    told = "encoder nvenc codes h264, hevc, av1, and the codec is prores; choose one of these"
    with pytest.raises(InvalidRequestError, match=told):
        check_request(video_url=URL, encoder="nvenc", codec="prores")
    with pytest.raises(PlanError, match=told):
        build_plan(make_info(), "a", make_options(encoder="nvenc", codec="prores"))
    with pytest.raises(InvalidRequestError, match="encoder"):
        check_request(video_url=URL, encoder="cuda")
    for codec in ("auto", *NVENC_CODECS):
        assert check_request(video_url=URL, encoder="nvenc", codec=codec).encoder == "nvenc"


def test_a_build_without_it_is_named_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = av.codecs_available - {"av1_nvenc"}
    monkeypatch.setattr(av, "codecs_available", lacking)
    with pytest.raises(InvalidRequestError, match=r"av1_nvenc, which this build .* software"):
        check_request(video_url=URL, encoder="nvenc", codec="av1")
    assert check_request(video_url=URL, encoder="nvenc", codec="hevc").codec == "hevc"
    with pytest.raises(ResourceError, match="lacks av1_nvenc; choose encoder software"):
        check_encoder(settings_of("av1"))


def test_the_plan_says_so_and_segments_of_both_never_mix() -> None:
    plans = {
        name: build_plan(make_info(), "a", make_options(encoder=name))
        for name in ("software", "nvenc")
    }
    assert plans["software"].job_key == build_plan(make_info(), "a", make_options()).job_key
    assert plans["software"].job_key != plans["nvenc"].job_key
    assert not plans["software"].notes
    assert any(note.startswith("encoder nvenc: the GPU codes") for note in plans["nvenc"].notes)
    names = [encoder_name("hevc", "fast", which) for which in ("", "software", "nvenc")]
    assert names == ["hevc fast", "hevc fast", "nvenc hevc fast"]
    frame = plans["nvenc"].frame_seconds
    assert frame is not None
    assert frame.lookahead == 0
    assert NVENC_BYTES > 0


def test_hdr_metadata_in_the_container_alone_is_said() -> None:
    color = ColorInfo(full_range=False, matrix=9, primaries=9, transfer=16)
    hdr = HdrMetadata(light_level=(1000, 400))
    info = replace(make_info(), bit_depth=10, color=color, hdr=hdr)
    told = "the metadata of HDR is in the container alone, as nvenc takes none"
    by_gpu = build_plan(info, "a", make_options(encoder="nvenc"))
    assert (by_gpu.encoder.codec, by_gpu.encoder.hdr) == ("hevc", info.hdr)
    assert told in by_gpu.notes
    assert told not in build_plan(info, "a", make_options()).notes


def test_segments_have_no_picture_out_of_turn_and_begin_anew() -> None:
    """So that those of any length join: what they say of this to the encoder."""
    for codec in NVENC_CODECS:
        settings = settings_of(codec)
        spec = spec_of(settings)
        options = spec.options(settings)
        assert (options["bf"], options["forced-idr"], spec.reorder) == ("0", "1", None)
        assert "rc-lookahead" not in options
        assert spec.tag == ("hvc1" if codec == "hevc" else "")
        assert Fraction(settings.keyint) <= 5 * Fraction(*settings.rate) + 1
