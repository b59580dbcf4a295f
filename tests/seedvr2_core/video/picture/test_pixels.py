"""Pictures as sources: their own samples come out, upright, in sRGB; what cannot is refused."""

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from PIL import Image, ImageCms

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.video.probe import displayed_size, probe_video, sniff_video
from seedvr2_core.video.reader import read_frames

HEIGHT, WIDTH = 30, 40
ORIENTATION = 0x0112
LOSSLESS = {"png": {}, "tiff": {}, "webp": {"lossless": True}}
ENDINGS = {"png": "png", "tiff": "tif", "webp": "webp", "jpeg": "jpg"}
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}
"""By EXIF's definition: where the stored first row and column are seen."""


def noise(dtype: type = np.uint8, channels: int = 3) -> np.ndarray:
    most = np.iinfo(dtype).max + 1
    return np.random.default_rng(5).integers(0, most, (HEIGHT, WIDTH, channels), dtype=dtype)


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def deep_saved(path: Path, pixels: np.ndarray, pix_fmt: str) -> Path:
    """By libav, because Pillow has no colours of 16 bits."""
    with av.open(str(path), "w", format="image2") as output:
        codec = "png" if path.suffix == ".png" else "tiff"
        stream = output.add_stream(codec, 1)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        frame = VideoFrame.from_ndarray(pixels.squeeze(), pix_fmt)
        frame.pts, frame.time_base = 0, Fraction(1)
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def read(path: Path, *, deep: bool = False) -> np.ndarray:
    sniff_video(path)
    (frame,) = read_frames(path, probe_video(path), 0, 1, deep=deep)
    assert displayed_size(path) == (frame.rgb.shape[1], frame.rgb.shape[0])
    return frame.rgb


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_come_upright_with_their_own_samples(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    pixels, exif = noise(), Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / f"a.{ENDINGS[kind]}", pixels, exif=exif, **LOSSLESS[kind])
    assert (read(path) == UPRIGHT[orientation](pixels)).all()
    info = probe_video(path)
    assert (info.format_name, info.codec, info.is_picture, info.bit_depth) == (kind, kind, True, 8)
    assert (info.num_frames, info.warnings) == (1, ())
    assert (info.color.primaries, info.color.transfer) == (1, 13)


def test_a_jpeg_is_what_pillow_makes_of_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x0110] = 6, "a camera"
    path = saved(tmp_path / "a.jpg", noise(), exif=exif, quality=80)
    assert (read(path) == UPRIGHT[6](np.asarray(Image.open(path)))).all()
    (told,) = probe_video(path).warnings
    assert "EXIF" in told


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("pix_fmt", "channels"), [("rgb48", 3), ("gray16", 1), ("rgba64", 4)])
def test_sixteen_bits_stay(tmp_path: Path, ending: str, pix_fmt: str, channels: int) -> None:
    pixels = noise(np.uint16, channels)
    if channels == 4:
        pixels[:, :, 3] = 65535
    order = "be" if ending == "png" else "le"
    path = deep_saved(tmp_path / f"a.{ending}", pixels, f"{pix_fmt}{order}")
    wanted = pixels.repeat(3, axis=2) if channels == 1 else pixels[:, :, :3]
    assert (read(path, deep=True) == wanted).all()
    assert probe_video(path).bit_depth == 16


def test_a_deep_picture_is_turned_as_well(tmp_path: Path) -> None:
    pixels = noise(np.uint16, 1)
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    path = saved(tmp_path / "a.png", pixels[:, :, 0], exif=exif)
    assert (read(path, deep=True) == UPRIGHT[8](pixels).repeat(3, axis=2)).all()


