"""EXR pictures: linear light comes out with sRGB's transfer, and what cannot be shown is said."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.video.picture.exr import to_bt709
from seedvr2_core.video.probe import displayed_size, probe_video, sniff_video
from seedvr2_core.video.reader import read_frames
from tests.kits.media import ffmpeg

HEIGHT, WIDTH = 36, 50
ACES = (0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.077, 0.32168, 0.33767)
"""AP0 of SMPTE ST 2065-1."""


def light(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).random((HEIGHT, WIDTH, channels), np.float32)


def written(path: Path, linear: np.ndarray, **options: str) -> Path:
    """By libav, whose pictures of floats are green, blue, red and alpha."""
    pix_fmt = {1: "grayf32le", 3: "gbrpf32le", 4: "gbrapf32le"}[linear.shape[2]]
    frame = VideoFrame(linear.shape[1], linear.shape[0], pix_fmt)
    order = [0] if linear.shape[2] == 1 else [1, 2, 0, 3]
    for plane, index in zip(frame.planes, order, strict=False):
        rows = np.zeros((plane.height, plane.line_size // 4), np.float32)
        rows[:, : plane.width] = linear[:, :, index]
        plane.update(rows.tobytes())
    frame.pts, frame.time_base = 0, Fraction(1)
    with av.open(str(path), "w", format="image2") as output:
        stream = output.add_stream("exr", 1, options=options)
        stream.width, stream.height = frame.width, frame.height
        stream.pix_fmt = pix_fmt
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def srgb(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, in double precision."""
    light = np.clip(linear.astype(np.float64), 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 65535


def read(path: Path) -> np.ndarray:
    sniff_video(path)
    (frame,) = read_frames(path, probe_video(path), 0, 1, deep=True)
    assert displayed_size(path) == (frame.rgb.shape[1], frame.rgb.shape[0])
    return frame.rgb.astype(np.float64)


@pytest.mark.parametrize("compression", ["none", "rle", "zip1", "zip16"])
@pytest.mark.parametrize("kind", ["half", "float"])
def test_linear_light_gets_the_transfer_of_srgb(
    tmp_path: Path, compression: str, kind: str
) -> None:
    linear = light().astype(np.float16 if kind == "half" else np.float32)
    path = written(tmp_path / "a.exr", linear, compression=compression, format=kind)
    assert np.abs(read(path) - srgb(linear)).max() <= 1
    info = probe_video(path)
    assert (info.format_name, info.codec, info.is_picture, info.bit_depth) == (
        *("exr", "exr"),
        True,
        16,
    )
    assert (info.color.primaries, info.color.transfer) == (1, 13)
    (told,) = info.warnings
    assert "transfer of sRGB" in told


@pytest.mark.parametrize("compression", ["none", "rle", "zip1", "zip16"])
@pytest.mark.parametrize("kind", ["half", "float"])
@pytest.mark.parametrize("channels", [3, 4], ids=["RGB", "RGBA"])
def test_what_an_ffmpeg_process_writes_is_read(
    tmp_path: Path, compression: str, kind: str, channels: int
) -> None:
    """Another version of FFmpeg than the one that reads; the values are those that a half has."""
    linear = light(channels).astype(np.float16).astype(np.float32)
    raw, path = tmp_path / "a.raw", tmp_path / "a.exr"
    raw.write_bytes(linear.transpose(2, 0, 1)[[1, 2, 0, 3][:channels]].tobytes())
    pix_fmt = {3: "gbrpf32le", 4: "gbrapf32le"}[channels]
    ffmpeg(
        *["-f", "rawvideo", "-pix_fmt", pix_fmt, "-s", f"{WIDTH}x{HEIGHT}", "-i", raw],
        *["-c:v", "exr", "-compression", compression, "-format", kind, path],
    )
    (frame,) = read_frames(path, probe_video(path), 0, 1, deep=True, alpha=channels == 4)
    if channels == 3:
        assert np.abs(frame.rgb - srgb(linear)).max() <= 1
        return
    assert frame.alpha is not None
    assert np.abs(frame.alpha - linear[:, :, 3] * 65535).max() <= 1
    # FFmpeg 9 takes what it is given for straight and multiplies it, as an EXR has it.
    most = 64 if kind == "half" else 1
    seen = linear[:, :, 3] > 0
    assert np.abs(frame.rgb - srgb(linear[:, :, :3]))[seen].max() <= most


def test_one_channel_is_grey(tmp_path: Path) -> None:
    linear = light(1)
    path = written(tmp_path / "a.exr", linear, format="float")
    assert np.abs(read(path) - srgb(linear.repeat(3, axis=2))).max() <= 1


def test_what_does_not_fit_is_clipped_and_said(tmp_path: Path) -> None:
    linear = light()
    linear[0, :4, 0] = [2.5, -0.25, np.nan, np.inf]
    path = written(tmp_path / "a.exr", linear, format="float")
    assert read(path)[0, :4, 0].tolist() == [65535, 0, 0, 65535]
    told = probe_video(path).warnings[-1]
    assert f"{4 / linear.size:.2%} of the picture's samples" in told


def test_alpha_is_kept_and_colours_are_divided_by_it(tmp_path: Path) -> None:
    linear = light(4)
    linear[:, :, 3] = 1
    opaque = written(tmp_path / "a.exr", linear, format="float")
    assert np.abs(read(opaque) - srgb(linear[:, :, :3])).max() <= 1
    assert not probe_video(opaque).alpha.transparent
    linear[:, :, 3] = np.linspace(0, 1, WIDTH)
    straight = linear[:, :, :3].copy()
    linear[:, :, :3] *= linear[:, :, 3:]
    path = written(tmp_path / "b.exr", linear, format="float")
    sniff_video(path)
    info = probe_video(path)
    assert info.alpha.transparent
    (frame,) = read_frames(path, info, 0, 1, deep=True, alpha=True)
    assert frame.alpha is not None
    assert np.abs(frame.alpha - linear[:, :, 3] * 65535).max() <= 1
    assert np.abs(frame.rgb - srgb(straight))[:, 1:].max() <= 2
    assert not frame.rgb[:, 0].any()


COMPRESSIONS = {"piz": 4, "pxr24": 5, "b44": 6, "b44a": 7, "dwaa": 8, "dwab": 9}
"""OpenEXR's names and numbers; libav writes none of these (exr/make.py)."""
PICTURES = Path(__file__).parent / "exr"


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_other_compressions_are_read_as_openexr_reads_them(name: str) -> None:
    path = PICTURES / f"{name}.exr"
    with np.load(PICTURES / "samples.npz") as samples:
        theirs = samples[name].astype(np.float32)
    content = path.read_bytes()
    at = content.index(b"compression\0compression\0") + 24 + 4
    assert content[at] == COMPRESSIONS[name]
    assert theirs.std() > 0.1
    sniff_video(path)
    most = 64 if name.startswith("dwa") else 2  # libav's DWA rounds otherwise
    assert np.abs(read(path) - srgb(theirs)).max() <= most


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("odd-dwaa", "cannot be read.*it is damaged, cut off or compressed in a rare way"),
        ("alpha-dwaa", "alpha of floats, compressed by DWA.*save it with ZIP or PIZ"),
    ],
)
def test_what_libav_would_spoil_without_a_word_is_refused(name: str, words: str) -> None:
    """OpenEXR reads both; libav goes on with black where it fails, and with noise for alpha."""
    path = PICTURES / f"{name}.exr"
    with pytest.raises((InvalidVideoError, UnsupportedFormatError), match=words):
        probe_video(path)


