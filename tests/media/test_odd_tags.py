"""Tags, titles and languages that no careful program writes: they may be lost, but fail no job."""

from pathlib import Path

import av
import pytest

from tests.kits.clips.cases import make_video
from tests.kits.media import ffmpeg
from tests.media.conftest import GetSource

CONTAINERS = ["mp4", "mkv", pytest.param("mov", marks=pytest.mark.long)]
"""What writes mp4 writes mov as well."""
VALUES = {
    "nothing": "",
    "a space": " ",
    "spaces around": "  Summer  ",
    "no Latin": "夏の映画, été",
    "marks": "\u200f\u05e9\u05dc\u05d5\u05dd\u200f",
    "emoji": "🎬👩‍👩‍👧",
    "long": "s" * 70_000,
    "nearly too long": "s" * 65_000,
    "number": "007",
    "quotes": 'a"b\\c;=#',
    "several lines": "one\ntwo",
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_odd_values(made: GetSource, tmp_path: Path, value: str, container: str) -> None:
    path = tmp_path / "odd.mkv"
    with av.open(str(made("sdr.mp4"))) as source, av.open(str(path), "w") as out:
        video = source.streams.video[0]
        stream = out.add_stream_from_template(video)
        out.metadata.update({"title": value, "artist": value, "comment": value})
        for packet in source.demux(video):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    job = make_video(path, tmp_path, codec="auto", container=container)
    with av.open(str(job.output)) as output:
        assert output.streams.video[0].frames or container == "mkv"


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("language", ["xyz", "en", "zh-Hans", "ENG", "eng ", "x", "deu", "ger"])
def test_odd_languages(made: GetSource, tmp_path: Path, language: str, container: str) -> None:
    path = tmp_path / "odd.mkv"
    said = ("-metadata:s:v:0", f"language={language}")
    ffmpeg("-i", made("sdr.mp4"), "-c", "copy", *said, path)
    make_video(path, tmp_path, codec="auto", container=container)


@pytest.mark.parametrize("container", CONTAINERS)
def test_one_name_in_two_spellings(made: GetSource, tmp_path: Path, container: str) -> None:
    path = tmp_path / "odd.mkv"
    said = ("-metadata", "title=one", "-metadata", "TITLE=two", "-metadata", "Comment=three")
    ffmpeg("-i", made("sdr.mp4"), "-c", "copy", *said, "-metadata", "comment=four", path)
    make_video(path, tmp_path, codec="auto", container=container)
