"""`make demo` passes on what it is given, letter by letter."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with our Makefile and an environment whose `seedvr2` shows its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    program = tmp_path / ".venv" / "bin" / "seedvr2"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    os.utime(tmp_path / "pyproject.toml", (0, 0))
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("a b.mp4", "it's.mp4", '"q".mp4', "-x.mp4", "--help", "a$b$(c)`d`$HOME.mp4", "$$x.mp4"),
        *("back\\slash.mp4", "a#b.mp4", "ü é;&|.mp4", "%.mp4", "a=b.mp4", "*.mp4"),
    ],
)
def test_make_demo_takes_any_file_name(name: str, checkout: Path) -> None:
    command = ["make", "--silent", "demo", f"VIDEO={name}", "RESOLUTION=short:720"]
    # The make that runs these tests hands its own options on, such as to tell of folders (-C).
    environment = {k: v for k, v in os.environ.items() if not re.match("MAKE|MFLAGS", k)}
    told = subprocess.run(
        command,
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
    ).stdout.splitlines()
    assert told == [
        *("upscale", "--resolution=short:720", "--model=auto", "--work-dir", "demo-output"),
        *("--", name),
    ]
