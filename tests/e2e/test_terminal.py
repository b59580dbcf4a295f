"""The command on a terminal of 80 and of 120 columns, after Ctrl-C, and redirected."""

import re
import sys
from pathlib import Path

import pytest

from tests.kits.pages.terminal import Terminal, on_terminal
from tests.kits.processes import command_line, run_command

pytestmark = pytest.mark.slow
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]")


def screens(terminal: Terminal) -> list[str]:
    """What stood in a line of the terminal at any time, without colours."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.raw)
    return [line for part in plain.split("\n") for line in part.split("\r")]


@pytest.mark.long
def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(
    demo_clip: Path, tmp_path: Path, api_url: str
) -> None:
    told = {
        "PREFECT_API_URL": api_url,
        "SEEDVR2_TEST_ENGINES": "true",
        "SEEDVR2_SEGMENT_SECONDS": "0.5",
    }
    words = ["upscale", demo_clip, "--model", "sleep", "--resolution", "720p"]
    words += ["--work-dir", tmp_path / "work"]
    bell = f'{sys.executable} -c \'import os; print("outcome", os.environ["OUTCOME"])\''
    with on_terminal(command_line(*words, "--notify", bell), columns=80, **told) as terminal:
        terminal.sees("frames (")
        while len(list((tmp_path / "work").glob("jobs/*/segments/[0-9]*.json"))) < 2:
            terminal.sees("restoring")
        terminal.presses("\x03")
        assert terminal.ends() == 130, terminal.text
        assert "interrupted; finished segments are kept: run it again to go on" in terminal.text
        assert "outcome interrupted" in terminal.text
        assert COLOUR.search(terminal.raw), "a terminal has colours"
        bars = [line for line in screens(terminal) if "restoring" in line]
        assert bars
        assert max(map(len, bars)) <= 80
    with on_terminal(
        command_line(*words, "--notify", "bell"), columns=120, NO_COLOR="1", **told
    ) as terminal:
        assert terminal.ends() == 0, terminal.text
        assert "\x07" in terminal.raw
        assert re.search(r"[1-9]\d* of 75 frames kept", terminal.text)
        assert not COLOUR.search(terminal.raw), "NO_COLOR"
        assert max(len(line) for line in screens(terminal) if "restoring" in line) <= 120
    redirected = run_command(*words, **told)
    assert redirected.returncode == 0, redirected.stderr
    assert "\x1b" not in redirected.stdout + redirected.stderr
    assert redirected.stdout.count("\n") == 1
    assert Path(redirected.stdout.strip()).is_file()
    assert "already done" in redirected.stderr
