"""A sequence is read like a video: every picture by itself, at its exact time, from anywhere."""

import json
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from seedvr2_core.errors import FileReadError, InvalidVideoError, UnsupportedFormatError
from seedvr2_core.files.reading import FileReader
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.picture.still import WholeFile
from seedvr2_core.video.probe import displayed_size, probe_video, sniff_video
from seedvr2_core.video.reader import read_frames
from tests.seedvr2_core.video.sequence.conftest import HEIGHT, WIDTH, Pack, moving, save_all

NTSC = Fraction(30000, 1001)


def seconds(info: VideoInfo) -> list[Fraction]:
    return [time * Fraction(*info.time_base) for time in info.pts]


@pytest.mark.parametrize("rate", [Fraction(24), NTSC, Fraction(1, 3), Fraction(1000)])
def test_times_are_exact(tmp_path: Path, pack: Pack, rate: Fraction) -> None:
    info = probe_video(pack(save_all(tmp_path / "in", moving(12)), rate))
    assert seconds(info) == [index / rate for index in range(12)]
    assert Fraction(info.last_duration) * Fraction(*info.time_base) == 1 / rate
    assert Fraction(*info.nominal_rate) == rate
    assert (info.codec, info.format_name, info.is_picture, info.seekable) == (
        *("png", "sequence"),
        *(False, True),
    )
    assert info.warnings == ()


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_every_picture_comes_as_it_is_from_anywhere(
    tmp_path: Path, pack: Pack, ending: str
) -> None:
    pictures = moving(12)
    folder = tmp_path / "in"
    folder.mkdir()
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"f{index}.{ending}", lossless=True)
    path = pack(folder)
    sniff_video(path)
    assert displayed_size(path) == (WIDTH, HEIGHT)
    info = probe_video(path)
    for start, stop in ((0, 12), (7, 9), (11, 12)):
        frames = list(read_frames(path, info, start, stop))
        assert [frame.index for frame in frames] == list(range(start, stop))
        for frame in frames:
            assert (frame.rgb == pictures[frame.index]).all()


