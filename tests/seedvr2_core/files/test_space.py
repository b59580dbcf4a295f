"""Room on the disk: the check for it, and what a real full file system leads to."""

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seedvr2_core.engines.protocol import Commit
from seedvr2_core.errors import ResourceError, SegmentError
from seedvr2_core.files import space as disk
from seedvr2_core.job import JobDir
from seedvr2_core.job.latents import write_commit
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from tests.kits.factories import make_info, make_options
from tests.kits.processes import mounted
from tests.kits.restorer import ENGINE


def plan_of(**changes: object) -> Plan:
    return build_plan(make_info(), "a", make_options(segment_seconds=2, **changes))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with mounted(tmp_path / "small", size="1m") as folder:
        yield folder


def test_too_little_room_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"the job needs about 1000000\.0 GB .* GB free"):
        disk.check_room(tmp_path, 10**15, doing="the job")
    disk.check_room(tmp_path, 0, doing="the job")


def test_a_full_disk_is_one_sentence_whoever_writes(small_disk: Path) -> None:
    """A library that passes the system's words on, and a plain write."""
    JobDir(small_disk).segments_path.mkdir()
    plan = plan_of(engine=dataclasses.replace(ENGINE, window=5, overlap=1))
    latents = torch.zeros((5, 94, 160, 16), dtype=torch.float16)
    with pytest.raises(ResourceError, match="the disk is full while writing the latents of segm"):
        write_commit(JobDir(small_disk), plan.segments[0], Commit(latents=latents))
    with (
        pytest.raises(ResourceError, match=r"the disk is full while testing; .* make room"),
        disk.full_disk_told("testing"),
        (small_disk / "big").open("wb") as stream,
    ):
        os.posix_fallocate(stream.fileno(), 0, 2 * 2**20)


def test_other_errors_pass() -> None:
    with pytest.raises(PermissionError), disk.full_disk_told("testing"):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(SegmentError), disk.full_disk_told("testing"):
        raise SegmentError("broken")
    words = SegmentError("the encoder failed: [Errno 28] No space left on device: 'a.mp4'")
    with pytest.raises(ResourceError), disk.full_disk_told("testing"):
        raise words


@pytest.mark.parametrize("num_bytes", [0, 1, 10**6, 10**9, 10**12])
@pytest.mark.parametrize("missing", [-1, 0, 1, 10**9])
def test_the_reserve_is_never_given_away(
    num_bytes: int, missing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly what is asked for and the reserve must be free, whatever the sizes are."""
    usage = SimpleNamespace(free=num_bytes + disk.RESERVE_BYTES - missing)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage)
    if missing <= 0:
        disk.check_room(tmp_path, num_bytes, doing="the job")
    else:
        with pytest.raises(ResourceError, match=r"the job needs about .* make room and run again"):
            disk.check_room(tmp_path, num_bytes, doing="the job")


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_of_all_errors_of_the_system_two_mean_a_full_disk(code: int) -> None:
    full = code in (errno.ENOSPC, errno.EDQUOT)
    assert disk.is_full(OSError(code, os.strerror(code))) == full
    expected = ResourceError if full else OSError
    with pytest.raises(expected), disk.full_disk_told("testing"):
        raise OSError(code, os.strerror(code))
