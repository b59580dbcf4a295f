"""What the media library raises becomes one sentence about the file."""

import errno
from pathlib import Path

import av.error
import pytest

from seedvr2_core.child import operations
from seedvr2_core.child.progress import Emitter
from seedvr2_core.child.protocol import Probe
from seedvr2_core.errors import FileReadError, InvalidVideoError
from seedvr2_core.video import probe
from seedvr2_core.video._reasons import looks_encrypted, why_not_opened
from seedvr2_core.video.foreign import media_errors_told

CLIP = Path("clip.mp4")


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("29 is not a valid Type"), IndexError(), OverflowError("a\nb"), KeyError(1)),
        av.error.PermissionError(1, "from a demuxer"),
    ],
)
def test_a_foreign_error_names_the_file_and_the_phase(error: Exception) -> None:
    with pytest.raises(InvalidVideoError) as caught, media_errors_told(CLIP, "it is read"):
        raise error
    sentence = str(caught.value)
    assert sentence.startswith("clip.mp4: the media library failed while it is read")
    assert type(error).__name__ in sentence
    assert "\n" not in sentence
    assert caught.value.user_mistake
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        *(FileReadError("a disk"), MemoryError(), KeyboardInterrupt()),
        *(OSError(errno.ENOSPC, "full"), PermissionError(errno.EACCES, "not yours")),
    ],
    ids=["ours", "memory", "stopped", "disk", "folder"],
)
def test_what_is_not_about_the_file_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, media_errors_told(CLIP, "it is read"):
        raise error
    assert caught.value is error


def test_the_child_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(probe, "probe_video", fail)
    request = Probe(
        path=tmp_path / "a.flv", out=tmp_path / "out", max_frames=None, max_seconds=None
    )
    with (
        (tmp_path / "events").open("w") as events,
        pytest.raises(InvalidVideoError, match=r"a\.flv: the media library failed while"),
    ):
        operations.probe(request, Emitter(events))


def test_a_file_that_another_request_removes_meanwhile_is_told(tmp_path: Path) -> None:
    """Two requests with the same bytes: who finds first that they are no video removes them."""
    assert "removed while" in why_not_opened(tmp_path / "gone.mp4", ValueError())
    assert not looks_encrypted(tmp_path / "gone.mp4")