@pytest.mark.parametrize("compression", ["zip1", "zip16"])
def test_a_damaged_part_is_no_black_part(tmp_path: Path, compression: str) -> None:
    """libav only logs that it cannot unpack some lines, and gives the picture without them."""
    soft = np.repeat(np.linspace(0, 1, 10).astype(np.float16), WIDTH // 10).astype(np.float32)
    linear = np.broadcast_to(soft[None, :, None], (HEIGHT, WIDTH, 3))  # noise is stored as it is
    path = written(tmp_path / "a.exr", linear, compression=compression, format="half")
    assert np.abs(read(path) - srgb(linear)).max() <= 1
    content = bytearray(path.read_bytes())
    middle = len(content) * 3 // 4
    content[middle : middle + 20] = bytes(255 - byte for byte in content[middle : middle + 20])
    path.write_bytes(content)
    with pytest.raises(InvalidVideoError, match="it is damaged"):
        probe_video(path)


def with_attribute(content: bytes, name: bytes, kind: bytes, value: bytes) -> bytes:
    """The attribute put at the header's beginning; the list of blocks is moved along."""
    added = name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value
    end = _header_end(content)
    count = (struct.unpack_from("<Q", content, end)[0] - end) // 8
    places = struct.unpack_from(f"<{count}Q", content, end)
    moved = struct.pack(f"<{count}Q", *(place + len(added) for place in places))
    return content[:8] + added + content[8:end] + moved + content[end + 8 * count :]


def _header_end(content: bytes) -> int:
    at = 8
    while content[at]:
        at = content.index(b"\0", content.index(b"\0", at) + 1) + 1
        at += 4 + struct.unpack_from("<i", content, at)[0]
    return at + 1


def test_other_primaries_are_converted_white_stays_white(tmp_path: Path) -> None:
    """The matrix from ACES is the one that everybody prints (Bradford)."""
    matrix = to_bt709(ACES)
    known = [[2.52169, -1.13413, -0.38756], [-0.27648, 1.37272, -0.09624]]
    known.append([-0.01538, -0.15298, 1.16835])
    assert np.abs(matrix - known).max() < 1e-5
    assert np.abs(matrix.sum(axis=1) - 1).max() < 1e-6
    linear = light() * 0.5 + 0.2
    path = written(tmp_path / "a.exr", linear, format="float")
    value = struct.pack("<8f", *ACES)
    path.write_bytes(with_attribute(path.read_bytes(), b"chromaticities", b"chromaticities", value))
    assert np.abs(read(path) - srgb(linear @ matrix.T)).max() <= 2
    assert "not those of sRGB; converted" in probe_video(path).warnings[-1]


@pytest.mark.parametrize(
    ("flag", "words"), [(0x800, "deep data"), (0x1000, "several parts")], ids=["deep", "parts"]
)
def test_other_kinds_are_refused_by_name(tmp_path: Path, flag: int, words: str) -> None:
    path = written(tmp_path / "a.exr", light())
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<i", struct.unpack_from("<i", content, 4)[0] | flag)
    path.write_bytes(content)
    for look in (sniff_video, probe_video):
        with pytest.raises(UnsupportedFormatError, match=f"a.exr: this EXR has {words}"):
            look(path)


def test_other_channels_are_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path / "a.exr", light())
    content = path.read_bytes()
    path.write_bytes(content.replace(b"B\0", b"Z\0", 1))
    with pytest.raises(UnsupportedFormatError, match=r"no channels R, G and B.*has G, R, Z"):
        sniff_video(path)


