"""`--notify` and the shells' completion of the command."""

import io
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer

from deployments.cli.notify import notified
from tests.kits.processes import ROOT, environment, run_command


class Terminal(io.StringIO):
    """Text that thinks it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.mark.parametrize(
    ("end", "outcome"),
    [(None, "completed"), (0, "completed"), (1, "failed"), (2, "failed"), (130, "interrupted")],
)
def test_a_command_is_told_the_outcome(
    end: int | None, outcome: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "it's a note"
    how = f'sh -c \'echo $OUTCOME > "$0"; echo heard\' "{note}"'
    with nullcontext() if end is None else pytest.raises(typer.Exit), notified(how):
        if end is not None:
            raise typer.Exit(end)
    assert note.read_text() == f"{outcome}\n"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "heard\n"), "stdout holds only the result"


def test_an_error_that_nobody_expected_counts_as_failed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), notified(f"touch {tmp_path / 'told'}"):
        raise ZeroDivisionError
    assert (tmp_path / "told").exists()


def test_the_bell_rings_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for screen, rung in ((Terminal(), "\a"), (io.StringIO(), "")):
        monkeypatch.setattr(sys, "stderr", screen)
        with notified("bell"):
            pass
        assert screen.getvalue() == rung


@pytest.mark.parametrize("command", ["no-such-program-anywhere", "sh -c 'exit 3'"])
def test_a_command_that_fails_changes_no_outcome(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with notified(command):
        pass
    assert "--notify: " in capfd.readouterr().err


@pytest.mark.parametrize("how", ['"open', "", "  "])
def test_what_is_no_command_is_refused_before_the_work(how: str) -> None:
    done = run_command("upscale", "/none.mp4", "--notify", how)
    assert done.returncode == 2
    assert "expected bell or a command" in done.stderr
    assert "/none.mp4" not in done.stderr


def completing(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run the installed script, whose name stands in the completion."""
    script = Path(sys.executable).with_name("seedvr2")
    return subprocess.run(
        [script, *words],
        env=environment({"PYTHONPATH": str(ROOT), **changes}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_of_a_shell_is_a_script_for_it(shell: str) -> None:
    # Typer would look which shell has started us; here that is whatever runs the tests.
    told = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = completing("--show-completion", shell, **told)
    assert done.returncode == 0, done.stderr
    assert "_SEEDVR2_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True, timeout=30)


def test_bash_completes_commands_and_options() -> None:
    for words, wanted in (("seedvr2 up", "upscale"), ("seedvr2 upscale --no", "--notify")):
        done = completing(
            _SEEDVR2_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))
        )
        assert wanted in done.stdout.split(), (words, done.stderr)
