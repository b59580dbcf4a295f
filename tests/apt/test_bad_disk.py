"""Whole jobs on a disk that fails: a library between our processes and the C library's `read`.

It needs a C compiler. What happens at every single read of every container is in
tests/seedvr2_core/video/test_read_faults.py, which needs none.
"""

import errno
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.files import file_sha256
from seedvr2_core.video.probe import probe_video
from tests.kits.hosts.preload import build_library
from tests.kits.processes import run_command

pytestmark = pytest.mark.apt

QUICK = ("--model", "lanczos", "--resolution", "720p", "--preset", "ultrafast", "--json")
NUM_READERS = 12
"""How often a job's child comes to read the source, from the probe's first look to the join's."""
_MOST_AFTER = 2
"""So often after that: for the picture before and after, and for the report, if it has time."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    return build_library(Path(__file__).with_name("bad_disk.c"), folder)


@pytest.fixture(scope="module")
def clip(demo_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that nothing else reads."""
    return Path(shutil.copy(demo_clip, tmp_path_factory.mktemp("clip") / "clip.mp4"))


class Disk:
    """A disk on which the clip lies, and the jobs that read it there."""

    def __init__(self, clip: Path, library: Path, api_url: str, folder: Path) -> None:
        self.mark = folder / "mark"
        self._clip, self._work = clip, folder / "work"
        self._variables = {
            "PREFECT_API_URL": api_url,
            "LD_PRELOAD": str(library),
            "SEEDVR2_TEST_DISK_FILE": str(clip),
            "SEEDVR2_TEST_DISK_MARK": str(self.mark),
        }

    def result(self, error: str | int, *, read: int, reader: int = 0) -> dict[str, Any]:
        """Make the job; returns its result.

        Args:
            error: what goes wrong, as bad_disk.c says.
            read: at which read of a reader, or how slowly.
            reader: at which reader.
        """
        done = run_command(
            *("upscale", self._clip, *QUICK, "--work-dir", self._work),
            **self._variables,
            SEEDVR2_TEST_DISK_ERROR=str(error),
            SEEDVR2_TEST_DISK_READ=str(read),
            SEEDVR2_TEST_DISK_READER=str(reader),
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def readers(self) -> list[str]:
        """The process of each reader, in the order in which they came."""
        return self.mark.read_text().split()


@pytest.fixture
def disk(clip: Path, library: Path, api_url: str, tmp_path: Path) -> Disk:
    """A disk that is to fail."""
    return Disk(clip, library, api_url, tmp_path)


@dataclass(frozen=True)
class Undisturbed:
    """A job on a good disk."""

    sha256: str
    before_child: int
    """How many readers come before those of the child."""
    of_child: int


@pytest.fixture(scope="module")
def undisturbed(
    clip: Path, library: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    """The job as it is without a fault."""
    disk = Disk(clip, library, api_url, tmp_path_factory.mktemp("usual"))
    sha256 = str(disk.result("slow", read=0)["sha256"])
    readers = disk.readers()
    before = readers.count(readers[0])
    assert set(readers[before:]) == {readers[-1]}, "one child reads it, and the command before"
    return Undisturbed(sha256, before, len(readers) - before)


def test_all_readers_are_known(undisturbed: Undisturbed) -> None:
    assert NUM_READERS < undisturbed.of_child <= NUM_READERS + _MOST_AFTER


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=["EIO", "ESTALE"])
@pytest.mark.parametrize("reader", range(1, NUM_READERS + 1))
def test_one_failed_read_costs_a_retry_and_not_a_frame(
    disk: Disk, clip: Path, undisturbed: Undisturbed, reader: int, number: int
) -> None:
    result = disk.result(number, read=1, reader=undisturbed.before_child + reader)
    assert Path(f"{disk.mark}.done").exists(), "no read has failed"
    assert result["frames"] == 75
    assert result["notes"] == []
    assert result["sha256"] == undisturbed.sha256 == file_sha256(Path(result["output_path"]))
    assert probe_video(Path(result["output_path"])).streams == probe_video(clip).streams


@pytest.mark.parametrize(("what", "number"), [("short", 0), ("slow", 20)])
def test_short_and_slow_reads_change_nothing(
    disk: Disk, undisturbed: Undisturbed, what: str, number: int
) -> None:
    assert disk.result(what, read=number)["sha256"] == undisturbed.sha256
