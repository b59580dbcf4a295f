"""Files that are no videos: what arrives is looked at by the demuxers of real containers only.

The first tests call the very function that the probe's child runs; the last ones the real task.
"""

import base64
import io
import os
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from seedvr2_core.errors import (
    InvalidRequestError,
    InvalidVideoError,
    SourceRefusedError,
    UnsupportedFormatError,
)
from seedvr2_core.video.probe import probe_video
from tasks.probe import probe
from tasks.schemas import UpscaleRequest
from tasks.sources.obtain import check_source
from tests.kits.http.intake import Canary, HostileServer, answer, left_behind, nothing_is_left
from tests.kits.media import write_endless
from tests.kits.processes import ROOT

pytestmark = pytest.mark.timeout(60)

DEMO_CLIP = ROOT / "deployments" / "demo" / "bunny_320x180.mp4"

NO_VIDEO = "this is not a video in a known container"
PICTURE = "this {} picture cannot be read"
TEXT = "this is text, not a video"
CUT = "moov.* is missing or broken|no frames|no video stream|can be decoded"


def hls(port: int) -> bytes:
    return (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n"
        "#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    ).encode()


def dash(port: int) -> bytes:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        f"<Period><BaseURL>http://127.0.0.1:{port}/</BaseURL><AdaptationSet><Representation>"
        "</Representation></AdaptationSet></Period></MPD>"
    ).encode()


def sdp(port: int) -> bytes:
    return (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    ).encode()


