"""Whole jobs on a disk that fails: a library between our processes and the C library's `read`.

It needs a C compiler. What happens at every single read of every container is in
tests/seedvr2_core/video/test_read_faults.py, which needs none.
"""

import errno
import json
import shutil
from pathlib import Path

import pytest

from seedvr2_core.files import file_sha256
from seedvr2_core.video.probe import probe_video
from tests.kits.hosts.preload import build_library
from tests.kits.processes import run_command

pytestmark = pytest.mark.apt

QUICK = ("--model", "lanczos", "--resolution", "720p", "--preset", "ultrafast", "--json")
PROCESSES = ["command", "probe", "restore", "join"]
"""Those that read the source, as they come to it; the preview's is the last."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    return build_library(Path(__file__).with_name("bad_disk.c"), folder)


@pytest.fixture(scope="module")
def clip(demo_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that nothing else reads."""
    return Path(shutil.copy(demo_clip, tmp_path_factory.mktemp("clip") / "clip.mp4"))


@pytest.fixture(scope="module")
def undisturbed(clip: Path, api_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the output."""
    done = run_command(
        *("upscale", clip, *QUICK, "--work-dir", tmp_path_factory.mktemp("usual")),
        PREFECT_API_URL=api_url,
    )
    return str(json.loads(done.stdout)["sha256"])


@pytest.mark.parametrize("process", range(2, 5), ids=PROCESSES[1:])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=["EIO", "ESTALE"])
@pytest.mark.parametrize("read", [1, 2, 3])
def test_one_failed_read_costs_a_retry_and_not_a_frame(
    clip: Path,
    library: Path,
    api_url: str,
    undisturbed: str,
    tmp_path: Path,
    process: int,
    number: int,
    read: int,
) -> None:
    done = run_command(
        *("upscale", clip, *QUICK, "--work-dir", tmp_path / "work"),
        PREFECT_API_URL=api_url,
        LD_PRELOAD=str(library),
        SEEDVR2_TEST_DISK_FILE=str(clip),
        SEEDVR2_TEST_DISK_ERROR=str(number),
        SEEDVR2_TEST_DISK_READ=str(read),
        SEEDVR2_TEST_DISK_PROCESS=str(process),
        SEEDVR2_TEST_DISK_MARK=str(tmp_path / "mark"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mark.done").exists(), "no read has failed"
    result = json.loads(done.stdout)
    assert result["frames"] == 75
    assert result["notes"] == []
    assert result["sha256"] == undisturbed == file_sha256(Path(result["output_path"]))
    assert probe_video(Path(result["output_path"])).streams == probe_video(clip).streams


@pytest.mark.parametrize(("what", "number"), [("short", 0), ("slow", 20)])
def test_short_and_slow_reads_change_nothing(
    clip: Path,
    library: Path,
    api_url: str,
    undisturbed: str,
    tmp_path: Path,
    what: str,
    number: int,
) -> None:
    done = run_command(
        *("upscale", clip, *QUICK, "--work-dir", tmp_path / "work"),
        PREFECT_API_URL=api_url,
        LD_PRELOAD=str(library),
        SEEDVR2_TEST_DISK_FILE=str(clip),
        SEEDVR2_TEST_DISK_ERROR=what,
        SEEDVR2_TEST_DISK_READ=str(number),
        SEEDVR2_TEST_DISK_MARK=str(tmp_path / "mark"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sha256"] == undisturbed
