"""Clips that the ffmpeg binary makes, the shared ones where there are any, and an oracle.

The oracle is an ffmpeg process: which frames a file presents, when, and what they look like.
"""

import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from av.codec.context import Flags as CodecFlags
from av.video.frame import VideoFrame

from seedvr2_core.frames import Frame
from seedvr2_core.video import reader
from seedvr2_core.video.info import EncoderSettings, VideoInfo
from seedvr2_core.video.join import JoinPart
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.writer import SegmentWriter

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SEEDVR2_SHARED", ROOT.parent / "shared")) / "clips"

_PICTURE = ["-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=2"]
_TONE = ["-f", "lavfi", "-i", "sine=f=440:d=2"]
_X264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "12"]
_OPEN_GOP = ["-c:v", "libx264", "-x264-params", "open-gop=1:keyint=10:bframes=3:scenecut=0"]
_COPY = ["-c", "copy"]

RECIPES: dict[str, list[str]] = {
    "plain.mp4": [*_PICTURE, *_TONE, *_X264, "-c:a", "aac", "-metadata:s:a:0", "language=fra"],
    "open_gop.mp4": [*_PICTURE, *_OPEN_GOP],
    "ntsc.mp4": ["-f", "lavfi", "-i", "testsrc2=s=128x96:r=30000/1001:d=2", *_X264],
    "vfr.mp4": [
        *_PICTURE,
        *["-vf", r"select='not(between(mod(n\,20)\,5\,11))'", "-fps_mode", "vfr"],
        *_X264,
    ],
    "vfr.mkv": ["-i", "{vfr.mp4}", *_COPY],
    "late_video.mp4": [*_TONE, "-itsoffset", "0.73", *_PICTURE, *_X264, "-c:a", "aac"],
    "late_video.mkv": ["-i", "{late_video.mp4}", *_COPY],
    "late_audio.mp4": [*_PICTURE, "-itsoffset", "0.4", *_TONE, *_X264, "-c:a", "aac"],
    "edit_list.mp4": ["-ss", "0.9", "-i", "{open_gop.mp4}", *_COPY],
    "edit_list_audio.mp4": ["-ss", "0.9", "-i", "{plain.mp4}", *_COPY],
    "cut_open_gop.mkv": ["-ss", "0.9", "-i", "{open_gop.mp4}", *_COPY],
    "audio_longer.mp4": [*_PICTURE, "-f", "lavfi", "-i", "sine=d=4", *_X264, "-c:a", "aac"],
    "one_frame.mp4": [*_PICTURE, "-frames:v", "1", *_X264],
    "odd_444.mp4": [
        *_PICTURE,
        *["-vf", "crop=127:95:exact=1", "-pix_fmt", "yuv444p", *_X264],
    ],
    "full_range.mp4": [*_PICTURE, "-vf", "scale=out_range=pc,format=yuvj420p", *_X264],
    "stream.ts": [*_PICTURE, *_TONE, *_X264, "-c:a", "aac"],
    "interlaced.ts": [*_PICTURE, *_X264, "-flags", "+ilme+ildct", "-x264-params", "tff=1"],
    "mpeg2.mpg": [*_PICTURE, "-c:v", "mpeg2video", "-bf", "2"],
    "vp8.webm": [*_PICTURE, "-c:v", "libvpx", "-b:v", "200k", "-deadline", "realtime"],
    "alpha.webm": [*_PICTURE, "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-cpu-used", "8"],
    "plain.gif": [*_PICTURE],
    "b_frames.avi": [*_PICTURE, *_X264],
    "mpeg4.avi": [*_PICTURE, "-c:v", "mpeg4"],
    "b_frames.asf": [*_PICTURE, *_X264],
    "ten_bits.mov": [*_PICTURE, *_X264, "-pix_fmt", "yuv420p10le"],
    "rotated_90.mp4": ["-display_rotation", "90", "-i", "{open_gop.mp4}", *_COPY],
    "rotated_180.mp4": ["-display_rotation", "180", "-i", "{open_gop.mp4}", *_COPY],
    "rotated_270.mp4": ["-display_rotation", "270", "-i", "{open_gop.mp4}", *_COPY],
    "pcm.mkv": [*_PICTURE, *_TONE, *_X264, "-c:a", "pcm_s16le"],
    "vorbis.mkv": [*_PICTURE, *_TONE, *_X264, "-c:a", "libvorbis"],
    "opus.mkv": [*_PICTURE, *_TONE, *_X264, "-c:a", "libopus"],
    "hdr.mp4": [*_PICTURE, *_X264, "-vf", "setparams=color_trc=smpte2084"],
    "wide_gamut.mp4": [*_PICTURE, *_X264, "-vf", "setparams=color_primaries=bt2020"],
    "audio_only.mp4": [*_TONE, "-c:a", "aac"],
    "cover.m4a": [
        *[*_TONE, *_PICTURE, "-frames:v", "1", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
        *["-disposition:v", "attached_pic"],
    ],
    "fast_start.mp4": ["-i", "{plain.mp4}", *_COPY, "-movflags", "+faststart"],
}

SYNTHETIC = [
    *["plain.mp4", "open_gop.mp4", "ntsc.mp4", "vfr.mp4", "vfr.mkv", "late_video.mp4"],
    *["late_video.mkv", "edit_list.mp4", "cut_open_gop.mkv", "audio_longer.mp4", "one_frame.mp4"],
    *["odd_444.mp4", "full_range.mp4", "stream.ts", "interlaced.ts", "mpeg2.mpg", "vp8.webm"],
    *["alpha.webm", "plain.gif", "b_frames.avi", "mpeg4.avi", "b_frames.asf", "ten_bits.mov"],
    *["rotated_90.mp4", "rotated_180.mp4", "rotated_270.mp4"],
]
"""Clips that are videos this system takes."""

SHARED_CLIPS = [
    *["bunny_1280x720_25.mp4", "carphone_176x144_2997_sar.mp4", "coffee_1280x720_2997.mp4"],
    *["eyes_212x120_25.mp4", "flower_960x540_2997.mp4", "friday_640x480_30.mp4"],
    *["nasa_320x180_25_2audio.mp4", "sign_640x480_30_fullrange.mkv", "walkers_384x288_25.mp4"],
    *["edge/bt601_full_range.mp4", "edge/bt601_limited_range.mp4", "edge/failing_audio.mp4"],
    *["edge/discard_first_keyframe.mp4", "edge/nasa_13013_rotated.mp4", "edge/no_duration.webm"],
    *["edge/test_non_zero_start.mp4", "edge/testsrc2_odd_height_444.mp4"],
]
ALL_CLIPS = [*SYNTHETIC, *SHARED_CLIPS]


def ffmpeg(*args: str | Path) -> bytes:
    """Run ffmpeg quietly; returns its stdout."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, args)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def shown_times(path: Path, index: int) -> list[Fraction]:
    """Presentation times (seconds, the container's own counting) of the frames ffmpeg shows."""
    text = ffmpeg(
        *["-copyts", "-i", path, "-map", f"0:{index}", "-fps_mode", "passthrough"],
        *["-enc_time_base", "demux", "-vf", "scale=16:16", "-f", "framehash", "-"],
    ).decode()
    lines = text.splitlines()
    base = next(Fraction(line.split()[-1]) for line in lines if line.startswith("#tb 0"))
    return [int(line.split(",")[2]) * base for line in lines if not line.startswith("#")]


_MATRIX_NAMES = {1: "bt709", 5: "bt601", 6: "bt601"}


def shown_pictures(path: Path, info: VideoInfo, count: int) -> np.ndarray:
    """The first `count` frames as ffmpeg shows them: (T, H, W, 3) uint8, upright."""
    width, height = info.upright_size
    matrix = _MATRIX_NAMES[info.color.matrix]
    levels = "pc" if info.color.full_range else "tv"
    # VP8 and VP9 do not say where their chroma lies; the others here lie left.
    siting = "" if info.codec in ("vp8", "vp9") else "in_chroma_loc=left:"
    flags = "bilinear+full_chroma_int+accurate_rnd"
    tags = (
        ""
        if "rgb" in info.pix_fmt or "bgr" in info.pix_fmt
        else (f"in_color_matrix={matrix}:in_range={levels}:{siting}interl=-1:")
    )
    raw = ffmpeg(
        *["-i", path, "-map", f"0:{info.stream_index}", "-fps_mode", "passthrough"],
        *["-frames:v", str(count), "-vf", f"scale={tags}out_range=pc:flags={flags},format=rgb24"],
        *["-f", "rawvideo", "-"],
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def settings_for(info: VideoInfo, **changes: object) -> EncoderSettings:
    """Encoder settings at the source's own size (made even)."""
    width, height = (side - side % 2 for side in info.upright_size)
    values: dict[str, object] = {
        "codec": "h264",
        "preset": "veryfast",
        "crf": 18,
        "pix_fmt": "yuv420p",
        "width": width,
        "height": height,
        "time_base": info.time_base,
        "rate": info.nominal_rate,
        "keyint": 250,
        "threads": 8,
        "color": info.color,
    }
    return EncoderSettings(**{**values, **changes})  # type: ignore[arg-type]


def encode_parts(
    path: Path,
    info: VideoInfo,
    settings: EncoderSettings,
    bounds: Sequence[int],
    folder: Path,
) -> list[JoinPart]:
    """Encode frames [0, bounds[-1]) as segments that end at the bounds."""
    parts: list[JoinPart] = []
    for start, stop in zip([0, *bounds], bounds, strict=False):
        part = folder / f"{start}-{stop}.mp4.part"
        with SegmentWriter(part, settings, info.pts[start]) as writer:
            for frame in read_frames(path, info, start, stop):
                rgb = frame.rgb[: settings.height, : settings.width]
                writer.write(Frame(rgb=rgb, pts=frame.pts, index=frame.index))
        parts.append(JoinPart(path=part, first_pts=info.pts[start], num_frames=stop - start))
    return parts


ENDLESS_SIDE = 16
"""Width and height of the picture of `write_endless`."""
_UNITY = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SEI = 6


def write_endless(path: Path, *, num_chunks: int, per_chunk: int = 560, rate: int = 25) -> int:
    """Write a small mp4 that orders endless work; returns how many frames it orders.

    The index of an mp4 has runs ("so many samples of 12 bytes, one tick each"), and chunks of
    samples may lie over each other: here all of them do.

    Args:
        path: where.
        num_chunks: each takes 4 bytes of the file.
        per_chunk: samples of a chunk; all chunks are the same bytes.
        rate: frames per second.
    """
    sample, config = _picture()
    count = num_chunks * per_chunk
    head = _box(b"ftyp", b"isom", bytes(4), b"isomavc1")
    data = _box(b"mdat", sample * per_chunk)
    offset = len(head) + 8
    entry = _box(
        b"avc1",
        struct.pack(
            ">6xH16xHHIIIH32sHh", 1, *(ENDLESS_SIDE,) * 2, *(72 << 16,) * 2, 0, 1, b"", 24, -1
        ),
        _box(b"avcC", config),
    )
    stbl = _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), entry),
        _full(b"stts", 0, struct.pack(">III", 1, count, 1)),
        _full(b"stsc", 0, struct.pack(">IIII", 1, 1, per_chunk, 1)),
        _full(b"stsz", 0, struct.pack(">II", len(sample), count)),
        _full(b"stco", 0, struct.pack(">I", num_chunks), struct.pack(">I", offset) * num_chunks),
    )
    handler = _full(b"hdlr", 0, struct.pack(">I4s12xx", 0, b"vide"))
    url = _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))
    minf = _box(b"minf", _full(b"vmhd", 1, bytes(8)), _box(b"dinf", url), stbl)
    mdhd = _full(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, rate, count, 0x55C4, 0))
    tkhd = _full(
        b"tkhd",
        3,
        struct.pack(">IIIII8xhhhH", 0, 0, 1, 0, count, 0, 0, 0, 0),
        _UNITY,
        struct.pack(">II", ENDLESS_SIDE << 16, ENDLESS_SIDE << 16),
    )
    mvhd = _full(
        b"mvhd",
        0,
        struct.pack(">IIIIIH10x", 0, 0, rate, count, 1 << 16, 1 << 8),
        _UNITY,
        struct.pack(">24xI", 2),
    )
    trak = _box(b"trak", tkhd, _box(b"mdia", mdhd, handler, minf))
    path.write_bytes(head + data + _box(b"moov", mvhd, trak))
    return count


