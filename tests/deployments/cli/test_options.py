"""What a command line becomes, before anything runs."""

from pathlib import Path

import pytest

from deployments.cli.options import check_file, container_for, is_folder, request_of
from seedvr2_core.errors import InvalidRequestError, InvalidVideoError, SourceRefusedError
from tasks.settings import Settings

LOCAL = Settings(allow_local_files=True)


def test_an_address_stays_and_a_path_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert request_of(["https://example.org/a.mp4"]).video_url == "https://example.org/a.mp4"
    assert request_of(["a b.mp4"]).video_path == str(tmp_path / "a b.mp4")
    assert request_of(["~/a.mp4"]).video_path == "/home/somebody/a.mp4"
    assert request_of(["a.mp4"], resolution="4K").resolution == "4k"


@pytest.mark.parametrize("sources", [None, [], ["a.mp4", "b.mp4"]])
def test_exactly_one_source_is_needed(sources: list[str] | None) -> None:
    with pytest.raises(InvalidRequestError, match=f"got {len(sources or [])}"):
        request_of(sources)


def test_a_file_is_looked_at_and_an_address_is_not(demo_clip: Path, tmp_path: Path) -> None:
    check_file(request_of(["http://127.0.0.1:9/a.mp4"]), LOCAL)
    check_file(request_of([str(demo_clip)]), LOCAL)
    text = tmp_path / "text.mp4"
    text.write_text("this is not a video\n" * 200)
    with pytest.raises(InvalidVideoError, match="text"):
        check_file(request_of([str(text)]), LOCAL)
    with pytest.raises(SourceRefusedError, match="does not exist"):
        check_file(request_of([str(tmp_path / "nothing.mp4")]), LOCAL)
    with pytest.raises(InvalidRequestError, match="local files"):
        check_file(request_of([str(demo_clip)]), Settings())


@pytest.mark.parametrize(
    ("name", "container", "codec", "wanted", "folder"),
    [
        ("pictures", "auto", "png", "folder", True),
        ("pictures", "folder", "auto", "folder", True),
        ("a.zip", "auto", "tiff", "folder", False),
        ("a.png", "auto", "auto", "png", False),
        ("a.TIFF", "auto", "tiff", "tiff", False),
        ("a.mkv", "auto", "png", "mkv", False),
        ("pictures", "auto", "hevc", "auto", False),
    ],
)
def test_a_name_without_an_ending_is_a_folder_of_pictures(
    name: str, container: str, codec: str, wanted: str, folder: bool
) -> None:
    assert container_for(container, Path(name), codec) == wanted
    assert is_folder(Path(name), wanted) == folder
