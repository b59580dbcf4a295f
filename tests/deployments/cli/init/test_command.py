"""`seedvr2 init`: five questions on a real terminal become a file that `make deploy` takes."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from deployments.deploy.site import read_site
from deployments.gateway.auth import digest
from tests.kits.pages.terminal import Terminal, on_terminal
from tests.kits.processes import command_line, run_command

KEY = "zone-password-1234"
FLAGS = ["--store", "folder", "--storage", "local", "--pool", "h100", "--no-token"]
FLAGS += ["--hour-price", "2.5"]


def answered(terminal: Terminal, *pairs: tuple[str, str]) -> None:
    """Wait for each question and type its answer."""
    for question, answer in pairs:
        terminal.sees(question)
        terminal.types(answer)


@pytest.mark.slow
def test_five_answers_become_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "site.env"
    with on_terminal(command_line("init", "--output", file), BUNNY_STORAGE_KEY="") as terminal:
        answered(terminal, ("1. Where", "somewhere"))
        terminal.sees("expected s3://BUCKET")  # and it is asked again
        answered(
            terminal,
            ("1. Where", "folder"),
            ("2. Where", "bunny"),
            ("Name of the storage zone", "videos"),
            ("public address", "ftp://videos"),
            ("password (not shown): ", KEY),
            ("2. Where", "bunny"),  # what does not fit together is asked again
            ("Name of the storage zone", "videos"),
            ("public address", "https://videos.b-cdn.net"),
            ("password (not shown): ", KEY),
            ("3. Which", "both"),
            ("4. Who", "y"),
            ("5. What", "-3"),
        )
        terminal.sees("greater than 0")
        answered(terminal, ("5. What", "2.5"))
        assert terminal.ends() == 0, terminal.text
        shown = terminal.text
    assert shown.strip().endswith(str(file)), "the last line is the path"
    assert KEY not in shown
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["site.env"]
    token = re.search(r"shown this once: (\S+)", shown)
    assert token is not None
    assert token[1] not in file.read_text()
    assert read_site(file).values == {
        "SEEDVR2_STORAGE": "bunny",
        "BUNNY_STORAGE_ZONE": "videos",
        "BUNNY_BASE_URL": "https://videos.b-cdn.net",
        "BUNNY_STORAGE_KEY": KEY,
        "SEEDVR2_DEPLOYMENTS": "720p=upscale/h100,1080p=upscale/h100,2k=upscale/h200,"
        "4k=upscale/h200",
        "SEEDVR2_GATEWAY_TOKENS": digest(token[1]),
        "SEEDVR2_HOUR_PRICE": "2.5",
    }


@pytest.mark.slow
def test_ctrl_c_writes_nothing(tmp_path: Path) -> None:
    with on_terminal(command_line("init", "--output", tmp_path / "site.env")) as terminal:
        terminal.sees("1. Where")
        terminal.sees("Answer")
        terminal.presses("\x03")
        assert terminal.ends(seconds=20) == 130
        assert "interrupted; nothing was written: run it again" in terminal.text
    assert os.listdir(tmp_path) == []


@pytest.mark.long
@pytest.mark.slow
def test_flags_answer_where_nobody_can_be_asked(tmp_path: Path) -> None:
    file = tmp_path / "site.env"
    few = run_command("init", "--output", file, *FLAGS[:4])
    assert (few.returncode, file.exists()) == (2, False)
    assert "stdin is no terminal" in few.stderr
    assert "--pool, --token, --hour-price" in few.stderr
    keys = {"SEEDVR2_S3_ACCESS_KEY_ID": "id", "SEEDVR2_S3_SECRET_ACCESS_KEY": "se cr$t"}
    s3 = ["--storage", "s3", "--set", "SEEDVR2_S3_OUTPUTS=s3://videos/done"]
    done = run_command("init", "--output", file, *FLAGS[:2], *s3, *FLAGS[4:], **keys)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{file}\n"
    assert "se cr$t" not in done.stderr
    values = read_site(file).values
    assert values["SEEDVR2_S3_SECRET_ACCESS_KEY"] == "se cr$t"
    assert "SEEDVR2_GATEWAY_TOKENS" not in values
    told = subprocess.run(
        ["sh", "-c", f"set -a; . {file}; printenv SEEDVR2_S3_SECRET_ACCESS_KEY SEEDVR2_HOUR_PRICE"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "se cr$t\n2.5\n", "a shell reads it alike"


@pytest.mark.long
@pytest.mark.slow
def test_a_file_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "site.env"
    file.write_text("mine")
    done = run_command("init", "--output", file, *FLAGS)
    assert (done.returncode, file.read_text()) == (2, "mine")
    assert "let it be replaced (overwrite)" in done.stderr
    done = run_command("init", "--output", file, *FLAGS, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_site(file).values["SEEDVR2_DEPLOYMENTS"] == "*=upscale/h100"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--storage", "bunny"], "SEEDVR2_STORAGE"),
        (["--storage", "ftp"], "expected one of local, bunny, s3"),
        (["--hour-price", "cheap"], "SEEDVR2_HOUR_PRICE"),
        (["--store", "s3://"], "expected s3://BUCKET"),
        (["--set", "SEEDVR2_WORK_DIR=/work"], "belongs to one machine"),
        (["--set", "SEEDVR2_STORAGEE=s3"], "is SEEDVR2_STORAGE meant?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_answers_are_refused_in_one_sentence(
    tmp_path: Path, changed: list[str], said: str
) -> None:
    done = run_command("init", "--output", tmp_path / "site.env", *FLAGS, *changed)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []
