"""A sequence of pictures becomes a source like any other, whatever door it comes through."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from seedvr2_core.errors import (
    InvalidRequestError,
    InvalidVideoError,
    ResourceError,
    SourceRefusedError,
    UnsupportedFormatError,
)
from seedvr2_core.video.probe import probe_video
from tasks import fetch as fetch_module
from tasks.fetch import fetch
from tasks.schemas import UpscaleRequest, check_request
from tasks.settings import Settings
from tasks.sources import download
from tasks.sources.kept import keep_upload
from tasks.sources.obtain import check_source, obtain_source, source_here
from tests.kits.http.s3 import S3

SettingsWith = Callable[..., Settings]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Eleven pictures that do not sort as texts."""
    folder = tmp_path / "shot 7"
    folder.mkdir()
    for index in range(11):
        Image.new("RGB", (32, 16), (20 * index, 0, 0)).save(folder / f"f{index}.png")
    return folder


def zip_of(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    return content.getvalue()


def asked(path: Path | str, fps: str = "24") -> UpscaleRequest:
    return check_request(video_path=str(path), fps=fps)


@pytest.mark.parametrize("ending", ["", "f%d.png"])
def test_a_folder_and_a_pattern(settings_with: SettingsWith, frames: Path, ending: str) -> None:
    settings = settings_with(allow_local_files=True)
    request = asked(frames / ending if ending else frames, "29.97")
    check_source(request, settings)
    source = fetch.fn(request)
    assert source is not None
    assert source.name == "shot 7"
    assert source.path == settings.sources_dir / source.sha256
    assert hashlib.sha256(source.path.read_bytes()).hexdigest() == source.sha256
    info = probe_video(source.path)
    assert (info.num_frames, info.nominal_rate) == (11, (30000, 1001))
    again = fetch.fn(request)
    assert again == source
    assert list(settings.sources_dir.iterdir()) == [source.path]
    assert source_here(request, settings) == frames / "f0.png"


def test_a_zip_that_was_sent(settings_with: SettingsWith, frames: Path) -> None:
    """As an upload, in base64 and on this machine: the same source as the folder."""
    settings = settings_with(allow_local_files=True)
    content = zip_of(frames)
    sha256 = hashlib.sha256(content).hexdigest()
    settings.intake_dir.mkdir(parents=True)
    (settings.intake_dir / sha256).write_bytes(content)
    local = frames.parent / "a.zip"
    local.write_bytes(content)
    wanted = fetch.fn(asked(frames))
    assert wanted is not None
    for request in (
        check_request(video_url=f"upload:{sha256}/a.zip", fps="24"),
        asked(local),
    ):
        check_source(request, settings)
        source = fetch.fn(request)
        assert source is not None
        assert (source.sha256, source.name) == (wanted.sha256, "a.zip")


def test_rates_are_checked_at_the_door() -> None:
    assert check_request(video_path="/a", fps=24).fps == "24"
    assert check_request(video_path="/a", fps=None).fps == ""
    for wrong in ("fast", "0", 1e9):
        with pytest.raises(InvalidRequestError, match="fps: frames a second"):
            check_request(video_path="/a", fps=wrong)


def test_what_is_no_sequence_is_refused_in_words(settings_with: SettingsWith, frames: Path) -> None:
    settings = settings_with(allow_local_files=True)
    empty = frames.parent / "empty"
    empty.mkdir()
    for request, kind, words in (
        (asked(frames / "f0.png"), InvalidRequestError, "f0.png is one file and no zip"),
        (asked(empty), SourceRefusedError, "holds no picture"),
        (asked(frames / "g%d.png"), SourceRefusedError, "no file in .* is called g0.png"),
        (asked(frames / "%d_%d.png"), SourceRefusedError, "cannot be read|does not exist"),
        (asked(frames, ""), InvalidRequestError, "is a folder; with fps"),
        (asked(frames / "f%d.png", ""), InvalidRequestError, "is a pattern of pictures"),
    ):
        with pytest.raises(kind, match=words):
            obtain_source(request, settings, note=print)
    (frames / "f4.png").unlink()
    with pytest.raises(SourceRefusedError, match=r"f4.png is missing"):
        check_source(asked(frames / "f%d.png"), settings)


def test_local_sequences_need_leave(settings_with: SettingsWith, frames: Path) -> None:
    settings = settings_with(allow_local_files=False)
    for request in (asked(frames), asked(frames / "f%d.png")):
        for ask in (fetch.fn, lambda request: check_source(request, settings)):
            with pytest.raises(InvalidRequestError, match="SEEDVR2_ALLOW_LOCAL_FILES"):
                ask(request)


def test_limits_are_held_before_anything_is_copied(
    settings_with: SettingsWith, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(allow_local_files=True, max_frames=10)
    with pytest.raises(UnsupportedFormatError, match="more than 10 frames"):
        check_source(asked(frames), settings)
    bomb = frames.parent / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(9):
            archive.writestr(f"{index}.png", bytes(10**6))
    settings = settings_with(allow_local_files=True, fetch_max_bytes=8 * 10**6)
    with pytest.raises(UnsupportedFormatError, match=r"9000000 bytes, more than 8000000"):
        fetch.fn(asked(bomb))
    monkeypatch.setattr(download, "KEEP_FREE_BYTES", 10**18)
    with pytest.raises(ResourceError, match="the pictures are copied into the work directory"):
        fetch.fn(asked(frames))
    assert not list(settings.sources_dir.iterdir())


def test_hostile_names_do_no_harm(settings_with: SettingsWith, tmp_path: Path) -> None:
    settings_with(allow_local_files=True)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a\x1b[2J1.png", "a\n2.png", b"a\xff3.png".decode(errors="surrogateescape")):
        Image.new("RGB", (32, 16)).save(folder / name)
    source = fetch.fn(asked(folder))
    assert source is not None
    info = probe_video(source.path)
    assert info.num_frames == 3


def test_a_zip_of_something_else(settings_with: SettingsWith, tmp_path: Path) -> None:
    settings_with(allow_local_files=True)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", b"x")
    with pytest.raises(InvalidVideoError, match=r"a\.zip: this zip holds no picture"):
        fetch.fn(asked(path))


def test_exact_rates_reach_the_times(settings_with: SettingsWith, frames: Path) -> None:
    settings_with(allow_local_files=True)
    source = fetch.fn(asked(frames, "24000/1001"))
    assert source is not None
    info = probe_video(source.path)
    assert [time * Fraction(*info.time_base) for time in info.pts] == [
        Fraction(1001 * index, 24000) for index in range(11)
    ]


def test_another_machine_takes_it_from_the_store(
    settings_with: SettingsWith,
    s3: S3,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One object, by its digest, also where the pictures are not there any more."""
    store, noted = s3.settings(store=s3.address), dict[str, tuple[str, str]]()
    monkeypatch.setattr(
        fetch_module, "note_source", lambda one: noted.update(it=(one.sha256, one.name))
    )
    monkeypatch.setattr(fetch_module, "noted_source", lambda: noted.get("it", ("", "")))
    settings_with(allow_local_files=True, work_dir=tmp_path / "a", **store)
    first = fetch.fn(asked(frames))
    assert first is not None
    assert noted == {"it": (first.sha256, "shot 7")}
    assert fetch.fn(asked(frames)) == first
    frames.rename(tmp_path / "elsewhere")
    settings_with(allow_local_files=True, work_dir=tmp_path / "b", **store)
    second = fetch.fn(asked(frames))
    assert second is not None
    assert second.path == tmp_path / "b" / "sources" / first.sha256
    assert second.path.read_bytes() == first.path.read_bytes()
    assert probe_video(second.path).num_frames == 11


def test_a_sent_zip_is_packed_where_the_store_has_it(
    settings_with: SettingsWith,
    s3: S3,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gateway has kept the zip; the worker's disk has nothing."""
    monkeypatch.setattr(fetch_module, "note_source", lambda one: None)
    monkeypatch.setattr(fetch_module, "noted_source", lambda: ("", ""))
    store, content = s3.settings(store=s3.address), zip_of(frames)
    sha256 = hashlib.sha256(content).hexdigest()
    request = check_request(video_url=f"upload:{sha256}/a.zip", fps="24")
    gateway = settings_with(work_dir=tmp_path / "gateway", **store)
    gateway.intake_dir.mkdir(parents=True)
    (gateway.intake_dir / sha256).write_bytes(content)
    keep_upload(request, gateway)
    settings_with(work_dir=tmp_path / "worker", **store)
    source = fetch.fn(request)
    assert source is not None
    assert source.sha256 != sha256
    assert probe_video(source.path).num_frames == 11
