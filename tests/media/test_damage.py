"""A finished file that lost one thing on the way to the disk fails its job, which names the thing.

What is written is damaged before it is checked: by ffmpeg, which copies all but one thing, or by
changing a few bytes.
"""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.video import join
from tests.kits.clips.cases import make_video
from tests.kits.media import ffmpeg
from tests.kits.videos.members import with_box, with_hdr10_plus
from tests.kits.videos.oracle import HDR10, MAX_CLL
from tests.media.conftest import GetSource

Damage = Callable[[Path], None]

CHAPTERS = """;FFMETADATA1
title=A film
artist=Somebody
[CHAPTER]
TIMEBASE=1/1000
START=0
END=500
title=Begin
[CHAPTER]
TIMEBASE=1/1000
START=500
END=1200
title=End
"""
TEXT = "1\n00:00:00,200 --> 00:00:00,500\nHello\n"


@pytest.fixture(scope="module")
def rich(made: GetSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracks of sound with languages and marks, text, chapters, tags, a font and a cover."""
    folder = tmp_path_factory.mktemp("rich")
    text, font, about = folder / "a.srt", folder / "a.ttf", folder / "about.txt"
    text.write_text(TEXT)
    font.write_bytes(b"no real font" * 40)
    about.write_text(CHAPTERS)
    path = folder / "rich.mkv"
    ffmpeg(
        *["-i", made("sdr.mp4"), "-i", text, "-i", about, "-map", "0:v", "-map", "0:a"],
        *["-map", "0:a", "-map", "1", "-map_metadata", "2", "-map_chapters", "2", "-c:v", "copy"],
        *["-c:a:0", "copy", "-c:a:1", "ac3", "-c:s", "subrip"],
        *["-metadata:s:a:0", "language=fra", "-metadata:s:a:1", "language=deu"],
        *["-metadata:s:s:0", "language=ita", "-disposition:a:0", "default"],
        *["-disposition:a:1", "comment", "-disposition:s:0", "forced"],
        *["-metadata", "timecode=10:20:30:12"],
        *["-attach", font, "-metadata:s:4", "mimetype=font/ttf", path],
    )
    return path


@pytest.fixture(scope="module")
def covered(made: GetSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with a cover picture."""
    folder = tmp_path_factory.mktemp("covered")
    cover, path = folder / "cover.jpg", folder / "covered.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", "1", cover)
    attached = ["-attach", cover, "-metadata:s:t", "mimetype=image/jpeg"]
    ffmpeg("-i", made("ntsc.mp4"), "-c", "copy", *attached, path)
    return path


def copied(*options: str) -> Damage:
    """Let ffmpeg copy a file, but for one thing."""

    def damage(path: Path) -> None:
        other = path.with_name(f"other{path.suffix}")
        ffmpeg("-copyts", "-i", path, "-map", "0", "-c", "copy", *options, other)
        other.replace(path)

    return damage


def changed(old: bytes, new: bytes) -> Damage:
    """Change bytes that the file has."""

    def damage(path: Path) -> None:
        content = path.read_bytes()
        assert old in content
        assert len(old) == len(new)
        path.write_bytes(content.replace(old, new))

    return damage


