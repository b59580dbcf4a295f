"""A child may have so much memory, and says so in one sentence where it is refused more."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from seedvr2_core.child.memory import (
    check_host,
    free_host_bytes,
    machine_bytes,
    most_taken,
    oom_kills,
)
from seedvr2_core.child.protocol import Event, Heartbeat, Probe, Request, Restore, Taken
from seedvr2_core.errors import InvalidVideoError, ResourceError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning.plan import MemoryPlan, Segment
from seedvr2_core.video.info import VideoInfo
from tasks.child.guard import Child
from tasks.settings import Settings, use_settings
from tests.kits.media import ffmpeg, write_endless
from tests.kits.restorer import make_plan, whole

Quiet = (Heartbeat, Taken)

BOUNDED = """
import sys
from seedvr2_core.child.memory import bound_memory, memory_refused, unbounded_memory
bound_memory(400 * 2**20)
import av, numpy, torch

def asked(what):
    try:
        what()
        return "given"
    except Exception as error:
        return memory_refused(error) or f"{type(error).__name__}: {error}"

ways = {
    "python": lambda: bytearray(2**30),
    "numpy": lambda: numpy.empty(2**30, numpy.uint8),
    "torch": lambda: torch.empty(2**30, dtype=torch.uint8),
    "libav": lambda: av.VideoFrame(14000, 14000, "rgb48le"),
}
for name, way in ways.items():
    print(name, asked(way))
    with unbounded_memory("cuda:0"):
        print(name, asked(way))
    with unbounded_memory("cpu"):
        print(name, asked(way))
print("other", asked(lambda: 1 / 0))
"""


@pytest.mark.long
def test_whoever_asks_for_too_much_is_refused_and_the_refusal_is_understood() -> None:
    """All libraries of the child; and work on a GPU is not bounded."""
    lines = subprocess.run(
        [sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    *lines, other = lines
    assert other == "other ZeroDivisionError: division by zero"
    for name in ("python", "numpy", "torch", "libav"):
        bounded, on_gpu, on_cpu = (line for line in lines if line.startswith(name))
        assert "more memory than the process may have here, at most 0.4 GB" in bounded
        assert on_gpu == f"{name} given"
        assert on_cpu == bounded


def test_a_machine_has_some_memory() -> None:
    assert 2**28 < machine_bytes() < 2**50


def _machine(root: Path, available: int) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available // 1024} kB\n")
    return root


def test_free_memory_is_what_the_container_may_still_take(tmp_path: Path) -> None:
    gigabyte = 2**30
    root = _machine(tmp_path, 6 * gigabyte)
    assert free_host_bytes(root) == 6 * gigabyte
    cgroup = root / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text(f"{8 * gigabyte}\n")
    (cgroup / "memory.current").write_text(f"{5 * gigabyte}\n")
    (cgroup / "memory.stat").write_text(f"anon 1\ninactive_file {gigabyte}\n")
    assert free_host_bytes(root) == 4 * gigabyte
    (cgroup / "memory.current").write_text(f"{20 * gigabyte}\n")
    assert free_host_bytes(root) == 0
    (cgroup / "memory.max").write_text("max\n")
    assert free_host_bytes(root) == 6 * gigabyte


def test_free_memory_in_a_container_of_the_older_version(tmp_path: Path) -> None:
    root = _machine(tmp_path, 6 * 2**30)
    cgroup = root / "sys/fs/cgroup/memory"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.limit_in_bytes").write_text(f"{2 * 2**30}\n")
    (cgroup / "memory.usage_in_bytes").write_text(f"{2**30}\n")
    (cgroup / "memory.stat").write_text("total_inactive_file 0\n")
    assert free_host_bytes(root) == 2**30


def test_free_memory_of_this_machine() -> None:
    assert 0 < free_host_bytes() <= machine_bytes()


@pytest.mark.parametrize(
    ("ours", "place"),
    [
        ("0::/user.slice/a b.service", "user.slice/a b.service/memory.events"),
        ("0::/docker/not-seen-from-inside", "memory.events"),
        ("0::/\n4:cpu,memory:/job", "memory/job/memory.oom_control"),
        ("0::/\n4:memory:/docker/not-seen-from-inside", "memory/memory.oom_control"),
    ],
    ids=["service", "container", "service of version 1", "container of version 1"],
)
def test_what_the_kernel_has_killed_is_counted_in_our_cgroup(
    tmp_path: Path, ours: str, place: str
) -> None:
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    assert oom_kills(tmp_path) == 0  # nothing is told here
    (proc / "cgroup").write_text(f"{ours}\n")
    (proc.parent / "vmstat").write_text("oom_kill_x 9\noom_kill 5\n")
    assert oom_kills(tmp_path) == 5
    counted = tmp_path / "sys/fs/cgroup" / place
    counted.parent.mkdir(parents=True)
    counted.write_text("oom_kill_disable 0\noom 7\noom_kill 3\noom_group_kill 8\n")
    assert oom_kills(tmp_path) == 3


def in_little(request: Request[Any]) -> Event:
    """The first word of a real child that may have 0.5 GB, but for signs of life."""
    use_settings(Settings(child_memory_bytes=2**29))
    child = Child()
    try:
        child.send(request)
        while isinstance(event := child.next_event(stall_seconds=60, doing="this"), Quiet):
            pass
    finally:
        child.close()
    return event


def probe_in_little(path: Path, out: Path) -> Event:
    """Probe without a limit of frames."""
    return in_little(Probe(path=path, out=out))


def test_an_honest_video_fits(demo_clip: Path, tmp_path: Path) -> None:
    probe_in_little(demo_clip, tmp_path / "info.json")
    assert read_record(tmp_path / "info.json", VideoInfo).num_frames == 75


def test_an_index_that_does_not_fit_is_the_files_fault(tmp_path: Path) -> None:
    """22 million frames: libav would take 0.8 GB for them, and goes on without."""
    path = tmp_path / "long.mp4"
    write_endless(path, num_chunks=40_000)
    with pytest.raises(InvalidVideoError, match=r"no frames|more memory than there is"):
        probe_in_little(path, tmp_path / "info.json")


MEMORY = MemoryPlan(
    vae_dtype="float16",
    dit_dtype="bfloat16",
    encoder_slice=1,
    decoder_slice=1,
    encoder_level_frames=(1, 2, 4, 8),
    decoder_level_frames=(8, 4, 2, 1),
    chunk_tokens=0,
    park_caches=True,
    weights_resident=False,
    peaks=(("encode", 3 * 10**9), ("dit", 2 * 10**9), ("host", 5 * 2**30)),
)


def test_a_plan_that_does_not_fit_this_machine_is_refused(tmp_path: Path) -> None:
    """It was made on another one, or when more was free there."""
    root = _machine(tmp_path, 6 * 2**30)
    check_host(MEMORY, "cuda:0", root)
    cgroup = root / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text(f"{8 * 2**30}\n")
    (cgroup / "memory.current").write_text(f"{4 * 2**30}\n")
    (cgroup / "memory.stat").write_text("inactive_file 0\n")
    told = r"needs 5\.4 GB of host memory and 4\.3 GB are free here; .* with 6 GB free, or"
    with pytest.raises(ResourceError, match=told):
        check_host(MEMORY, "cuda:0", root)
    before = dataclasses.replace(MEMORY, peaks=())  # a plan that says nothing of it
    check_host(before, "cuda:0", root)
    check_host(None, "cuda:0", root)


def test_a_child_with_too_little_memory_refuses_before_it_loads(
    demo_clip: Path, tmp_path: Path
) -> None:
    """The bound is the kernel's. There are no weights, which loading would find out first."""
    planned = make_plan(5, memory={"peaks": MEMORY.peaks}, name="seedvr2-7b")
    segment = Segment(index=0, start=0, stop=5, pieces=(whole(planned),))
    job_dir = JobDir(tmp_path / "job")
    job_dir.path.mkdir()
    write_record(job_dir.plan_path, dataclasses.replace(planned, segments=(segment,)))
    (tmp_path / "weights").mkdir()
    (tmp_path / "locks").mkdir()
    request = Restore(
        job_dir=job_dir.path,
        source=demo_clip,
        device="cpu",
        weights_dir=tmp_path / "weights",
        lock_dir=tmp_path / "locks",
        segments=(0,),
    )
    with pytest.raises(ResourceError, match=r"needs 8\.4 GB of host memory and 0\.\d GB are free"):
        in_little(request)