def swapped_profile() -> bytes:
    """sRGB with red and green in each other's place, and a name of its own."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = content.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    return content.replace(b"rXYZ", b"temp").replace(b"gXYZ", b"rXYZ").replace(b"temp", b"gXYZ")


def test_colours_are_converted_from_their_profile(tmp_path: Path) -> None:
    pixels = noise()
    own = saved(tmp_path / "a.png", pixels, icc_profile=swapped_profile())
    assert np.abs(read(own).astype(int) - pixels[:, :, [1, 0, 2]]).max() <= 1
    (told,) = probe_video(own).warnings
    assert "swap" in told
    assert "sRGB" in told
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = saved(tmp_path / "b.png", pixels, icc_profile=plain)
    assert (read(same) == pixels).all()
    assert probe_video(same).warnings == ()
    broken = saved(tmp_path / "c.png", pixels, icc_profile=b"no profile")
    with pytest.raises(InvalidVideoError, match=r"profile .ICC. is damaged"):
        sniff_video(broken)


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """A chunk behind the header, whose sum is right."""
    end = 33
    chunk = struct.pack(">I", len(content)) + kind + content
    return png[:end] + chunk + struct.pack(">I", zlib.crc32(kind + content)) + png[end:]


def test_a_png_keeps_what_it_says_of_hdr(tmp_path: Path) -> None:
    path = deep_saved(tmp_path / "a.png", noise(np.uint16), "rgb48be")
    path.write_bytes(with_chunk(path.read_bytes(), b"cICP", bytes([9, 16, 0, 1])))
    color = probe_video(path).color
    assert (color.primaries, color.transfer, color.hdr) == (9, 16, "PQ")
    assert (read(path, deep=True) == noise(np.uint16)).all()


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("kind", ["rgba", "palette", "deep"])
def test_alpha_is_there_where_it_shows(tmp_path: Path, kind: str, *, opaque: bool) -> None:
    path = tmp_path / "a.png"
    if kind == "deep":
        pixels = noise(np.uint16, 4)
        pixels[:, :, 3] = 65535
        pixels[3, 4, 3] -= 0 if opaque else 300
        deep_saved(path, pixels, "rgba64be")
    else:
        pixels = noise(np.uint8, 4)
        pixels[:, :, 3] = 255
        pixels[3:9, :, 3] -= 255 * (not opaque)
        image = Image.fromarray(pixels)
        (image.quantize(16) if kind == "palette" else image).save(path)
    assert read(path).shape == (HEIGHT, WIDTH, 3)
    info = probe_video(path)
    assert (info.alpha.transparent, "a" in info.pix_fmt) == (not opaque, not opaque)


def test_kinds_of_pixels_that_pillow_converts(tmp_path: Path) -> None:
    grey = noise(channels=1)
    assert (read(saved(tmp_path / "a.png", grey[:, :, 0])) == grey.repeat(3, axis=2)).all()
    bits = Image.fromarray(grey[:, :, 0] > 127)
    bits.save(tmp_path / "b.tif", compression="group4")
    assert (read(tmp_path / "b.tif")[:, :, 0] == (grey[:, :, 0] > 127) * 255).all()
    inks = Image.fromarray(noise()).convert("CMYK")
    inks.save(tmp_path / "c.jpg", quality=95)
    assert read(tmp_path / "c.jpg").shape == (HEIGHT, WIDTH, 3)
    assert "CMYK" in probe_video(tmp_path / "c.jpg").warnings[0]


def test_further_pages_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.fromarray(noise()), Image.new("RGB", (8, 8))]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert (read(path) == noise()).all()
    assert "2 pictures" in probe_video(path).warnings[0]


def jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.jpg", lambda: jpeg(noise()) * 3, "motion JPEG"),
        ("a.jpg", lambda: jpeg(noise())[:900], "JPEG picture cannot be read"),
        ("a.webp", lambda: b"RIFF\x40\0\0\0WEBPVP8 " + bytes(64), "WEBP picture cannot be read"),
    ],
    ids=["motion", "cut", "webp"],
)
def test_damaged_pictures(tmp_path: Path, name: str, make: Callable[[], bytes], words: str) -> None:
    (tmp_path / name).write_bytes(make())
    for look in (sniff_video, probe_video):
        with pytest.raises(InvalidVideoError, match=words):
            look(tmp_path / name)


def test_samples_that_are_not_taken(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", noise(channels=1)[:, :, 0].astype(np.float32))
    with pytest.raises(UnsupportedFormatError, match="samples of 32 bits"):
        sniff_video(path)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is decoded: each decoder would end the test."""
    path = saved(tmp_path / "a.png", noise())
    content = path.read_bytes()
    size = struct.pack(">2I", 60_000, 60_000)
    head = content[:16] + size + content[24:29]
    path.write_bytes(head + struct.pack(">I", zlib.crc32(head[12:])) + content[33:])

    def decoded(*args: object, **options: object) -> None:
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(Image.Image, "load", decoded)
    monkeypatch.setattr(av, "open", decoded)
    with pytest.raises(UnsupportedFormatError, match="3600000000 pixels"):
        sniff_video(path)