def png(width: int = 4, height: int = 4) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(min(height, 64))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def packed(kind: str) -> bytes:
    """A video in an archive."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            archive.write(DEMO_CLIP, "clip.mp4")
    else:
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.add(DEMO_CLIP, "clip.mp4")
    return out.getvalue()


def sound(container_format: str, codec: str) -> bytes:
    """A second of silence."""
    out = io.BytesIO()
    with av.open(out, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=48_000)
        frame = av.AudioFrame(
            format="fltp" if codec == "aac" else "s16", layout="mono", samples=1024
        )
        frame.sample_rate = 48_000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return out.getvalue()


def gif(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    picture = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return screen + picture * 3 + b";"


def yuv4mpeg(width: int, height: int) -> bytes:
    return f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420\n".encode() + b"FRAME\n" + bytes(500)


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I", len(data) + 8) + kind + data


def demo(change: Callable[[bytes], bytes]) -> bytes:
    return change(DEMO_CLIP.read_bytes())


FILES: dict[str, tuple[Callable[[int], bytes], str]] = {
    "text": (lambda port: b"These are my notes.\nThere is no video.\n" * 20, TEXT),
    "json": (lambda port: b'{"error": "expired", "code": 403}', TEXT),
    "html-as-mp4": (lambda port: b"<!doctype html><html><body>sign in</body></html>", TEXT),
    "shell-script": (lambda port: b"#!/bin/sh\nrm -rf /\n", TEXT),
    "svg": (lambda port: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="x"/></svg>', TEXT),
    "subtitles": (lambda port: b"1\n00:00:00,000 --> 00:00:01,000\nhello\n", TEXT),
    "hls": (hls, "HLS playlist"),
    "hls-after-blank-lines": (lambda port: b"\n\n" + hls(port), "HLS playlist"),
    "hls-with-mark": (lambda port: b"\xef\xbb\xbf" + hls(port), "HLS playlist"),
    "hls-behind-a-video": (lambda port: box(b"ftyp", b"isom") + hls(port), CUT),
    "dash": (dash, TEXT),
    "smooth-streaming": (lambda port: b'<SmoothStreamingMedia MajorVersion="2"/>', TEXT),
    "sdp": (sdp, TEXT),
    "asx": (
        lambda port: f'<asx><entry><ref href="http://127.0.0.1:{port}/"/></entry></asx>'.encode(),
        TEXT,
    ),
    "rtsp-text": (lambda port: f"RTSPtext\nrtsp://127.0.0.1:{port}/\n".encode(), TEXT),
    "playlist-pls": (
        lambda port: f"[playlist]\nFile1=http://127.0.0.1:{port}/\n".encode(),
        TEXT,
    ),
    "ffconcat": (lambda port: b"ffconcat version 1.0\nfile '/etc/passwd'\n", "concat script"),
    "ffconcat-url": (
        lambda port: f"ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/'\n".encode(),
        "concat script",
    ),
    "ffmetadata": (lambda port: b";FFMETADATA1\ntitle=x\n[CHAPTER]\n", TEXT),
    "image-list": (lambda port: b"img%03d.png\nimg001.png\n", TEXT),
    "png-cut": (lambda port: png()[:44], PICTURE.format("PNG")),
    "png-huge": (lambda port: png(60_000, 60_000), "3600000000 pixels"),
    "jpeg": (lambda port: b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(300), PICTURE.format("JPEG")),
    "webp": (lambda port: b"RIFF\x40\x00\x00\x00WEBPVP8 " + bytes(64), PICTURE.format("WEBP")),
    "bmp": (lambda port: b"BM" + bytes(300), "this is a BMP picture"),
    "zip": (lambda port: packed("zip"), "this zip holds no picture"),
    "tar": (lambda port: packed("tar"), NO_VIDEO + "|" + CUT),
    "gzip": (lambda port: b"\x1f\x8b\x08" + bytes(range(256)) * 4, NO_VIDEO),
    "pdf": (lambda port: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n" + bytes(300), NO_VIDEO),
    "program": (lambda port: b"\x7fELF\x02\x01\x01" + bytes(1000), NO_VIDEO),
    "database": (lambda port: b"SQLite format 3\0" + bytes(1000), NO_VIDEO),
    "zeros": (lambda port: bytes(100_000), NO_VIDEO),
    "one-byte": (lambda port: b"x", NO_VIDEO + "|" + TEXT),
    "noise": (lambda port: bytes(range(256)) * 40, NO_VIDEO),
    "wave": (lambda port: sound("wav", "pcm_s16le"), NO_VIDEO),
    "mp3-tag": (lambda port: b"ID3\x04" + bytes(500), NO_VIDEO),
    "sound-only-mp4": (lambda port: sound("mp4", "aac"), "no video stream"),
    "sound-only-matroska": (lambda port: sound("matroska", "pcm_s16le"), "no video stream"),
    "only-ftyp": (lambda port: box(b"ftyp", b"isom\0\0\0\0isom"), CUT),
    "cut-in-the-index": (lambda port: demo(lambda clip: clip[:1500]), CUT),
    "no-index": (lambda port: demo(lambda clip: clip.replace(b"moov", b"xxxx")), CUT),
    "no-frames": (lambda port: demo(lambda clip: clip.replace(b"stsz", b"free")), CUT),
    "media-zeroed": (lambda port: demo(zeroed), "none of the video's frames can be decoded"),
    "endless-box": (lambda port: struct.pack(">I", 1) + b"moov" + b"\xff" * 8 + bytes(64), CUT),
    "matroska-head": (
        lambda port: b"\x1a\x45\xdf\xa3" + bytes(64),
        "headers are incomplete|no video",
    ),
    "gif-huge": (lambda port: gif(65_535, 65_535), "pixels|can be decoded"),
    "raw-huge": (lambda port: yuv4mpeg(16_000, 16_000), "pixels"),
    "raw-absurd": (lambda port: yuv4mpeg(1_000_000, 1_000_000), "pixels|not a video|no video"),
    "raw-one-frame-cut": (lambda port: yuv4mpeg(64, 64), "no frames|can be decoded"),
}


def zeroed(clip: bytes) -> bytes:
    """The demo clip with its index and without its media."""
    start = clip.index(b"mdat") + 4
    size = struct.unpack(">I", clip[start - 8 : start - 4])[0] - 8
    return clip[:start] + bytes(size) + clip[start + size :]


@pytest.mark.parametrize("name", FILES)
def test_downloads_that_are_no_video(
    server: HostileServer, trusting, obtained, canary: Canary, name: str
) -> None:
    make, words = FILES[name]
    sent = answer(body=make(canary.port), Content_Type="video/mp4")
    source = obtained(trusting, video_url=server.play("/clip.mp4", sent))
    with pytest.raises(InvalidVideoError, match=words) as caught:
        probe_video(source.path)
    assert "root:" not in str(caught.value)


def test_media_that_lies_elsewhere(tmp_path: Path, canary: Canary) -> None:
    """A data reference to another file or server is not followed."""
    clip = DEMO_CLIP.read_bytes()
    own = box(b"url ", b"\0\0\0\x01")
    assert clip.count(own) >= 1
    path = tmp_path / "reference.mov"
    path.write_bytes(clip.replace(own, box(b"url ", b"\0\0\0\0")))
    with av.open(str(path)) as container:
        assert container.streams.video
    probe_video(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("img%03d.png", png(), id="image-pattern"),
        pytest.param("img*.png", png(), id="image-glob"),
        pytest.param("http:127.0.0.1", hls(9), id="looks-like-a-url"),
        pytest.param("concat:a|b", b"ffconcat version 1.0\nfile '/etc/passwd'\n", id="concat"),
        pytest.param("pipe:0", png(), id="pipe"),
        pytest.param("clip.m3u8", hls(9), id="playlist"),
        pytest.param("clip.sdp", sdp(9), id="session"),
        pytest.param("clip.mpd", dash(9), id="manifest"),
        pytest.param("-i", png(), id="option"),
    ],
)
def test_names_with_a_meaning(settings_with, obtained, tmp_path, canary, name, content) -> None:
    settings = settings_with(allow_local_files=True)
    path = tmp_path / name
    path.write_bytes(content)
    source = obtained(settings, video_path=str(path))
    if content == png():  # a picture of its own, and no others are looked for
        assert probe_video(source.path).num_frames == 1
        return
    with pytest.raises(InvalidVideoError):
        probe_video(source.path)


def a_device(path: Path) -> Path:
    return Path("/dev/zero")


def a_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    return path


def linked(target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.symlink_to(target)
        return path

    return make


def made(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    def at(path: Path) -> Path:
        make(path)
        return path

    return at


REFUSED, INVALID = SourceRefusedError, InvalidVideoError


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        pytest.param(made(lambda path: None), REFUSED, "does not exist", id="missing"),
        pytest.param(made(Path.mkdir), InvalidRequestError, "is a folder", id="folder"),
        pytest.param(made(os.mkfifo), REFUSED, "no regular file", id="fifo"),
        pytest.param(a_socket, REFUSED, "no regular file", id="socket"),
        pytest.param(a_device, REFUSED, "no regular file", id="device"),
        pytest.param(made(Path.touch), INVALID, "is empty", id="empty"),
        pytest.param(linked("/dev/zero"), REFUSED, "no regular file", id="link-to-device"),
        pytest.param(linked("/"), InvalidRequestError, "is a folder", id="link-to-folder"),
        pytest.param(linked("nowhere"), REFUSED, "does not exist", id="link-to-nothing"),
        pytest.param(linked("a.mp4"), REFUSED, "cannot be read: ", id="link-to-itself"),
        pytest.param(linked("/proc/self/mem"), INVALID, "is empty", id="link-to-memory"),
        pytest.param(lambda path: path / "b.mp4", REFUSED, "does not exist", id="below-nothing"),
        pytest.param(lambda path: f"{path}\0.mp4", REFUSED, "cannot be read: ", id="nul"),
        pytest.param(lambda path: "a" * 5000, REFUSED, "cannot be read: ", id="endless"),
        pytest.param(lambda path: "../" * 40 + "dev/zero", REFUSED, "no regular", id="dots"),
        pytest.param(lambda path: "file:///etc/passwd", REFUSED, "does not exist", id="url"),
        pytest.param(lambda path: "~/clip.mp4", REFUSED, "does not exist", id="home"),
    ],
)
def test_local_paths(settings_with, refused, tmp_path: Path, make, kind, words: str) -> None:
    settings = settings_with(allow_local_files=True)
    given = str(make(tmp_path / "a.mp4"))
    refused(settings, kind, words, video_path=given)
    with pytest.raises(kind, match=words):
        check_source(UpscaleRequest(video_path=given), settings)
    assert nothing_is_left(settings)


def test_local_paths_are_off_by_default(settings, refused) -> None:
    for path in ("/etc/passwd", str(DEMO_CLIP), "nowhere"):
        refused(settings, InvalidRequestError, "local files are off", video_path=path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("this is no base64", "is not base64", id="text"),
        pytest.param("AAA", "is not base64", id="no-padding"),
        pytest.param("AA=A", "is not base64", id="padding-inside"),
        pytest.param("A" * 7 + "=" * 9, "is not base64", id="much-padding"),
        pytest.param("AAAA" + "\0" * 4, "is not base64", id="nul"),
        pytest.param("_-_-", "is not base64", id="other-alphabet"),
        pytest.param("\u0391" * 4, "is not base64", id="greek"),
        pytest.param("%41%41%41%41", "is not base64", id="percent"),
        pytest.param("=", "is not base64", id="only-padding"),
        pytest.param(" \n ", "is empty", id="blank"),
        pytest.param("data:video/mp4;base64,", "is empty", id="empty-data-url"),
        pytest.param("data:text/html;base64,AAAA", "is not base64", id="data-url-of-a-page"),
        pytest.param("data:video/mp4,AAAA", "is not base64", id="data-url-not-encoded"),
        pytest.param("http://127.0.0.1/a.mp4", "is not base64", id="address"),
        pytest.param("/etc/passwd.", "is not base64", id="path"),
    ],
)
def test_base64_that_is_none(settings, refused, text: str, words: str) -> None:
    refused(settings, InvalidRequestError, words, video_base64=text)
    assert nothing_is_left(settings)


@pytest.mark.parametrize("how", ["address", "base64"])
def test_the_task_refuses_and_keeps_nothing(
    server: HostileServer, trusting, obtained, canary: Canary, how: str
) -> None:
    """The real child; what it refuses is not left among the sources."""
    content = hls(canary.port)
    if how == "address":
        given = {"video_url": server.play("/clip.mp4", answer(body=content, ETag='"1"'))}
    else:
        given = {"video_base64": base64.b64encode(content).decode()}
    source = obtained(trusting, **given)
    with pytest.raises(InvalidVideoError, match="HLS playlist"):
        probe.fn(source, UpscaleRequest.model_validate({**given, "model": "lanczos"}))
    assert left_behind(trusting.work_dir) == []


def test_the_task_leaves_files_of_others_alone(settings_with, obtained, tmp_path: Path) -> None:
    settings = settings_with(allow_local_files=True)
    path = tmp_path / "notes.mp4"
    path.write_text("no video")
    source = obtained(settings, video_path=str(path))
    with pytest.raises(InvalidVideoError, match=TEXT):
        probe.fn(source, UpscaleRequest(video_path=str(path), model="lanczos"))
    assert path.exists()


def test_huge_pictures_have_an_error_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "huge.y4m"
    path.write_bytes(yuv4mpeg(16_000, 16_000))
    with pytest.raises(UnsupportedFormatError, match=r"16000x16000 = \d+ pixels"):
        probe_video(path)


@pytest.mark.parametrize(
    ("num_chunks", "per_chunk"),
    [(1_786, 560), (90_000, 560), (90_000, 16_000)],
    ids=["million", "50 million", "1440 million"],
)
def test_the_task_refuses_an_index_of_millions_in_a_child_that_stays_small(
    server: HostileServer, settings_with, obtained, tmp_path: Path, num_chunks: int, per_chunk: int
) -> None:
    """The bound of memory is far below what libav would take for such an index."""
    settings = settings_with(fetch_allow=(server.host,), fetch_max_bytes=2**21)
    path = tmp_path / "endless.mp4"
    assert write_endless(path, num_chunks=num_chunks, per_chunk=per_chunk) > 10**6
    source = obtained(
        settings, video_url=server.play("/clip.mp4", answer(body=path.read_bytes(), ETag='"1"'))
    )
    with pytest.raises(UnsupportedFormatError, match=r"more than 1000000 frames"):
        probe.fn(source, UpscaleRequest(video_url="http://a.test/", model="lanczos"))
    assert left_behind(settings.work_dir) == []


def test_a_picture_is_a_source_as_a_video_is(server: HostileServer, trusting, obtained) -> None:
    sent = answer(body=png(), Content_Type="image/png")
    source = obtained(trusting, video_url=server.play("/photo.png", sent))
    info = probe_video(source.path)
    assert (info.format_name, info.width, info.num_frames) == ("png", 4, 1)