def test_only_wanted_pictures_are_decoded(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe decodes the first one; who begins in the middle does not decode what is before."""
    path = pack(save_all(tmp_path / "in", moving(40)))
    from seedvr2_core.video.sequence import virtual

    decoded: list[str] = []
    real = virtual.upright_pixels

    def noted(file: WholeFile, name: str, kind: str, **how: bool) -> object:
        decoded.append(name.rpartition(" ")[2])
        return real(file, name, kind, **how)

    monkeypatch.setattr(virtual, "upright_pixels", noted)
    info = probe_video(path)
    assert set(decoded) <= {"f0.png", "f1.png"}
    decoded.clear()
    list(read_frames(path, info, 30, 32))
    assert {"f30.png", "f31.png"} <= set(decoded)
    assert not {f"f{index}.png" for index in range(2, 29)} & set(decoded)


def test_jpegs_are_what_pillow_makes_of_them_turned_by_exif(tmp_path: Path, pack: Pack) -> None:
    folder, exif = tmp_path / "in", Image.Exif()
    folder.mkdir()
    exif[0x0112] = 6
    for index, pixels in enumerate(moving(3)):
        Image.fromarray(pixels).save(folder / f"{index}.jpg", exif=exif, quality=90)
    path = pack(folder)
    info = probe_video(path)
    assert (info.upright_size, info.codec) == ((HEIGHT, WIDTH), "jpeg")
    for frame in read_frames(path, info, 0, 3):
        with Image.open(folder / f"{frame.index}.jpg") as picture:
            assert (frame.rgb == np.rot90(np.asarray(picture), -1)).all()
    size = sum(one.stat().st_size for one in folder.iterdir())
    assert info.bits_per_pixel == pytest.approx(8 * size / (3 * WIDTH * HEIGHT), abs=1e-4)


def test_profiles_are_honoured_and_told(tmp_path: Path, pack: Pack) -> None:
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = content.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    swap = content.replace(b"rXYZ", b"temp").replace(b"gXYZ", b"rXYZ").replace(b"temp", b"gXYZ")
    folder, pictures = tmp_path / "in", moving(2)
    folder.mkdir()
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{index}.png", icc_profile=swap)
    path = pack(folder)
    info = probe_video(path)
    for frame in read_frames(path, info, 0, 2):
        off = frame.rgb.astype(int) - pictures[frame.index][:, :, [1, 0, 2]]
        assert np.abs(off).max() <= 1
    (told,) = info.warnings
    assert "of the first picture: the colours are converted from their profile (swap" in told


def test_jumps_and_what_lies_beside_are_told(tmp_path: Path, pack: Pack) -> None:
    folder = save_all(tmp_path / "in", moving(4))
    (folder / "f2.png").unlink()
    (told,) = probe_video(pack(folder)).warnings
    assert "behind f1.png comes f3.png" in told


def test_a_zip_with_times_of_its_own(tmp_path: Path) -> None:
    """As we write it for a video of a variable rate, with its sound beside the pictures."""
    pictures, path = moving(4), tmp_path / "a.zip"
    save_all(tmp_path / "in", pictures)
    told = {"time_base": [1, 600], "pts": [40, 60, 100, 101], "last_duration": 9}
    with zipfile.ZipFile(path, "w") as folder:
        for index in range(4):
            folder.write(tmp_path / "in" / f"f{index}.png", f"{index:06}.png")
        folder.writestr("sound.mka", b"x")
        folder.writestr("sequence.json", json.dumps(told))
    info = probe_video(path)
    assert seconds(info) == [Fraction(ticks, 600) for ticks in (0, 20, 60, 61)]
    assert info.last_duration * Fraction(*info.time_base) == Fraction(9, 600)
    assert [frame.rgb.tolist() for frame in read_frames(path, info, 2, 4)] == [
        one.tolist() for one in pictures[2:]
    ]
    assert any("sound.mka" in one for one in info.warnings)


def test_a_zip_without_times_says_what_is_missing(tmp_path: Path) -> None:
    save_all(tmp_path / "in", moving(2))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as folder:
        folder.write(tmp_path / "in" / "f0.png", "f0.png")
    for look in (sniff_video, probe_video, displayed_size):
        with pytest.raises(InvalidVideoError, match=r"a zip of pictures; say .*--fps 24"):
            look(tmp_path / "a.zip")


def wrong_size(folder: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(folder / "f2.png")


def wrong_depth(folder: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(folder / "f2.png")


def wrong_kind(folder: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "f2.png", "TIFF")


def turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "f2.png", exif=exif)


def no_picture(folder: Path) -> None:
    (folder / "f2.png").write_bytes(b"I am a picture, trust me" * 9)


def cut_off(folder: Path) -> None:
    content = (folder / "f2.png").read_bytes()
    (folder / "f2.png").write_bytes(content[:-200])


def cut_in_its_header(folder: Path) -> None:
    content = (folder / "f2.png").read_bytes()
    (folder / "f2.png").write_bytes(content[:20])


DIFFERENCES: dict[Callable[[Path], None], str] = {
    wrong_size: r"f0.png is PNG, 40x30, 8 bits, but .*f2.png is PNG, 40x31, 8 bits",
    wrong_depth: r"f2.png is PNG, 40x30, 16 bits",
    wrong_kind: r"f2.png is TIFF",
    turned: r"f2.png is PNG, 30x40",
    no_picture: r"f2.png is no picture that is taken",
    cut_off: r"f2.png: this PNG picture cannot be read",
    cut_in_its_header: r"f2.png: this PNG picture cannot be read",
}


@pytest.mark.parametrize("spoil", DIFFERENCES)
def test_the_first_picture_that_differs_is_named(
    tmp_path: Path, pack: Pack, spoil: Callable[[Path], None]
) -> None:
    from seedvr2_core.video.sequence.look import check_pictures
    from seedvr2_core.video.sequence.names import pictures_in_folder

    folder = save_all(tmp_path / "in", moving(4))
    check_pictures(pictures_in_folder(folder))
    spoil(folder)
    with pytest.raises(InvalidVideoError, match=DIFFERENCES[spoil]):
        probe_video(pack(folder))
    with pytest.raises(InvalidVideoError, match=DIFFERENCES[spoil]):
        check_pictures(pictures_in_folder(folder))


def test_grey_pictures_among_coloured_ones_are_alike(tmp_path: Path, pack: Pack) -> None:
    """Programs save a black picture as grey."""
    folder = save_all(tmp_path / "in", moving(3))
    Image.new("L", (WIDTH, HEIGHT), 7).save(folder / "f1.png")
    path = pack(folder)
    frames = list(read_frames(path, probe_video(path), 0, 3))
    assert (frames[1].rgb == 7).all()


def test_damage_that_shows_only_to_the_decoder_names_the_picture(
    tmp_path: Path, pack: Pack
) -> None:
    """No neighbour takes its place, as it would in a video: the picture can be mended."""
    folder = save_all(tmp_path / "in", moving(6))
    content = bytearray((folder / "f4.png").read_bytes())
    content[len(content) // 2] ^= 255
    (folder / "f4.png").write_bytes(content)
    path = pack(folder)
    info = probe_video(path)
    with pytest.raises(InvalidVideoError, match=r"f4.png: this PNG picture cannot be read"):
        list(read_frames(path, info, 0, 6))


def test_transparency_that_comes_later_names_the_picture(tmp_path: Path, pack: Pack) -> None:
    folder = save_all(tmp_path / "in", moving(3))
    Image.new("RGBA", (WIDTH, HEIGHT), (1, 2, 3, 4)).save(folder / "f2.png")
    path = pack(folder)
    with pytest.raises(InvalidVideoError, match=r"f2.png is not like f0.png"):
        list(read_frames(path, probe_video(path), 0, 3))


def test_alpha_that_begins_later_is_found_where_all_pictures_have_some(
    tmp_path: Path, pack: Pack
) -> None:
    folder = save_all(
        tmp_path / "in", [np.dstack([p, np.full_like(p[..., 0], 255)]) for p in moving(3)]
    )
    Image.new("RGBA", (WIDTH, HEIGHT), (1, 2, 3, 4)).save(folder / "f2.png")
    info = probe_video(pack(folder))
    assert (info.pix_fmt, info.alpha.transparent) == ("rgba", True)


def test_a_disk_that_fails_is_no_end_of_the_sequence(
    tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(save_all(tmp_path / "in", moving(9)))
    info = probe_video(path)
    real, begun = FileReader._read, [0]

    def failing(self: FileReader, size: int) -> bytes:
        if begun[0] and self.tell() > begun[0]:
            raise OSError(5, "Input/output error")
        return real(self, size)

    monkeypatch.setattr(FileReader, "_read", failing)
    frames = read_frames(path, info, 0, 9)
    next(frames)
    begun[0] = path.stat().st_size // 2
    with pytest.raises(FileReadError):
        list(frames)


def test_limits_of_length_hold(tmp_path: Path, pack: Pack) -> None:
    path = pack(save_all(tmp_path / "in", moving(5)), Fraction(2))
    with pytest.raises(UnsupportedFormatError, match="more than 4 frames"):
        probe_video(path, max_frames=4)
    with pytest.raises(UnsupportedFormatError, match="lasts longer than 1 s"):
        probe_video(path, max_seconds=1)
    assert probe_video(path, max_frames=5, max_seconds=2).num_frames == 5
