"""A folder that the container's user cannot use is named, with its owner and the remedy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.host.volumes import check_folder
from seedvr2_core.errors import ResourceError
from tests.kits.processes import ROOT

UID = 10001


def check(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the program as the container does."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "deployments.host.volumes", str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SEEDVR2_WORK_VOLUME": "/mnt/shared/seedvr2",
        },
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )


def test_a_folder_of_ones_own_is_fine(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = check(tmp_path / "none")
    assert done.returncode == 1
    assert f"/mnt/shared/seedvr2, mounted at {tmp_path}/none, cannot be written" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_says_whose_it_is_and_what_to_run(tmp_path: Path) -> None:
    folder = Path("/usr")  # root's, readable by all
    note = tmp_path / "note"
    note.touch()
    with note.open("w") as told:
        child = os.fork()  # the interpreter may lie where another user cannot start it
        if child == 0:
            os.setuid(UID)
            try:
                check_folder(folder, "/mnt/shared/seedvr2")
            except ResourceError as error:
                told.write(str(error))
                told.flush()
            os._exit(0)
    os.waitpid(child, 0)
    assert "belongs to uid 0 and this container runs as uid 10001" in note.read_text()
    assert "chown -R 10001 /mnt/shared/seedvr2" in note.read_text()
