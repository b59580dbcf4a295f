"""Files of the kinds that cameras, recorders and editors make: built here, byte by byte if need be.

Each is a member of a kind of fault that was found with a real file.
"""

import contextlib
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import av.error
import numpy as np

from seedvr2_core.video.join import JoinResult, join_segments
from seedvr2_core.video.probe import probe_video
from tests.kits.media import encode_parts, ffmpeg, settings_for

PICTURE = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1"]
X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "12"]
IDENTITY = (1, 0, 0, 1)
"""a, b, c, d of a display matrix."""
_PARENTS = {
    b"moov": 8,
    b"trak": 8,
    b"mdia": 8,
    b"minf": 8,
    b"stbl": 8,
    b"stsd": 16,
}
"""Boxes on the way to a sample entry -> bytes before what they hold."""
_VISUAL_ENTRY_BYTES = 86


def join_whole(path: Path, folder: Path) -> tuple[JoinResult, Path]:
    """A job of a short clip at its own size; returns the notes and the output."""
    info = probe_video(path)
    settings = settings_for(info, preset="ultrafast")
    parts = encode_parts(path, info, settings, [info.num_frames], folder)
    output = folder / "out.mp4"
    return join_segments(parts, path, info, settings, output, metadata={}), output


def sound_frames(path: Path, index: int) -> list[tuple[int, str, int]]:
    """(rate, layout, samples) of every frame of an audio stream that can be decoded."""
    found: list[tuple[int, str, int]] = []
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.audio[index]):
            with contextlib.suppress(av.error.FFmpegError):
                found += [(f.sample_rate, f.layout.name, f.samples) for f in packet.decode()]
    return found


def sound_seconds(path: Path, index: int = 0) -> float:
    """How long an audio stream is when it is decoded."""
    return sum(samples / rate for rate, _, samples in sound_frames(path, index))


def video_and(path: Path, *sounds: Sequence[str | Path]) -> Path:
    """A clip of one second with audio streams: each is given as its input, then its encoder."""
    inputs = [arg for sound in sounds for arg in sound[: sound.index("-c:a")]]
    codecs = []
    for k, sound in enumerate(sounds):
        codecs += [f"-c:a:{k}", *sound[sound.index("-c:a") + 1 :]]
    maps = [arg for k in range(len(sounds) + 1) for arg in ("-map", f"{k}")]
    ffmpeg(*PICTURE, *inputs, *maps, *X264, *codecs, path)
    return path


def one_behind_the_other(path: Path, *parts: Sequence[str]) -> Path:
    """A transport stream whose sound changes: each part is (options of the tone, encoder...)."""
    content = b""
    for k, (tone, *encoder) in enumerate(parts):
        part = path.with_suffix(f".{k}.ts")
        tones = ["-f", "lavfi", "-i", f"sine=d=1:{tone}"]
        ffmpeg(*PICTURE, *tones, *X264, *encoder, "-output_ts_offset", f"{k * 1.1}", part)
        content += part.read_bytes()
    path.write_bytes(content)
    return path


def overwrite_packets(
    source: Path, path: Path, index: int, chosen: Callable[[int], bool], content: bytes = b"\xff"
) -> Path:
    """A copy whose packets of one stream, chosen by their number, are overwritten."""
    copy = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [bytes(p) for p in container.demux(container.streams[index]) if p.size]
    place = spoilt = 0
    for number, packet in enumerate(packets):
        found = copy.find(packet[:12], place)
        if found < 0:  # torn: a packet of the container ends in it
            continue
        place = found + 12
        if chosen(number):
            copy[found:place] = (content * 12)[:12]
            spoilt += 1
    assert spoilt
    path.write_bytes(copy)
    return path


