"""One file of many: the same bytes for the same pictures, and hostile zips end in a sentence."""

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.files.reading import FileReader
from seedvr2_core.video.sequence import archive
from seedvr2_core.video.sequence.archive import PictureArchive, SequenceTimes, write_archive

RATE = Fraction(24000, 1001)


class Plain:
    """A member of some bytes."""

    def __init__(self, name: str, content: bytes) -> None:
        self.name, self._content = name, content

    def pieces(self) -> list[bytes]:  # type: ignore[override]
        """In two parts."""
        return [self._content[:3], self._content[3:]]


def packed(path: Path, *names: str) -> Path:
    members = [Plain(name, name.encode() * 9) for name in names]
    with path.open("wb") as file:
        write_archive(file, members, SequenceTimes.of_rate(RATE, len(names)))  # type: ignore[arg-type]
    return path


def opened(path: Path) -> PictureArchive:
    return PictureArchive(FileReader(path), "a.zip")


def zipped(path: Path, files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as folder:
        for name, content in files.items():
            folder.writestr(name, content)
    return path


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = packed(tmp_path / "a", "f2.png", "f10.png", "f1.png")
    found = opened(path)
    assert found.names == ["f2.png", "f10.png", "f1.png"]  # as they were given
    assert found.read(1) == b"f10.png" * 9
    assert found.times() == SequenceTimes(time_base=(1001, 24000), pts=(0, 1, 2), last_duration=1)
    with zipfile.ZipFile(path) as folder:
        assert folder.testzip() is None
        assert {one.compress_type for one in folder.infolist()} == {zipfile.ZIP_STORED}


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    members = [Plain("a.png", b"x" * 100), Plain("b.png", b"y" * 70)]
    times = SequenceTimes.of_rate(RATE, 2)
    target = io.BytesIO()
    told = write_archive(target, members, times)  # type: ignore[arg-type]
    assert told == (hashlib.sha256(target.getvalue()).hexdigest(), len(target.getvalue()))
    assert write_archive(None, members, times) == told  # type: ignore[arg-type]


def test_pictures_of_a_foreign_zip_are_sorted_and_the_rest_left_out(tmp_path: Path) -> None:
    names = ("s/f10.png", "s/f9.png", "s/.f1.png", "__MACOSX/s/._f9.png", "s/notes.txt", "x/y.txt")
    found = opened(zipped(tmp_path / "a", {name: b"x" for name in names}))
    assert found.names == ["f9.png", "f10.png"]
    assert (found.times(), found.has_times) == (None, False)


@pytest.mark.parametrize(
    ("files", "kind", "words"),
    [
        ({"a.txt": b""}, InvalidVideoError, "holds no picture"),
        ({"a/1.png": b"", "b/2.png": b""}, InvalidVideoError, "in several folders .'a', 'b'"),
    ],
)
def test_zips_that_are_no_sequence(
    tmp_path: Path, files: dict[str, bytes], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=f"a.zip: .*{words}"):
        opened(zipped(tmp_path / "a", files))


def test_names_of_paths_elsewhere_are_only_names(tmp_path: Path) -> None:
    found = opened(zipped(tmp_path / "a", {"../../etc/1.png": b"x", "../../etc/2.png": b"y"}))
    assert found.names == ["1.png", "2.png"]


def test_rare_and_encrypted_packing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"1.png is compressed in a rare way"):
        opened(zipped(tmp_path / "a", {"1.png": b"x"}, zipfile.ZIP_LZMA))
    content = bytearray(zipped(tmp_path / "b", {"1.png": b"x"}).read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(UnsupportedFormatError, match=r"1.png is encrypted"):
        opened(tmp_path / "b")


def test_a_picture_that_would_be_huge_is_refused_unread(tmp_path: Path) -> None:
    content = bytearray(zipped(tmp_path / "a", {"1.png": bytes(1000)}).read_bytes())
    at = content.index(b"PK\1\2") + 24
    content[at : at + 4] = struct.pack("<I", 2**30 + 1)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UnsupportedFormatError, match=r"1.png has 1073741825 bytes"):
        opened(tmp_path / "a")


def test_no_more_is_unpacked_than_the_zip_says(tmp_path: Path) -> None:
    """A bomb whose list says little: the sum is wrong, and not one more byte is made."""
    content = bytearray(zipped(tmp_path / "a", {"1.png": bytes(10**7)}).read_bytes())
    for start, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        at = content.index(start) + place
        content[at : at + 4] = struct.pack("<I", 50)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InvalidVideoError, match=r"1.png is damaged in the zip"):
        opened(tmp_path / "a").read(0)


def test_a_long_list_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "a", {f"{n}.png": b"" for n in range(20)})
    monkeypatch.setattr(archive, "_MOST_LIST_BYTES", 100)

    def read(*args: object) -> None:
        raise AssertionError("the list was read")

    monkeypatch.setattr(zipfile, "ZipFile", read)
    with pytest.raises(UnsupportedFormatError, match="lists too many files"):
        opened(path)


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.05])
def test_zips_that_were_cut_off(tmp_path: Path, keep: float) -> None:
    content = packed(tmp_path / "a", "1.png", "2.png").read_bytes()
    (tmp_path / "a").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InvalidVideoError, match="damaged or cut off"):
        opened(tmp_path / "a")


def _set(**changed: object) -> Callable[[dict[str, object]], object]:
    return lambda told: {**told, **changed}


@pytest.mark.parametrize(
    "spoil",
    [
        _set(pts=[0]),
        _set(pts=[0, 0]),
        _set(pts=[1, 0]),
        _set(pts=[0, 2**40]),
        _set(pts=[0, "1"]),
        _set(pts=[0, True]),
        _set(pts="01"),
        _set(time_base=[1]),
        _set(time_base=[0, 25]),
        _set(time_base=[1, 2**40]),
        _set(last_duration=0),
        _set(last_duration=None),
        lambda told: [],
        lambda told: {},
    ],
)
def test_times_that_cannot_be(tmp_path: Path, spoil: Callable[[dict[str, object]], object]) -> None:
    told: dict[str, object] = {"time_base": [1, 25], "pts": [0, 1], "last_duration": 1}
    files = {"1.png": b"x", "2.png": b"y", "sequence.json": json.dumps(spoil(told)).encode()}
    with pytest.raises(InvalidVideoError, match=r"sequence.json does not say when"):
        opened(zipped(tmp_path / "a", files)).times()
    files["sequence.json"] = b"{" * 10**6
    with pytest.raises(InvalidVideoError, match=r"sequence.json does not say when"):
        opened(zipped(tmp_path / "b", files)).times()


def test_a_byte_that_has_changed_is_noticed(tmp_path: Path) -> None:
    path = packed(tmp_path / "a", "1.png", "2.png")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"2.png2.png", b"2.png2.pnG", 1))
    assert opened(path).read(0) == b"1.png" * 9
    with pytest.raises(InvalidVideoError, match=r"2.png is damaged in the zip"):
        opened(path).read(1)
