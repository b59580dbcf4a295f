"""The task run of one segment, beside its waiting (tests/tasks/child/test_session.py)."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from seedvr2_core.errors import FileReadError
from tasks import inference
from tasks.schemas import FetchedSource


def test_errors_of_a_segment_name_the_video_as_people_do(monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = "ab" * 32
    sent = FetchedSource(
        path=Path("/w/intake") / sha256, sha256=sha256, num_bytes=1, name="holiday.mov"
    )

    def fail(doing: str) -> None:
        raise FileReadError(f"reading {sent.path} failed, {doing}")

    watch = SimpleNamespace(
        source=sent, is_done=lambda index: False, look_again=lambda: None, guarded=fail
    )
    monkeypatch.setattr(inference, "_watch", SimpleNamespace(get=lambda: watch))
    with pytest.raises(FileReadError, match=r"^reading holiday\.mov failed, restoring segment 3$"):
        inference.infer.fn(3, 6)