def with_matrix(source: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A copy of an mp4 whose first track has a display matrix."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def with_box(source: Path, path: Path, box: bytes, *, entry: bytes | None = None) -> Path:
    """A copy of an mp4, index last, with one more box in the sample entry of its first track.

    Args:
        source: an mp4.
        path: of the copy.
        box: kind and content.
        entry: another kind for the sample entry.
    """
    content = bytearray(source.read_bytes())
    more = 4 + len(box)
    start = parents_grown(content, more)
    if entry is not None:
        content[start + 4 : start + 8] = entry
    place = start + _VISUAL_ENTRY_BYTES
    content[place:place] = more.to_bytes(4) + box
    path.write_bytes(content)
    return path


def parents_grown(content: bytearray, more: int) -> int:
    """Let the boxes around the first track's sample entry, and that itself, be larger by so much.

    Returns:
        Where the sample entry begins.
    """
    start = 0
    for parent, head in _PARENTS.items():
        at = content.index(parent, start) - 4
        size = int.from_bytes(content[at : at + 4])
        content[at : at + 4] = (size + more).to_bytes(4)
        start = at + head
    size = int.from_bytes(content[start : start + 4])
    content[start : start + 4] = (size + more).to_bytes(4)
    return start


def clean_aperture(width: int, height: int, right: int = 0, down: int = 0) -> bytes:
    """A `clap` box: what is shown, and how far its middle lies from the picture's (in halves)."""
    return b"clap" + struct.pack(">IIIIiIiI", width, 1, height, 1, right, 2, down, 2)


def exif_orientation(source: Path, path: Path, orientation: int) -> Path:
    """A copy of an AVI of JPEG pictures, all of them with EXIF that tells their orientation."""
    tag = struct.pack("<HHII", 0x0112, 3, 1, orientation)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif
    pictures: list[bytes] = []
    with av.open(str(source)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                jpeg = bytes(packet)
                pictures.append(jpeg[:2] + segment + jpeg[2:])
    folder = path.with_suffix("")
    folder.mkdir()
    for number, jpeg in enumerate(pictures):
        (folder / f"{number:03}.jpg").write_bytes(jpeg)
    ffmpeg("-framerate", "25", "-i", folder / "%03d.jpg", "-c", "copy", path)
    return path


def as_ffmpeg_shows(path: Path, width: int, height: int, count: int = 3) -> np.ndarray:
    """The first frames as ffmpeg shows them, turned, cropped and scaled: (T, H, W, 3) uint8."""
    raw = ffmpeg(
        *["-i", path, "-map", "0:v:0", "-frames:v", str(count), "-fps_mode", "passthrough"],
        *["-vf", f"scale={width}:{height}:flags=bilinear+full_chroma_int+accurate_rnd"],
        *["-pix_fmt", "rgb24", "-f", "rawvideo", "-"],
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


_SEI = bytes([39 << 1, 1])
"""The header of an HEVC unit with words about the picture behind it."""
_FIRST_WORDS = 32
"""Kinds of HEVC units below it are pictures."""


def with_hdr10_plus(source: Path, path: Path) -> Path:
    """A copy of an mp4 of HEVC whose pictures each have metadata of HDR10+ (SMPTE ST 2094-40)."""
    fields = [(1, 8), (1, 2), (1000, 27), (0, 1), (900, 17), (800, 17), (700, 17), (500, 17)]
    fields += [(1, 4), (99, 7), (650, 17), (3, 10), (0, 1), (0, 1), (0, 1)]
    bits = "".join(f"{value:0{length}b}" for value, length in fields)
    bits += "0" * (-len(bits) % 8)
    payload = bytes.fromhex("b5003c000104") + int(bits, 2).to_bytes(len(bits) // 8)
    unit = _SEI + unlike_a_start(bytes([4, len(payload)]) + payload + b"\x80")
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        new.streams.video[0].codec_context.codec_tag = "hvc1"
        for packet in old.demux():
            if not packet.size:
                continue
            copy = packet
            if packet.stream.type == "video":
                copy = av.Packet(_before_the_picture(bytes(packet), unit))
                copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
            copy.stream = streams[packet.stream_index]
            new.mux(copy)
    return path


def unlike_a_start(content: bytes) -> bytes:
    """A unit's content as HEVC writes it: behind two zeros comes a 3, where a small byte would."""
    out = bytearray()
    for byte in content:
        if out[-2:] == b"\0\0" and byte <= 3:
            out.append(3)
        out.append(byte)
    return bytes(out)


def _before_the_picture(content: bytes, unit: bytes) -> bytes:
    """A packet of units, each behind its length of four bytes, with one more before the picture."""
    at = 0
    while content[at + 4] >> 1 & 63 >= _FIRST_WORDS:
        at += 4 + int.from_bytes(content[at : at + 4])
    return content[:at] + len(unit).to_bytes(4) + unit + content[at:]
