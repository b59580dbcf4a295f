"""A read that fails is an error, in whatever container and at whatever byte: never a shorter video.

The faults are injected where our reader asks the operating system; tests/apt/test_bad_disk.py does
the same underneath, in the C library.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import av.error
import pytest

from seedvr2_core.errors import FileReadError, SegmentError
from seedvr2_core.files.reading import FileReader
from seedvr2_core.files.writing import FileWriter
from seedvr2_core.video import join
from seedvr2_core.video._container import open_source
from seedvr2_core.video._segments import open_segment
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.join import JoinPart, join_segments
from seedvr2_core.video.output import file as output_file
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.media import encode_parts, settings_for

GetClip = Callable[[str], Path]

CONTAINERS = [
    *["plain.mp4", "fast_start.mp4", "vfr.mkv", "stream.ts", "mpeg2.mpg", "vp8.webm"],
    *["b_frames.avi", "b_frames.asf", "pcm.mkv"],
]


class Reads:
    """Counts the reads of a file and lets one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.fail_at: int | None = None
        self.error = errno.EIO
        self.name = ""
        self.most: int | None = None
        """Most bytes that a read gives."""
        real = FileReader._read

        def read(file: FileReader, size: int) -> bytes:
            if not file.name.endswith(self.name):
                return real(file, size)
            self.count += 1
            if self.count == self.fail_at:
                raise OSError(self.error, os.strerror(self.error))
            return real(file, min(size, self.most or size))

        monkeypatch.setattr(FileReader, "_read", read)

    def of(self, work: Callable[[], object], name: str) -> Iterator[int]:
        """Do the work with every read of a file failing in turn, at most 25 of them."""
        self.name, self.count, self.fail_at = name, 0, None
        work()
        total = self.count
        assert total
        for number in range(1, total + 1, max(1, total // 25)):
            self.count, self.fail_at = 0, number
            yield number
        self.fail_at = None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_read_that_fails_while_probing(clip: GetClip, reads: Reads, name: str) -> None:
    path = clip(name)
    for number in reads.of(lambda: probe_video(path, max_frames=10**6), name):
        reads.error = (errno.EIO, errno.ESTALE)[number % 2]
        with pytest.raises(FileReadError, match=rf"{name}: reading at byte \d+ of"):
            probe_video(path, max_frames=10**6)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_read_that_fails_while_decoding(clip: GetClip, reads: Reads, name: str) -> None:
    path = clip(name)
    info = probe_video(path)
    for _ in reads.of(lambda: list(read_frames(path, info, 20, info.num_frames)), name):
        with pytest.raises(FileReadError):
            list(read_frames(path, info, 20, info.num_frames))


@pytest.mark.parametrize("name", CONTAINERS)
def test_short_reads_change_nothing(clip: GetClip, reads: Reads, name: str) -> None:
    whole = probe_video(clip(name))
    reads.most = 997
    assert probe_video(clip(name)) == whole


class Job:
    """Two segments of a clip with sound, and the file they are joined to."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.info = path, probe_video(path)
        self.settings = settings_for(self.info)
        self.parts: list[JoinPart] = encode_parts(
            path, self.info, self.settings, [20, self.info.num_frames], folder
        )
        self.output = folder / "out.mp4"

    def join(self, info: VideoInfo | None = None) -> None:
        join_segments(
            self.parts, self.path, info or self.info, self.settings, self.output, metadata={}
        )


@pytest.mark.parametrize("name", ["plain.mp4", "stream.ts", "pcm.mkv"])
@pytest.mark.parametrize("whose", ["the source", "a segment"])
def test_a_read_that_fails_while_joining_is_no_reason_to_leave_the_sound_out(
    clip: GetClip, tmp_path: Path, reads: Reads, name: str, whose: str
) -> None:
    job = Job(clip(name), tmp_path)
    wanted = name if whose == "the source" else job.parts[1].path.name
    for _ in reads.of(job.join, wanted):
        job.output.unlink(missing_ok=True)
        with pytest.raises(FileReadError):
            job.join()
        assert not job.output.exists()
    job.join()
    assert probe_video(job.output).streams[0].num_packets


def test_a_source_that_has_lost_packets_since_it_was_probed(clip: GetClip, tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_bytes(clip("stream.ts").read_bytes())
    job = Job(path, tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(FileReadError, match=r"\d+ of \d+ packets of stream 1 \(aac\) could be"):
        job.join()
    assert not job.output.exists()


def test_a_write_that_fails_is_no_reason_to_leave_the_sound_out(
    clip: GetClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(clip("plain.mp4"), tmp_path)

    def fail(writer: FileWriter, content: bytes) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(FileWriter, "write", fail)
    with pytest.raises(SegmentError, match=r"out.mp4 cannot be written: Input/output error"):
        job.join()
    assert not job.output.exists()


# --- large outputs --------------------------------------------------------------------------------


def test_there_is_a_beat_for_every_megabyte_that_is_read_or_written(
    clip: GetClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the time between two beats does not depend on how large a file is."""
    job = Job(clip("plain.mp4"), tmp_path)
    silent, most = 0, 0
    read, write = FileReader._read, FileWriter.write

    def counted_read(file: FileReader, size: int) -> bytes:
        nonlocal silent, most
        piece = read(file, size)
        silent += len(piece)
        most = max(most, silent)
        return piece

    def counted_write(file: FileWriter, content: bytes) -> int:
        nonlocal silent, most
        silent += len(content)
        most = max(most, silent)
        return write(file, content)

    def on_bytes(done: int, total: int) -> None:
        nonlocal silent
        silent = 0

    monkeypatch.setattr(FileReader, "_read", counted_read)
    monkeypatch.setattr(FileWriter, "write", counted_write)
    for moved in (0, 2**28):
        monkeypatch.setattr(output_file, "_MOVED_BYTES", moved)
        silent = most = 0
        join_segments(
            job.parts,
            job.path,
            job.info,
            job.settings,
            job.output,
            metadata={},
            on_bytes=on_bytes,
        )
        assert 0 < most <= 2**20


def boxes(path: Path) -> list[str]:
    """Names of an mp4's top-level boxes."""
    content, names, position = path.read_bytes(), [], 0
    while position < len(content):
        names.append(content[position + 4 : position + 8].decode())
        position += int.from_bytes(content[position : position + 4], "big")
    return names


@pytest.mark.parametrize("name", ["plain.mp4", "pcm.mkv", "nasa_320x180_25_2audio.mp4"])
def test_a_large_output_is_written_once_with_its_index_in_front(
    clip: GetClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    job = Job(clip(name), tmp_path)
    job.join()
    moved, moved_boxes = probe_video(job.output), boxes(job.output)
    assert moved_boxes == ["ftyp", "moov", "free", "mdat"]
    job.output.unlink()
    monkeypatch.setattr(output_file, "_MOVED_BYTES", 0)
    opened: list[str] = []
    real = FileReader.__init__

    def count(file: FileReader, path: Path, **options: object) -> None:
        opened.append(path.name)
        real(file, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FileReader, "__init__", count)
    job.join()
    told = "read by the checks alone: its tracks, its index, its first picture, what it says"
    assert opened.count("out.mp4") == 4, told
    assert boxes(job.output)[:2] == ["ftyp", "moov"]
    reserved = probe_video(job.output)
    assert (reserved.pts, reserved.streams) == (moved.pts, moved.streams)


def test_an_index_that_does_not_fit_is_no_reason_to_leave_the_sound_out(
    clip: GetClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(clip("plain.mp4"), tmp_path)
    job.join()
    usual = job.output.read_bytes()
    monkeypatch.setattr(join, "index_room", lambda info, container, num_bytes: 500)
    job.join()
    assert job.output.read_bytes() == usual


@pytest.mark.parametrize("opened", ["source", "segment"])
def test_a_failed_read_that_a_demuxer_swallows_is_raised_all_the_same(
    clip: GetClip, reads: Reads, opened: str
) -> None:
    path = clip("plain.mp4")
    open_it = open_source if opened == "source" else open_segment
    reads.name, reads.most = path.name, 997
    with open_it(path):
        pass
    reads.count, reads.fail_at = 0, reads.count + 1
    with (
        pytest.raises(FileReadError, match="Input/output error"),
        open_it(path) as container,
        contextlib.suppress(FileReadError),
    ):
        for _ in container.demux():
            pass


ERRORS: dict[str, Exception] = {
    "of ours": SegmentError("no order"),
    "memory": av.error.MemoryError(errno.ENOMEM, "none left"),
    "disk": av.error.OSError(errno.ENOSPC, "full"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_errors_of_the_machine_are_no_reason_to_write_the_video_alone(
    clip: GetClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job, attempts = Job(clip("plain.mp4"), tmp_path), 0

    def fail(*_: object, **__: object) -> None:
        nonlocal attempts
        attempts += 1
        raise error

    monkeypatch.setattr(join, "finish_output", fail)
    with pytest.raises((SegmentError, MemoryError)):
        job.join()
    assert attempts == 1
    assert not job.output.exists()