@pytest.mark.parametrize("compression", ["none", "zip16"])
@pytest.mark.parametrize("left", [0.999, 0.6, 0.1, 60 / 10_000])
def test_pictures_that_were_cut_off_are_refused(
    tmp_path: Path, compression: str, left: float
) -> None:
    """libav shows the lines that are there, and black below."""
    path = written(tmp_path / "a.exr", light(), compression=compression, format="float")
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    for look in (sniff_video, probe_video):
        with pytest.raises(InvalidVideoError, match=r"a\.exr: .*(cut off|damaged)"):
            look(path)


def test_tiles_are_read(tmp_path: Path) -> None:
    """Nobody here writes them but this test: each tile has its place, its size and its lines."""
    linear, tile = light(), 16
    scanned = written(tmp_path / "a.exr", linear, compression="none", format="float").read_bytes()
    start = scanned[:8].replace(b"\2\0\0\0", b"\2\2\0\0")
    head = start + b"tiles\0tiledesc\0" + struct.pack("<i2IB", 9, tile, tile, 0)
    head += scanned[8 : _header_end(scanned)]
    corners = [(x, y) for y in range(0, HEIGHT, tile) for x in range(0, WIDTH, tile)]
    tiles: list[bytes] = []
    for x, y in corners:
        part = linear[y : y + tile, x : x + tile]
        lines = b"".join(part[row, :, c].tobytes() for row in range(len(part)) for c in (2, 1, 0))
        tiles.append(struct.pack("<5i", x // tile, y // tile, 0, 0, len(lines)) + lines)
    at = [len(head) + 8 * len(tiles) + sum(map(len, tiles[:k])) for k in range(len(tiles))]
    content = head + struct.pack(f"<{len(at)}Q", *at) + b"".join(tiles)
    path = tmp_path / "tiled.exr"
    path.write_bytes(content)
    assert np.abs(read(path) - srgb(linear)).max() <= 1
    path.write_bytes(content[:-1])
    with pytest.raises(InvalidVideoError, match="cut off"):
        sniff_video(path)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.exr", light())
    window = struct.pack("<4i", 0, 0, WIDTH - 1, HEIGHT - 1)
    huge = struct.pack("<4i", 0, 0, 60_000, 60_000)
    path.write_bytes(path.read_bytes().replace(window, huge))

    def decoded(*args: object, **options: object) -> None:
        raise AssertionError("a decoder was asked")

    monkeypatch.setattr(av, "open", decoded)
    with pytest.raises(InvalidVideoError, match="60001x60001"):
        sniff_video(path)