@pytest.mark.long
@pytest.mark.slow
def test_pictures_that_do_not_fit_are_told_with_the_bound(tmp_path: Path) -> None:
    """The largest that are taken, 64 bits a pixel: one of them has 0.54 GB."""
    path = tmp_path / "large.mkv"
    ffmpeg(
        *("-f", "lavfi", "-i", "color=s=8192x8192:r=1:d=1", "-pix_fmt", "rgba64be"),
        *("-c:v", "png", "-pred", "none", "-compression_level", "1", path),
    )
    with pytest.raises(ResourceError, match=r"at most 0\.5 GB \(SEEDVR2_CHILD_MEMORY_BYTES\)"):
        probe_in_little(path, tmp_path / "info.json")


def test_the_most_memory_is_this_process_s_own() -> None:
    """What its parent holds counts for nothing, and what it gave back still counts."""
    code = (
        "from seedvr2_core.child.memory import most_taken\n"
        "begun, _ = most_taken()\n"
        "taken = bytearray(b'a') * 2**26\n"
        "del taken\n"
        "print(begun, *most_taken())"
    )
    held = bytearray(b"a") * 2**28
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    begun, most, gpu = map(int, told.split())
    assert begun < 2**27 < len(held) <= most_taken()[0]
    assert 2**25 < most - begun < 2**27
    assert gpu == 0


@pytest.mark.gpu
def test_the_most_memory_of_a_gpu_is_what_torch_reserved() -> None:
    torch.empty(2**28, dtype=torch.uint8, device="cuda")
    assert most_taken()[1] >= 2**28
