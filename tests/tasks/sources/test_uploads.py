"""Bytes that callers send: parts, references, and what fetch makes of them."""

import hashlib
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidRequestError, SourceRefusedError
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources.obtain import check_source, obtain_source
from tasks.sources.uploads import PartFile, find_upload, sweep_parts, upload_reference

VIDEO = b"video" * 1000
SHA256 = hashlib.sha256(VIDEO).hexdigest()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(work_dir=tmp_path / "work")


def uploaded(settings: Settings, content: bytes = VIDEO) -> Path:
    part = PartFile(settings.intake_dir)
    part.write(content)
    target = settings.intake_dir / part.sha256
    part.publish(target)
    part.close()
    return target


def test_a_part_becomes_a_file_or_nothing(settings: Settings) -> None:
    folder = settings.intake_dir
    part = PartFile(folder)
    part.write(VIDEO[:7])
    part.write(VIDEO[7:])
    assert (part.sha256, part.num_bytes) == (SHA256, len(VIDEO))
    part.close()
    assert list(folder.iterdir()) == []
    assert uploaded(settings).read_bytes() == VIDEO
    assert uploaded(settings).read_bytes() == VIDEO, "the same bytes may come again"
    assert [path.name for path in folder.iterdir()] == [SHA256]


def test_a_sweep_leaves_what_is_being_written(settings: Settings) -> None:
    folder = settings.intake_dir
    part = PartFile(folder)
    (folder / ".upload-dead.part").write_bytes(b"x")
    assert sweep_parts(folder) == 1
    part.write(VIDEO)
    part.publish(folder / SHA256)
    part.close()
    assert sweep_parts(folder) == 0
    assert (folder / SHA256).read_bytes() == VIDEO


def test_fetch_understands_a_reference(settings: Settings) -> None:
    path = uploaded(settings)
    request = UpscaleRequest(video_url=upload_reference(SHA256, "clip.mp4"))
    check_source(request, settings)
    source = obtain_source(request, settings, note=lambda _: None)
    assert (source.path, source.sha256, source.name) == (path, SHA256, "clip.mp4")
    bare = UpscaleRequest(video_url=f"upload:{SHA256}")
    assert obtain_source(bare, settings, note=lambda _: None).name == f"upload-{SHA256[:8]}"


def test_bytes_that_changed_are_refused(settings: Settings) -> None:
    uploaded(settings).write_bytes(b"other")
    request = UpscaleRequest(video_url=upload_reference(SHA256, "clip.mp4"))
    with pytest.raises(SourceRefusedError, match="no longer holds"):
        obtain_source(request, settings, note=lambda _: None)


@pytest.mark.parametrize(
    "reference",
    [
        "upload:",
        "upload:../../etc/passwd",
        f"upload:{SHA256.upper()}",
        f"upload:{SHA256}/",
        f"upload:{SHA256}/a/b",
        f"upload:{SHA256}/../x",
        f"upload:{SHA256}\n",
    ],
)
def test_what_is_no_reference_is_refused(settings: Settings, reference: str) -> None:
    uploaded(settings)
    with pytest.raises(InvalidRequestError, match="no reference"):
        find_upload(reference, settings)


def test_an_upload_of_another_machine_is_refused_in_words(settings: Settings) -> None:
    with pytest.raises(SourceRefusedError, match="share SEEDVR2_WORK_DIR"):
        find_upload(f"upload:{SHA256}/a.mp4", settings)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("clip.mp4", "clip.mp4"),
        ("../../a b.mp4", "a b.mp4"),
        ("C:\\videos\\ö.mp4", "ö.mp4"),
        ("...", "video"),
        ("a?b#c%.mp4", "a_b_c_.mp4"),
        ("x" * 300 + ".mp4", "x" * 196 + ".mp4"),
        ("", "video"),
    ],
)
def test_names_are_made_harmless(settings: Settings, name: str, kept: str) -> None:
    uploaded(settings)
    reference = upload_reference(SHA256, name)
    assert reference == f"upload:{SHA256}/{kept}"
    assert find_upload(reference, settings).name == SHA256
