"""The probe task's work, with a real child."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.config import find_engine
from seedvr2_core.errors import (
    InvalidRequestError,
    InvalidVideoError,
    PlanError,
    UnsupportedFormatError,
)
from seedvr2_core.files import read_record
from seedvr2_core.video.info import VideoInfo
from tasks.estimate import output_format, plan_job
from tasks.probe import _detector_of, _expected_seconds, _with_cuts, probe, probe_source
from tasks.schemas import FetchedSource, ProbedSource, UpscaleRequest, check_request
from tasks.settings import Settings, use_settings
from tests.kits.clips.transparent import saved, textured
from tests.kits.media import ffmpeg


def source_of(path: Path) -> FetchedSource:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return FetchedSource(path=path, sha256=digest, num_bytes=len(content), name="holiday.mp4")


@pytest.fixture
def cut_clip(demo_clip: Path, tmp_path: Path) -> Path:
    """The demo clip (its index comes first) without its second half."""
    content = demo_clip.read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) // 2])
    return path


def test_a_cut_source_is_refused_by_its_name_unless_allowed(
    cut_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    settings = settings_with(allow_local_files=True)
    source = source_of(cut_clip)
    with pytest.raises(
        InvalidVideoError, match=r"holiday.mp4: the file ends early: \d\d of about 75 frames"
    ):
        probe_source(source, tmp_path, settings)
    probed = probe_source(source, tmp_path, settings, allow_damaged=True)
    told = read_record(probed.info_path, VideoInfo).ends_early
    assert told.startswith(f"the file ends early: {probed.video.num_frames} of about 75 frames")
    request = UpscaleRequest(video_path=str(cut_clip), model="lanczos", allow_damaged=True)
    assert told in plan_job(request, probed, settings, out=tmp_path / "plan.json").notes


@pytest.mark.long
def test_alpha_is_said_in_plan_and_format(
    tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    settings = settings_with(allow_local_files=True)
    clip = saved(tmp_path / "bgra.mkv", textured())
    source = source_of(clip)

    def planned(**options: str) -> tuple[str, str | None, str]:
        request = UpscaleRequest(video_path=str(clip), model="lanczos", **options)
        probed = probe_source(source, tmp_path, settings, wanted=request.wanted_frames)
        plan = plan_job(request, probed, settings, out=tmp_path / "plan.json")
        keys.add(plan.job_key)
        return plan.encoder.codec, output_format(plan).alpha, " ".join(plan.notes)

    keys: set[str] = set()
    codec, alpha, notes = planned()
    assert (codec, alpha) == ("prores", "kept")
    assert "alpha, which is kept" in notes
    codec, alpha, notes = planned(alpha="flatten:#ffffff")
    assert (codec, alpha) == ("h264", "flattened")
    assert "it is put on #ffffff" in notes
    planned(alpha="flatten")
    planned(alpha="flatten:#000000")  # the same, so the same job
    assert len(keys) == 3
    with pytest.raises(PlanError, match="codec av1 cannot hold alpha"):
        planned(codec="av1")
    with pytest.raises(InvalidRequestError, match="alpha refuse was asked for"):
        planned(alpha="refuse")


def test_a_codec_without_alpha_is_refused_before_cuts_are_looked_for(
    tmp_path: Path, settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(allow_local_files=True)
    use_settings(settings)
    clip = saved(tmp_path / "bgra.mkv", textured())
    monkeypatch.setattr("tasks.probe._with_cuts", None)
    request = UpscaleRequest(video_path=str(clip), model="lanczos", codec="hevc")
    with pytest.raises(PlanError, match="codec hevc cannot hold alpha; choose codec prores"):
        probe.fn(source_of(clip), request)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"alpha": "keep", "codec": "h264"}, "alpha keep: codec h264 cannot hold alpha"),
        ({"alpha": "keep", "container": "mp4"}, "alpha keep: container mp4 cannot hold alpha"),
        ({"alpha": "black"}, "alpha: choose auto, keep, flatten, refuse, or a colour"),
    ],
)
def test_words_of_alpha_are_checked_at_the_door(options: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        check_request(video_url="https://example.org/a.mp4", **options)
    request = check_request(video_url="https://example.org/a.mp4", alpha="")
    assert request.alpha == "auto"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"codec": "h264", "container": "webm"}, "container webm cannot hold codec h264; choose"),
        ({"codec": "prores", "container": "mp4"}, "choose container mov or mkv, or codec h264"),
        ({"container": "webm", "audio": "aac"}, "container webm cannot hold sound as aac"),
    ],
)
def test_a_container_that_cannot_be_is_refused_at_the_door(
    options: dict[str, str], told: str
) -> None:
    """It needs no look at the video, so nobody waits for its probe to hear that."""
    with pytest.raises(InvalidRequestError, match=told):
        check_request(video_url="https://example.org/a.mp4", **options)
    check_request(video_url="https://example.org/a.mp4", container=options["container"])


def test_a_video_that_was_sent_is_called_by_its_name_not_by_its_digest(
    settings_with: Callable[..., Settings],
) -> None:
    settings = settings_with()
    settings.intake_dir.mkdir(parents=True)
    text = settings.intake_dir / "text"
    text.write_text("this is not a video\n" * 200)
    source = source_of(text)
    path = text.rename(settings.intake_dir / source.sha256)
    sent = source.model_copy(update={"path": path})
    with pytest.raises(InvalidVideoError, match=r"^holiday\.mp4: ") as refused:
        probe.fn(sent, UpscaleRequest(video_url="upload:a/holiday.mp4", model="lanczos"))
    assert source.sha256 not in str(refused.value)
    assert not path.exists(), "it does not fill the disk"


def test_what_is_allowed_does_not_change_the_job(
    demo_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    settings = settings_with(allow_local_files=True)
    keys = set()
    for allowed in (False, True):
        request = UpscaleRequest(video_path=str(demo_clip), model="lanczos", allow_damaged=allowed)
        probed = probe_source(source_of(demo_clip), tmp_path, settings, allow_damaged=allowed)
        keys.add(plan_job(request, probed, settings, out=tmp_path / "plan.json").job_key)
    assert len(keys) == 1


def test_more_than_the_installation_takes_is_refused(
    demo_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    source = source_of(demo_clip)
    with pytest.raises(UnsupportedFormatError, match=r"more than 74 frames.*SEEDVR2_MAX_FRAMES"):
        probe_source(source, tmp_path, settings_with(max_frames=74))
    with pytest.raises(UnsupportedFormatError, match="longer than 2 s"):
        probe_source(source, tmp_path, settings_with(max_video_seconds=2))


@pytest.mark.long
def test_a_job_that_takes_too_much_is_refused_before_its_cuts_are_looked_for(
    demo_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    """To find them the whole video is decoded; a job that has got that far before goes on."""
    source = source_of(demo_clip)

    def probed(seconds: float) -> ProbedSource:
        settings = settings_with(max_eta_seconds=seconds, test_engines=True, allow_local_files=True)
        request = UpscaleRequest(video_path="/a", model="tiny")
        return _with_cuts(probe_source(source, tmp_path, settings), request, settings)

    with pytest.raises(InvalidRequestError, match=r"75 frames.*SEEDVR2_MAX_ETA_SECONDS"):
        probed(10.0)
    assert not list(tmp_path.glob("*.cuts.json"))
    expected = probed(10**6)
    assert expected.cuts_path is not None
    assert probed(10.0) == expected


def test_the_expected_time_is_that_of_the_plan(
    demo_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    settings = settings_with(test_engines=True, allow_local_files=True)
    request = UpscaleRequest(video_path="/a", model="tiny", resolution="720p")
    probed = probe_source(source_of(demo_clip), tmp_path, settings)
    device = probed.devices[0]
    seconds = _expected_seconds(probed, request, find_engine("tiny"), device, settings)
    assert seconds == pytest.approx(
        plan_job(request, probed, settings, out=tmp_path / "plan.json").eta_seconds, abs=0.1
    )


def test_a_record_of_the_version_before_is_read(demo_clip: Path, tmp_path: Path) -> None:
    """`ends_early` is new."""
    from seedvr2_core.files import write_record
    from seedvr2_core.video.probe import probe_video

    path = tmp_path / "info.json"
    info = probe_video(demo_clip)
    write_record(path, info)
    before = path.read_text().replace(',"ends_early":""', "")
    assert "ends_early" not in before
    path.write_text(before)
    assert read_record(path, VideoInfo) == info


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"detector": 7}', b"\xff\xfe"])
def test_cuts_that_cannot_be_read_are_looked_for_anew(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "a.cuts.json"
    path.mkdir() if content is None else path.write_bytes(content)
    assert _detector_of(path) is None


@pytest.mark.long
def test_each_choice_of_frames_has_files_and_cuts_of_its_own(
    demo_clip: Path, tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    settings = settings_with(test_engines=True, allow_local_files=True)
    detectors, names, keys = set(), set(), set()
    for place in ({}, {"start": "1", "end": "frame:50"}):
        request = UpscaleRequest(video_path="/a", model="tiny", resolution="720p", **place)
        wanted = request.wanted_frames
        probed = probe_source(source_of(demo_clip), tmp_path, settings, wanted=wanted)
        probed = _with_cuts(probed, request, settings)
        assert probed.cuts_path is not None
        assert probed.video.num_frames == (25 if place else 75)
        names |= {probed.info_path.name, probed.cuts_path.name}
        detectors.add(_detector_of(probed.cuts_path))
        plan = plan_job(request, probed, settings, out=tmp_path / "plan.json")
        assert plan.num_frames == probed.video.num_frames
        assert bool(place) == any("frames 25 to 49 of 75 are made" in n for n in plan.notes)
        keys.add(plan.job_key)
    assert (len(names), len(detectors), len(keys)) == (4, 2, 2)


@pytest.mark.parametrize("place", [{"start": "soon"}, {"end": "1:99"}, {"deinterlace": "yes"}])
def test_a_place_that_is_none_is_refused_at_the_door(place: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(place))):
        check_request(video_path="/a", **place)


@pytest.mark.long
def test_plan_and_format_say_how_frames_are_made_of_fields(
    tmp_path: Path, settings_with: Callable[..., Settings]
) -> None:
    tape = tmp_path / "tape.mkv"
    ffmpeg(
        *["-f", "lavfi", "-i", "testsrc2=s=320x240:r=50:d=1", "-c:v", "ffv1"],
        *["-vf", "tinterlace=interleave_top,setfield=tff", "-flags", "+ilme+ildct", tape],
    )
    settings = settings_with(allow_local_files=True)
    for way, method, frames in (("auto", "bwdif", 25), ("bob", "bob", 50), ("off", None, 25)):
        request = UpscaleRequest(video_path="/a", model="lanczos", deinterlace=way)
        wanted = request.wanted_frames
        probed = probe_source(source_of(tape), tmp_path, settings, wanted=wanted)
        plan = plan_job(request, probed, settings, out=tmp_path / "plan.json")
        assert (plan.num_frames, output_format(plan).deinterlace) == (frames, method)
        assert any("the video is interlaced" in note for note in plan.notes)