def made_with(
    damage: Damage, source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    """Make a job whose output is damaged when it is written, before it is checked."""
    options = {"codec": "auto", "container": "mkv", **options}
    name = "_write_folder" if options["container"] == "folder" else "_write"
    write = getattr(join, name)

    def written(job: join._Joining) -> join._Attempt:
        done = write(job)
        damage(job.output)
        return done

    monkeypatch.setattr(join, name, written)
    make_video(source, folder, **options)


NOTHING = copied()
IN_MKV: dict[str, tuple[Damage, str]] = {
    "a track of sound": (copied("-map", "-0:a:1"), "other streams: .*aac.*says .*aac.*ac3"),
    "text": (copied("-map", "-0:s"), "other streams: .*says .*subrip"),
    "a mark": (
        copied("-disposition:a:1", "0"),
        r"marks of audio stream 2 \(ac3, deu\): none, but the plan says comment",
    ),
    "a mark too many": (
        copied("-disposition:a:0", "default+dub"),
        r"marks of audio stream 1 .*: default, dub, but the plan says default",
    ),
    "a language": (
        copied("-metadata:s:a:1", "language=spa"),
        r"language of audio stream 2 \(ac3, deu\): spa, but the plan says deu",
    ),
    "the language of a text": (
        copied("-metadata:s:s:0", "language=eng"),
        "language of subtitle stream 3 .*: eng, but the plan says ita",
    ),
    "chapters": (copied("-map_chapters", "-1"), "chapters: 0, but the plan says 2"),
    "a tag": (copied("-metadata", "title="), "tag title: '', but the plan says 'A film'"),
    "another tag": (
        copied("-metadata", "artist=Nobody"),
        "tag artist: 'Nobody', but the plan says 'Somebody'",
    ),
    "the time code": (copied("-metadata", "timecode="), "time code: none, but .* 10:20:30:12"),
    "an attachment": (
        copied("-map", "-0:t"),
        r"attachments: \[\], but the plan says \['a.ttf'\]",
    ),
    "what is attached": (changed(b"real", b"REAL"), "the attachment a.ttf is not that of the"),
    "a chapter's title": (changed(b"Begin", b"Start"), "title of chapter 1: 'Start', but .*Begin"),
    "the end": (copied("-t", "0.8"), "frames: 2., but the plan says 30"),
}


def test_a_copy_of_all_passes(rich: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what fails below fails for the one thing."""
    made_with(NOTHING, rich, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("container", "damage", "words"),
    [
        ("mkv", changed(b"image/jpeg", b"audio/jpeg"), r"attachments: \['cover.jpg'\], .*\[\]"),
        ("mp4", copied("-map", "-0:v:1"), r"other streams: \[\], but .*mjpeg"),
    ],
)
def test_a_cover_that_is_lost_is_named(
    covered: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    container: str,
    damage: Damage,
    words: str,
) -> None:
    make_video(covered, tmp_path, codec="auto", container=container)
    with pytest.raises(SegmentError, match=words):
        made_with(damage, covered, tmp_path, monkeypatch, container=container)


def track_end(path: Path) -> None:
    """The index says that the video ends half a second later."""
    content = bytearray(path.read_bytes())
    scale_at = content.index(b"mvhd") + 4 + 12
    (scale,) = struct.unpack_from(">I", content, scale_at)
    at = content.index(b"tkhd") + 4 + 20
    (end,) = struct.unpack_from(">I", content, at)
    struct.pack_into(">I", content, at, end + scale // 2)
    path.write_bytes(content)


def dolby_vision(path: Path) -> None:
    """The sample entry says that the pictures have metadata of profile 8.1."""
    copied("-movflags", "0")(path)
    record = struct.pack(">4B", 1, 0, 8 << 1, 5) + bytes([1 << 4]) + bytes(19)
    with_box(path, path.with_suffix(".dv"), b"dvvC" + record)
    path.with_suffix(".dv").replace(path)


IN_MP4: dict[str, tuple[Damage, str]] = {
    "chapters": (copied("-map_chapters", "-1"), "chapters: 0, but the plan says 2"),
    "a language": (
        copied("-metadata:s:a:0", "language=spa"),
        "language of audio stream 1 .*: spa, but the plan says fra",
    ),
    "a mark": (copied("-disposition:a:1", "0"), "marks of audio stream 2"),
    "a tag": (copied("-metadata", "title=B"), "tag title: 'B', but the plan says 'A film'"),
    "the end": (track_end, r"end of the video: 1\.700 s, but the plan says 1\.200 s"),
    "Dolby Vision": (dolby_vision, "Dolby Vision: DolbyVision.profile=8.*says None"),
    "shape": (
        copied("-aspect", "4:3", "-movflags", "0"),
        "shape of a pixel: 3/4, but the plan says 1",
    ),
}


def hevc_again(*told: str) -> Damage:
    """The pictures coded anew, with other words about their light."""

    def damage(path: Path) -> None:
        other = path.with_name("other.mp4")
        ffmpeg(
            *["-i", path, "-c:a", "copy", "-c:v", "libx265", "-preset", "ultrafast"],
            *["-tag:v", "hvc1", "-x265-params", ":".join(("log-level=error", *told)), other],
        )
        other.replace(path)

    return damage


PQ = ("colorprim=bt2020", "transfer=smpte2084", "colormatrix=bt2020nc", "hdr10=1")
LIGHT: dict[str, tuple[Damage, str]] = {
    "the mastering display": (
        hevc_again(*PQ, f"master-display={HDR10.replace('L(', 'L(9')}", f"max-cll={MAX_CLL}"),
        "HDR metadata",
    ),
    "the light level": (
        hevc_again(*PQ, f"master-display={HDR10}", "max-cll=7,5"),
        r"HDR metadata: .*7, 5",
    ),
    "the transfer": (
        hevc_again(
            *["colorprim=bt2020", "transfer=arib-std-b67", "colormatrix=bt2020nc"],
            *[f"master-display={HDR10}", f"max-cll={MAX_CLL}"],
        ),
        "colour transfer: 18, but the plan says 16",
    ),
}


def test_the_tag_of_the_samples_is_named(
    made: GetSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QuickTime and Safari play HEVC with one of its two tags alone."""
    damage = changed(b"hvc1", b"hev1")
    with pytest.raises(SegmentError, match="kind of samples: hev1, but the plan says hvc1"):
        made_with(damage, made("ntsc.mp4"), tmp_path, monkeypatch, codec="hevc", container="mp4")


@pytest.mark.long
@pytest.mark.parametrize("name", LIGHT)
def test_what_is_said_of_light_is_named(
    made: GetSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    damage, words = LIGHT[name]
    with pytest.raises(SegmentError, match=words):
        made_with(damage, made("hdr10.mp4"), tmp_path, monkeypatch, container="mp4")


def told(change: Callable[[dict[str, Any]], object]) -> Damage:
    """`sequence.json` in a zip of pictures says something else."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as folder:
            files = {name: folder.read(name) for name in folder.namelist()}
        about = json.loads(files["sequence.json"])
        change(about)
        files["sequence.json"] = json.dumps(about).encode()
        with zipfile.ZipFile(path, "w") as folder:
            for name, content in files.items():
                folder.writestr(name, content)

    return damage


IN_FOLDERS: dict[str, tuple[Damage, str]] = {
    "a chapter": (
        told(lambda about: about["chapters"].pop()),
        "length of chapters in sequence.json: 1, but the plan says 2",
    ),
    "a chapter's title": (
        told(lambda about: about["chapters"][1].update(title="Fin")),
        r"chapters in sequence.json, number 1: .*'Fin'.*says .*'End'",
    ),
    "a chapter's end": (
        told(lambda about: about["chapters"][0].update(end=0.25)),
        r"chapters in sequence.json, number 0: .*0\.25.*says .*0\.5",
    ),
    "a time": (
        told(lambda about: about["pts"].__setitem__(3, 7)),
        "pts in sequence.json, number 3: 7, but the plan says",
    ),
    "the last picture's time": (
        told(lambda about: about.update(last_duration=1)),
        "last_duration in sequence.json: 1, but the plan says",
    ),
    "the rate": (
        told(lambda about: about.pop("nominal_rate")),
        r"nominal_rate in sequence.json: None, but the plan says \[25, 1\]",
    ),
}


FOLDER = {"codec": "png", "container": "folder"}
TABLES = [({"container": "mkv"}, IN_MKV), ({"container": "mp4"}, IN_MP4), (FOLDER, IN_FOLDERS)]
LOST = [
    pytest.param(options, damage, words, id=f"{options['container']}: {name}")
    for options, table in TABLES
    for name, (damage, words) in table.items()
]


@pytest.mark.parametrize(("options", "damage", "words"), LOST)
def test_what_was_lost_is_named(
    rich: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    damage: Damage,
    words: str,
) -> None:
    with pytest.raises(SegmentError, match=words):
        made_with(damage, rich, tmp_path, monkeypatch, **options)


def test_a_folder_whose_words_are_right_passes(
    rich: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage = told(lambda about: about)
    made_with(damage, rich, tmp_path, monkeypatch, **FOLDER)


def test_metadata_of_hdr10_plus_is_left_out_and_named_where_it_stays(
    made: GetSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "plus.mp4"
    with_hdr10_plus(made("hdr10.mp4"), source)
    job = make_video(source, tmp_path, codec="auto", container="mp4")
    assert any("HDR10+ metadata, which is lost" in note for note in job.notes)

    def left_over(path: Path) -> None:
        other = path.with_name("other.mp4")
        with_hdr10_plus(path, other)
        other.replace(path)

    words = r"metadata of each picture: \['DYNAMIC_HDR_PLUS'\], but the plan says \[\]"
    with pytest.raises(SegmentError, match=words):
        made_with(left_over, source, tmp_path, monkeypatch, container="mp4")
