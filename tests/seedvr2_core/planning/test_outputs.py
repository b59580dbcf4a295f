"""Which codec, depth and container a job gets, by arithmetic alone."""

import dataclasses
from typing import get_args

import pytest

from seedvr2_core.errors import PlanError
from seedvr2_core.planning.outputs import choose_output, chosen_codec, crf_of_quality, encoder_name
from seedvr2_core.video.info import ColorInfo, StreamInfo, VideoInfo
from seedvr2_core.video.output.encoders import ENCODERS
from seedvr2_core.video.output.formats import CODECS, CONTAINERS
from tasks.request.video import Codec, Container
from tests.kits.factories import make_info, make_options

PQ = ColorInfo(full_range=False, matrix=9, primaries=9, transfer=16)
WIDE = ColorInfo(full_range=False, matrix=9, primaries=9, transfer=14)


def video(bits: int = 8, color: ColorInfo | None = None, **changes: object) -> VideoInfo:
    info = make_info()
    return dataclasses.replace(info, bit_depth=bits, color=color or info.color, **changes)


def stream(kind: str, codec: str, packets: int = 5) -> StreamInfo:
    return StreamInfo(index=1, kind=kind, codec=codec, language=None, num_packets=packets)


def test_requests_offer_exactly_what_there_is() -> None:
    assert get_args(Codec) == ("auto", *CODECS)
    assert get_args(Container) == ("auto", *CONTAINERS)
    assert list(ENCODERS) == list(CODECS)


@pytest.mark.parametrize(
    ("info", "codec", "expected"),
    [
        (video(), "auto", ("h264", 8)),
        (video(10), "auto", ("hevc", 10)),
        (video(12), "auto", ("hevc", 10)),
        (video(8, PQ), "auto", ("hevc", 10)),
        (video(8, WIDE), "auto", ("hevc", 10)),
        (video(), "hevc", ("hevc", 8)),
        (video(10), "h264", ("h264", 8)),
        (video(), "prores", ("prores", 10)),
        (video(12), "ffv1", ("ffv1", 12)),
        (video(14), "ffv1", ("ffv1", 16)),
    ],
)
def test_codec_and_depth(info: VideoInfo, codec: str, expected: tuple[str, int]) -> None:
    choice = choose_output(info, make_options(codec=codec))
    assert (choice.codec, choice.bits) == expected
    named = any("bits a sample" in note for note in choice.notes)
    assert named == (choice.bits < info.bit_depth)


@pytest.mark.parametrize(
    ("streams", "container"),
    [
        ((), "mp4"),
        ((stream("audio", "aac"), stream("subtitle", "mov_text")), "mp4"),
        ((stream("audio", "pcm_s16le"),), "mkv"),
        ((stream("audio", "pcm_s16le", packets=0),), "mp4"),
        ((stream("subtitle", "subrip"),), "mkv"),
        ((stream("attachment", "unknown", packets=0),), "mkv"),
        ((stream("data", "unknown"),), "mp4"),
        ((stream("audio", "adpcm_ms"),), "mp4"),  # mkv would not keep it either
        ((stream("audio", "pcm_s16le"), stream("subtitle", "mov_text")), "mp4"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_auto_container(streams: tuple[StreamInfo, ...], container: str) -> None:
    choice = choose_output(video(streams=streams), make_options())
    assert choice.settings.container == container
    assert bool(choice.notes) == (container == "mkv")
    asked = choose_output(video(streams=streams), make_options(container="mp4"))
    assert (asked.settings.container, asked.notes) == ("mp4", ())


def test_sound_that_is_not_wanted_needs_no_container() -> None:
    info = video(streams=(stream("audio", "pcm_s16le"),))
    for audio in ("none", "aac"):
        assert choose_output(info, make_options(audio=audio)).settings.container == "mp4"


def test_frames_that_a_clock_cannot_tell_apart() -> None:
    streams = (stream("subtitle", "subrip"),)
    info = video(streams=streams, time_base=(1, 10_000), pts=tuple(range(0, 300, 3)))
    assert choose_output(info, make_options()).settings.container == "mp4"
    with pytest.raises(PlanError, match="counts in 1/1000 s"):
        choose_output(info, make_options(container="mkv"))


def test_quality_is_one_scale() -> None:
    assert [crf_of_quality(q) for q in (100, 75, 50, 1)] == [0, 18, 36, 51]
    assert all(crf_of_quality(q) >= crf_of_quality(q + 1) for q in range(1, 100))


def test_speeds_are_kept_by_codec_and_preset() -> None:
    names = [encoder_name(codec, "medium") for codec in CODECS]
    assert names[:2] == ["medium", "hevc medium"]  # that of H.264 is what older records have
    assert len(set(names)) == len(names)
    assert encoder_name("ffv1", "slow") == "ffv1"


def picture(bits: int = 8, **changes: object) -> VideoInfo:
    """A source that is a picture."""
    one = {"format_name": "jpeg", "pts": (0,), "streams": ()}
    return video(bits, **(one | changes))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, ("png", 8, "png")),
        ({"container": "tiff"}, ("tiff", 16, "tiff")),
        ({"codec": "tiff"}, ("tiff", 16, "tiff")),
        ({"container": "folder"}, ("png", 8, "folder")),
        ({"container": "mp4"}, ("h264", 8, "mp4")),
        ({"codec": "hevc"}, ("hevc", 8, "mp4")),
    ],
    ids=str,
)
def test_a_picture_becomes_a_picture(asked: dict[str, str], expected: tuple[str, int, str]) -> None:
    choice = choose_output(picture(), make_options(**asked))
    assert (choice.codec, choice.bits, choice.settings.container) == expected
    assert chosen_codec(picture().outline, make_options(**asked)) == expected[0]
    assert choose_output(picture(16), make_options()).bits == 16


def test_one_picture_holds_one_frame() -> None:
    assert video().num_frames > 1
    with pytest.raises(PlanError, match=r"is one picture.*choose container folder"):
        choose_output(video(), make_options(container="png"))
    one = choose_output(video(pts=(0,)), make_options(container="png"))
    assert (one.codec, one.settings.container) == ("png", "png")
