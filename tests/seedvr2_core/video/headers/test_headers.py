"""What headers say beside the codec, and that strange ones do no harm."""

import random
from pathlib import Path

import pytest

from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.video.headers.boxes import read_tracks
from seedvr2_core.video.headers.elements import read_video_tracks
from seedvr2_core.video.headers.facts import Edges, TrackHeader
from seedvr2_core.video.headers.transport import read_programs
from seedvr2_core.video.probe import probe_video, sniff_video
from tests.kits.media import ffmpeg
from tests.kits.videos.members import PICTURE, X264, clean_aperture, join_whole, with_box

X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"]


def size_of(length: int) -> bytes:
    """A size in Matroska, eight bytes long."""
    return (1 << 56 | length).to_bytes(8)


def element(id_: int, *content: bytes) -> bytes:
    whole = b"".join(content)
    return id_.to_bytes((id_.bit_length() + 7) // 8) + size_of(len(whole)) + whole


def number(id_: int, value: int) -> bytes:
    return element(id_, value.to_bytes(2))


def children(content: bytes) -> list[tuple[int, bytes]]:
    """(id, content) of the elements in a master element; a checksum, wrong afterwards, is left."""
    found: list[tuple[int, bytes]] = []
    position = 0
    while position < len(content):
        stop = position + 9 - content[position].bit_length()
        id_ = int.from_bytes(content[position:stop])
        length = 9 - content[stop].bit_length()
        size = int.from_bytes(content[stop : stop + length]) & (1 << 7 * length) - 1
        position = stop + length + size
        if id_ != 0xBF:
            found.append((id_, content[stop + length : position]))
    return found


def with_elements(source: Path, path: Path, *, video: bytes = b"", track: bytes = b"") -> Path:
    """A copy of an mkv with more elements in its first track."""
    head, (_, segment) = children(source.read_bytes())
    parts: list[bytes] = []
    for id_, content in children(segment):
        if id_ == 0x1654AE6B:
            ((entry_id, entry),) = children(content)
            inside = [
                element(inner, value, video if inner == 0xE0 else b"")
                for inner, value in children(entry)
            ]
            parts.append(element(id_, element(entry_id, *inside, track)))
        elif id_ in (0x1549A966, 0x1F43B675):  # without the index and the table of contents
            parts.append(element(id_, content))
    path.write_bytes(element(*head) + element(0x18538067, *parts))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, codec in (("h264", X264), ("h265", X265)):
        tag = ["-tag:v", "hvc1"] if name == "h265" else []
        ffmpeg(*PICTURE, "-frames:v", "4", *codec, *tag, folder / f"{name}.mp4")
        for suffix in ("mkv", "ts"):
            ffmpeg("-i", folder / f"{name}.mp4", "-c", "copy", folder / f"{name}.{suffix}")
    return folder


def record(profile: int, compatibility: int) -> bytes:
    """Dolby Vision's configuration: 24 bytes."""
    return bytes([1, 0, profile << 1, 0b01101 | 1 << 3, compatibility << 4]) + bytes(19)


@pytest.mark.parametrize("look", [sniff_video, probe_video], ids=["sniff", "probe"])
@pytest.mark.parametrize(
    ("clip", "kind", "profile", "entry"),
    [
        ("h265.mp4", b"dvcC", 5, None),
        ("h265.mp4", b"dvcC", 5, b"dvh1"),
        ("h265.mp4", b"dvcC", 5, b"dvhe"),
        ("h265.mp4", b"dvvC", 10, None),
        ("h265.mp4", b"dvwC", 20, None),
        ("h264.mp4", b"dvcC", 1, b"dva1"),
        ("h265.mkv", b"dvcC", 5, None),
        ("h264.mkv", b"dvvC", 10, None),
    ],
)
def test_dolby_vision_without_a_compatible_picture_is_refused(
    clips: Path, tmp_path: Path, look: object, clip: str, kind: bytes, profile: int, entry: bytes
) -> None:
    path = tmp_path / clip
    if clip.endswith("mp4"):
        with_box(clips / clip, path, kind + record(profile, 0), entry=entry)
    else:
        mapping = element(0x41E4, element(0x41E7, kind), element(0x41ED, record(profile, 0)))
        with_elements(clips / clip, path, track=mapping)
    with pytest.raises(UnsupportedFormatError, match=f"Dolby Vision profile {profile} is not"):
        look(path)  # type: ignore[operator]


@pytest.mark.parametrize("tag", [b"dvh1", b"dvhe", b"dva1"])
def test_a_tag_of_dolby_vision_without_a_record_is_refused(
    clips: Path, tmp_path: Path, tag: bytes
) -> None:
    clip = "h264.mp4" if tag == b"dva1" else "h265.mp4"
    path = with_box(clips / clip, tmp_path / "a.mp4", b"free", entry=tag)
    with pytest.raises(UnsupportedFormatError, match="Dolby Vision"):
        probe_video(path)


def with_descriptor(source: Path, path: Path, descriptor: bytes) -> Path:
    """A copy of a transport stream whose first stream has one more descriptor in the map."""
    content = bytearray(source.read_bytes())
    for at in range(0, len(content), 188):
        pid = int.from_bytes(content[at + 1 : at + 3]) & 0x1FFF
        if pid != 0x1000:
            continue
        table = bytes(content[at + 5 : at + 188])
        size = int.from_bytes(table[1:3]) & 0xFFF
        body = bytearray(table[3 : 3 + size - 4])
        info = int.from_bytes(body[7:9]) & 0xFFF
        stream = 9 + info
        told = int.from_bytes(body[stream + 3 : stream + 5]) & 0xFFF
        body[stream + 3 : stream + 5] = (0xF000 | told + len(descriptor)).to_bytes(2)
        body[stream + 5 : stream + 5] = descriptor
        section = bytes([2]) + (0xB000 | len(body) + 4).to_bytes(2) + bytes(body)
        section += crc32(section).to_bytes(4)
        content[at + 5 : at + 188] = section.ljust(183, b"\xff")
    path.write_bytes(content)
    return path


def crc32(data: bytes) -> int:
    """Of a table in a transport stream."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize(("profile", "compatibility"), [(5, 0), (10, 0), (8, 2)])
def test_dolby_vision_in_a_transport_stream(
    clips: Path, tmp_path: Path, profile: int, compatibility: int
) -> None:
    content = record(profile, compatibility)[:5]
    path = with_descriptor(
        clips / "h265.ts", tmp_path / "a.ts", bytes([0xB0, len(content)]) + content
    )
    if compatibility:
        assert probe_video(path).num_frames == 4
        return
    with pytest.raises(UnsupportedFormatError, match=f"Dolby Vision profile {profile} is not"):
        sniff_video(path)


@pytest.mark.parametrize("compatibility", [2, 4, 6])
def test_dolby_vision_with_a_compatible_picture_is_that_picture(
    clips: Path, tmp_path: Path, compatibility: int
) -> None:
    path = with_box(clips / "h265.mp4", tmp_path / "a.mp4", b"dvvC" + record(8, compatibility))
    assert probe_video(path).num_frames == 4


@pytest.mark.parametrize(
    ("video", "crop"),
    [
        (number(0x54CC, 8) + number(0x54DD, 4), (8, 0, 4, 0)),
        (number(0x54BB, 6) + number(0x54AA, 2), (0, 6, 0, 2)),
        (b"", (0, 0, 0, 0)),
    ],
    ids=["sides", "above", "none"],
)
def test_edges_that_matroska_hides(
    clips: Path, tmp_path: Path, video: bytes, crop: tuple[int, ...]
) -> None:
    info = probe_video(with_elements(clips / "h264.mkv", tmp_path / "a.mkv", video=video))
    assert info.crop == crop
    assert info.width == 64 - crop[0] - crop[2]
    assert info.height == 48 - crop[1] - crop[3]


def test_the_edges_of_a_matroska_file_are_cut_before_its_shape_is_reckoned(
    clips: Path, tmp_path: Path
) -> None:
    """Matroska tells the shape of what is shown."""
    shown = number(0x54CC, 8) + number(0x54DD, 8) + number(0x54B0, 96) + number(0x54BA, 48)
    info = probe_video(with_elements(clips / "h264.mkv", tmp_path / "a.mkv", video=shown))
    width, height = info.display_size
    assert width / height == 2


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts"])
def test_strange_bytes_are_passed_over(clips: Path, tmp_path: Path, name: str) -> None:
    """Neither an error nor a long search, whatever stands there."""
    draw = random.Random(0)
    source = (
        with_box(clips / name, tmp_path / name, clean_aperture(48, 40))
        if (name.endswith("mp4"))
        else clips / name
    )
    whole = source.read_bytes()
    path = tmp_path / "strange"
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 4, 64])):
            content[draw.randrange(len(content))] = draw.choice([0, 1, 255, draw.randrange(256)])
        path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        headers = [*read_tracks(path), *read_video_tracks(path), *read_programs(path)]
        assert all(isinstance(header, TrackHeader) for header in headers)


def test_edges_leave_something_of_a_picture() -> None:
    assert Edges(left=3, right=4).within(8, 8) == Edges(left=3, right=4)
    assert Edges(left=4, right=4).within(8, 8) == Edges()
    assert Edges(top=-1).within(8, 8) == Edges()


@pytest.mark.parametrize("chapters", [True, False])
def test_a_time_code_is_kept_where_there_are_no_chapters(tmp_path: Path, chapters: bool) -> None:
    names = tmp_path / "chapters.txt"
    text = "[CHAPTER]\nTIMEBASE=1/1000\nSTART={}\nEND={}\ntitle={}\n"
    told = text.format(0, 500, "One") + text.format(500, 1000, "Two")
    names.write_text(";FFMETADATA1\n" + (told if chapters else "title=x\n"))
    path = tmp_path / "a.mov"
    codec = [*X264, "-frames:v", "4", "-timecode", "01:00:00:00"]
    ffmpeg(*PICTURE, "-i", names, "-map", "0", "-map_metadata", "1", *codec, path)
    result, _ = join_whole(path, tmp_path)
    told = "the time code 01:00:00:00 is not carried over: it does not go with chapters"
    assert [note for note in result.notes if "time" in note] == [told] * chapters
