"""A child gives signs of life at every read, also at those of headers, of which nobody tells it."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.child import __main__ as child
from seedvr2_core.child.progress import Emitter
from seedvr2_core.child.protocol import Join, Probe
from seedvr2_core.files.reading import FileReader, no_bytes, reads_told
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning import build_plan
from seedvr2_core.video.probe import probe_video
from tests.kits.disks.slow import SlowDisk
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg

READ_SECONDS = 0.5
BT709 = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709"
MOST_READS = 5
"""In a row without a sign of life; libav and we look at a file's first bytes several times."""


class Alive(Emitter):
    """Hands the beats of a child to a disk."""

    def __init__(self, disk: SlowDisk) -> None:
        super().__init__(io.StringIO())
        self._disk = disk

    def beat(self, phase: str, done: int, total: int) -> None:
        self._disk.beat()


def _probe(clip: Path, folder: Path) -> Probe:
    return Probe(path=clip, out=folder / "probe.json")


def _join(clip: Path, folder: Path) -> Join:
    """What a child is asked for a job of one segment, whose packets are those of the clip."""
    info = probe_video(clip)
    plan = build_plan(info, "a", make_options(resolution="320x180"))
    job_dir = JobDir(folder / "job")
    job_dir.segments_path.mkdir(parents=True)
    write_plan(job_dir.plan_path, plan)
    job_dir.video_path(0).write_bytes(clip.read_bytes())
    return Join(job_dir=job_dir.path, source=clip, out=folder / "out", metadata={})


@pytest.mark.parametrize("make", [_probe, _join], ids=["probing", "joining"])
def test_headers_on_a_share_far_away(
    monkeypatch: pytest.MonkeyPatch,
    demo_clip: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], Probe | Join],
) -> None:
    """They have a hundred small reads; who makes them knows nothing of signs of life."""
    cover, clip = tmp_path / "cover.png", tmp_path / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64", "-frames:v", "1", cover)
    tracks = ["-map", "0", "-map", "0:a", "-map", "1", "-disposition:v:1", "attached_pic"]
    coded = ["-c", "copy", "-c:v:0", "libx264", "-preset", "ultrafast"]
    ffmpeg("-i", demo_clip, "-i", cover, *tracks, *coded, "-filter:v:0", BT709, clip)
    request = make(clip, tmp_path)
    disk = SlowDisk(monkeypatch, reads=True, writes=False, read_seconds=READ_SECONDS)
    child._answer(request, Alive(disk), [])
    disk.beat()
    assert disk.seconds > 2 * MOST_READS * READ_SECONDS, "nothing was slow, so this shows nothing"
    assert disk.silence <= MOST_READS * READ_SECONDS + 1


def test_who_is_told_of_reads_himself_keeps_being_told(tmp_path: Path) -> None:
    path, own, other = tmp_path / "a", [], []
    path.write_bytes(b"abc")

    def read(on_bytes: Callable[[int, int], None]) -> None:
        with FileReader(path, on_bytes=on_bytes) as file:
            file.read(1)

    with reads_told(lambda *at: other.append(at)):
        read(lambda *at: own.append(at))
        assert (own, other) == ([(0, 3)], [])
        read(no_bytes)
        assert (own, other) == ([(0, 3)], [(0, 3)])
    read(no_bytes)
    assert len(other) == 1, "the block has ended"