def _picture() -> tuple[bytes, bytes]:
    """One grey picture as an H.264 sample of an mp4 (12 bytes), and its avcC."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width = encoder.height = ENDLESS_SIDE
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.options = {"x264-params": "annexb=0:repeat-headers=0"}
    encoder.flags |= CodecFlags.global_header
    grey = np.full((ENDLESS_SIDE * 3 // 2, ENDLESS_SIDE), 128, np.uint8)
    frame = av.VideoFrame.from_ndarray(grey, "yuv420p")
    frame.pts = 0
    (packet,) = [*encoder.encode(frame), *encoder.encode(None)]
    units, sample = bytes(packet), b""
    while units:  # x264 begins with a long message about itself
        size = 4 + int.from_bytes(units[:4], "big")
        sample += units[:size] if units[4] & 31 != _SEI else b""
        units = units[size:]
    return sample, bytes(encoder.extradata or b"")


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), name) + body


def _full(name: bytes, flags: int, *content: bytes) -> bytes:
    """A box with version 0 and flags."""
    return _box(name, struct.pack(">I", flags), *content)


class DecodedPictures:
    """How many pictures the reader has decoded, in all and without a beat in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count all pictures that are decoded from now on."""
        self.count = self.longest_silence = self._silent = 0
        decode = reader.decode_pictures

        def counted(*args: Any, **more: Any) -> Iterator[VideoFrame]:
            for picture in decode(*args, **more):
                self.count += 1
                self._silent += 1
                self.longest_silence = max(self.longest_silence, self._silent)
                yield picture

        monkeypatch.setattr(reader, "decode_pictures", counted)

    def beat(self, phase: str, done: int, total: int) -> None:
        """A sign of life."""
        assert phase
        assert 0 <= done <= total
        self._silent = 0
