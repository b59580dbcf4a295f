"""Single pictures with alpha: in, through a job, and out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from seedvr2_core.engines.lanczos import resize_plane
from seedvr2_core.errors import PlanError
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames
from tests.kits.clips.cases import Made, make_video
from tests.kits.clips.transparent import HEIGHT, WIDTH, shown_pixels, textured
from tests.kits.media import ffmpeg

SIZE = (WIDTH, HEIGHT)
PIXELS = textured(1)[0]


def deep_pixels() -> np.ndarray:
    """(H, W, 4) uint16 whose lower bytes matter."""
    pixels = PIXELS.astype(np.uint16) * 257
    pixels[..., :3] ^= np.uint16(0x55)
    soft = (pixels[..., 3] > 0) & (pixels[..., 3] < 65535)
    pixels[soft, 3] ^= np.uint16(0x33)
    return pixels


def deep_saved(path: Path, pixels: np.ndarray) -> Path:
    """By ffmpeg, because Pillow has no colours of 16 bits."""
    raw = path.with_name("pixels.raw")
    raw.write_bytes(pixels.astype("<u2").tobytes())
    shape = f"{pixels.shape[1]}x{pixels.shape[0]}"
    end = ["-compression_algo", "raw"] if path.suffix == ".tif" else []
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgba64le", "-s", shape, "-i", raw, *end, path)
    return path


def saved(path: Path, pixels: np.ndarray = PIXELS, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def premultiplied(path: Path) -> Path:
    """A TIFF of 16 bits that says that its colours are multiplied by alpha, and they are."""
    pixels = deep_pixels().astype(np.uint64)
    pixels[..., :3] = (pixels[..., :3] * pixels[..., 3:] + 32767) // 65535
    deep_saved(path, pixels.astype(np.uint16))
    content = bytearray(path.read_bytes())
    with Image.open(path) as picture:
        extra = picture.tag_v2.get(338)  # type: ignore[attr-defined]
    assert extra is not None
    at = content.index((338).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    content[at + 8] = 1
    path.write_bytes(content)
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {
    "a.png": saved,
    "a.tif": saved,
    "a.webp": lambda path: saved(path, lossless=True, exact=True),
    "deep.png": lambda path: deep_saved(path, deep_pixels()),
    "deep.tif": lambda path: deep_saved(path, deep_pixels()),
}


def made_of(source: Path, folder: Path, alpha: str = "auto", **changes: Any) -> Made:
    folder.mkdir(exist_ok=True)
    usual = {"codec": "auto", "container": "auto", "resolution": "1x"}
    return make_video(source, folder, WantedFrames(alpha=alpha), **{**usual, **changes})


@pytest.mark.parametrize("container", ["auto", "tiff"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_picture_keeps_its_alpha(tmp_path: Path, name: str, container: str) -> None:
    source = SOURCES[name](tmp_path / name)
    job = made_of(source, tmp_path / "job", container=container)
    deep = "deep" in name or container == "tiff"
    assert job.output.suffix == (".png" if container == "auto" else ".tif")
    ours = shown_pixels(job.output, SIZE, deep=deep)[0]
    wanted = deep_pixels() if "deep" in name else PIXELS
    if deep and wanted is PIXELS:
        wanted = PIXELS * np.uint16(257)
    assert (ours[..., 3] == wanted[..., 3]).all()
    seen = wanted[..., 3] > np.iinfo(wanted.dtype).max // 16
    assert np.abs(ours[seen].astype(int) - wanted[seen]).max() <= (
        0 if container == "auto" else 257
    )
    assert any("alpha, which is kept" in note for note in job.notes)
    with Image.open(job.output) as picture:
        assert picture.mode in ("RGBA", "RGB")  # Pillow shows 16 bits as it can
        if container == "tiff":
            assert picture.tag_v2[338] in (2, (2,))  # type: ignore[attr-defined]


def test_an_enlarged_picture_has_its_alpha_by_lanczos(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.png")
    job = made_of(source, tmp_path / "job", resolution="3x")
    ours = shown_pixels(job.output, (3 * WIDTH, 3 * HEIGHT))[0]
    wanted = resize_plane(PIXELS[..., 3], height=3 * HEIGHT, width=3 * WIDTH)
    assert (ours[..., 3] == wanted).all()
    levels = Image.fromarray(PIXELS[..., 3].astype(np.float32))
    pillow = levels.resize((3 * WIDTH, 3 * HEIGHT), Image.Resampling.LANCZOS)
    assert np.abs(ours[..., 3].astype(int) - np.asarray(pillow).clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("grey.png", lambda image: image.convert("LA")),
        ("palette.png", lambda image: image.quantize(256, Image.Quantize.FASTOCTREE)),
        ("turned.png", lambda image: image),
    ],
)
def test_kinds_of_pictures_with_alpha(
    tmp_path: Path, name: str, change: Callable[[Image.Image], Image.Image]
) -> None:
    image, options = change(Image.fromarray(PIXELS)), {}
    if name == "turned.png":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    image.save(tmp_path / name, **options)
    wanted = np.asarray(image.convert("RGBA"))
    if name == "turned.png":
        wanted = wanted.transpose(1, 0, 2)[:, ::-1]
    info = probe_video(tmp_path / name)
    assert info.alpha.transparent
    (frame,) = read_frames(tmp_path / name, info, 0, 1, alpha=True)
    assert frame.alpha is not None
    assert (np.dstack([frame.rgb, frame.alpha]) == wanted).all()


def test_colours_that_are_multiplied_by_alpha_are_divided(tmp_path: Path) -> None:
    """By the mark of a TIFF; what nobody marks is taken as straight."""
    path = premultiplied(tmp_path / "deep.tif")
    (frame,) = read_frames(path, probe_video(path), 0, 1, deep=True, alpha=True)
    wanted = deep_pixels()
    assert (frame.alpha == wanted[..., 3]).all()
    seen = wanted[..., 3] > 20000
    assert np.abs(frame.rgb[seen].astype(int) - wanted[seen][:, :3]).max() <= 4


def test_an_opaque_alpha_says_nothing(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[..., 3] = 255
    job = made_of(saved(tmp_path / "a.png", pixels), tmp_path / "job", "keep")
    assert job.plan.encoder.pix_fmt == "rgb24"
    assert not job.notes


def test_a_picture_on_white(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.png")
    with pytest.raises(PlanError, match="codec h264 cannot hold alpha"):
        made_of(source, tmp_path / "refused", codec="h264")
    job = made_of(source, tmp_path / "job", "flatten:#ffffff", codec="h264")
    with av.open(str(job.output)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture[0, 0].min() >= 253
    middle = picture[HEIGHT // 2, 24].astype(int)
    assert np.abs(middle - PIXELS[HEIGHT // 2, 24, :3]).max() < 40
