"""A caller is told of a run while it is at work; a real flow, a real receiver."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.upscale import upscale
from tasks.settings import Settings
from tests.kits.http.callback import SECRET, Receiver


@pytest.mark.long
@pytest.mark.usefixtures("in_api")
def test_a_run_tells_that_it_has_started_and_how_far_it_is(
    receiver: Receiver,
    settings_with: Callable[..., Settings],
    ffmpeg: Callable[..., Any],
    tmp_path: Path,
) -> None:
    clip = tmp_path / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=2", clip)
    settings_with(
        fetch_allow=(receiver.host,),
        callback_secret=SECRET,
        callback_progress_seconds=1.0,
        allow_local_files=True,
        test_engines=True,
    )
    result: Any = upscale(
        video_path=str(clip),
        model="sleep",
        resolution="720p",
        preset="ultrafast",
        callback_url=receiver.url,
        callback_events="started,progress,ended",
        tags="one,two",
        metadata='{"order": 17}',
    )
    events = receiver.events()
    words = [event["status"] for event in events]
    assert words == ["started", *["progress"] * (len(words) - 2), "completed"]
    between = events[1:-1]
    assert between, "50 frames at 50 ms take longer than a second"
    percent = [event["progress"] for event in between]
    assert percent == sorted(percent)
    assert all(event["frames"] in (None, 50) for event in between)
    assert len({event["event_id"] for event in events}) == len(events)
    assert {(*event["tags"], event["metadata"]["order"]) for event in events} == {
        ("one", "two", 17)
    }
    assert {event["job_id"] for event in events} == {result.job_id}
    assert (result.tags, result.metadata) == (("one", "two"), {"order": 17})
