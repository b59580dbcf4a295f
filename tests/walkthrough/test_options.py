"""Every command that a page names, also in a sentence, exists with its options and files."""

from pathlib import Path

import pytest

from tests.kits.pages.commands import PAGES, Command, commands_of, inline_commands
from tests.kits.pages.judge import PROGRAMS, UnknownPartError, judge
from tests.kits.pages.newcomer import Newcomer
from tests.kits.processes import ROOT
from tests.walkthrough.test_commands import NOT_RUN

OTHER_PAGES = (
    *("docs/index.md", "docs/faq.md", "docs/moving.md"),
    *("docs/troubleshooting.md", "CONTRIBUTING.md"),
)
"""Pages that name commands and are not for pasting from."""
ALL_PAGES = (
    *("README.md", "CONTRIBUTING.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
BLOCKS = [command for page in PAGES for command in commands_of(ROOT, page)]


def test_every_page_with_commands_is_walked() -> None:
    """A block that looks like commands says what it is, on whichever page it stands."""
    found = {page for page in ALL_PAGES if commands_of(ROOT, page)}
    assert found == {*PAGES}
    assert {*PAGES, *OTHER_PAGES} <= {*ALL_PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_blocks_exist(page: str) -> None:
    for command in commands_of(ROOT, page):
        judge(command.text)


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES])
def test_commands_in_sentences_exist(page: str) -> None:
    own = (*PROGRAMS, *(f".venv/bin/{name}" for name in PROGRAMS))
    for text in inline_commands(ROOT, page, own):
        judge(text)


def test_programs_of_the_environment_are_called_by_their_path() -> None:
    """Nobody has activated the environment; inside a container nobody needs to."""
    ours = {"seedvr2", "prefect", "python", "pytest"}
    assert not [c.text for c in BLOCKS if c.words and c.words[0] in ours]
    assert not [c.text for c in BLOCKS for name in ours if f"do {name} " in c.text]


def test_each_command_that_is_not_run_stands_on_a_page() -> None:
    assert not [part for part in NOT_RUN if not any(part in c.text for c in BLOCKS)]


@pytest.mark.parametrize(
    "text",
    [
        *("seedvr2 upscale my.mp4 --resolutoin 4k", "seedvr2 upscail my.mp4", "make everything"),
        *(".venv/bin/prefect worker begin", "prefect work-pool pause --gently h100"),
        *("python -m deployments.gateway --new-tokens", "bash upscale.sh URL --size 4k"),
        *("docker compose -f deployments/compose.yaml --profile a100 up", "python missing.py"),
        *("docker run IMAGE seedvr2 weights fetch x", "for a in b c; do seedvr2 stop $a; done"),
        *("JOB=$(seedvr2 send my.mp4)", "make image && make everything", "ffplay my.mp4"),
    ],
)
def test_what_does_not_exist_is_found(text: str) -> None:
    with pytest.raises(UnknownPartError):
        judge(text)


@pytest.mark.parametrize(
    ("body", "said"),
    [("```\nmake demo\n```\n", "say what it is"), ("```sh\necho 'no end\n```\n", "has no end")],
)
def test_a_block_must_say_what_it_is_and_be_whole(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "page.md").write_text(body)
    with pytest.raises(ValueError, match=said):
        commands_of(tmp_path, "page.md")


def test_commands_are_read_as_a_shell_reads_them(tmp_path: Path) -> None:
    page = "```sh\na one  # comment\n# only a comment\nb two \\\n  three\nc '[{\n 1}]'\n```\n"
    (tmp_path / "page.md").write_text(page + "```text\nd\n```\n")
    (tmp_path / "output.md").write_text("```\nmade: a.mp4\n```\n")
    assert commands_of(tmp_path, "output.md") == []
    found = commands_of(tmp_path, "page.md")
    assert [command.bare for command in found] == ["a one", "b two three", "c [{\n 1}]"]


def test_a_newcomer_carries_over_what_a_reader_would(tmp_path: Path) -> None:
    """Variables within a block; from block to block only ids, tokens and what they were told."""
    first, second = (f"{digit * 8}-0000-4000-8000-000000000000" for digit in "ab")
    reader = Newcomer(tmp_path, tmp_path / "home", {"https://example.org/": "http://here/"})

    def said(text: str, block: int = 0) -> str:
        return reader.run(Command("page.md", block, text)).stdout.strip()

    said("A='two words'; export B=b")
    assert said('echo "$A" $B; false') == "two words b"
    assert reader.run(Command("page.md", 0, "false")).returncode == 1
    assert said('echo "$A$B"', block=1) == ""
    assert said(f"echo job {first} made") == f"job {first} made"
    assert said("echo $JOB", block=1) == first
    said(f"JOB=$(echo {second})")
    assert said("echo $JOB") == said("echo $JOB", block=1) == second
    said("echo 'token (for the caller):   secret'; echo 'prefect CLI: export C=c D=\"$(echo d)\"'")
    assert said("echo $TOKEN $C$D https://example.org/a.mp4", 2) == "secret cd http://here/a.mp4"
    assert "seedvr2" not in said("command -v seedvr2 prefect")
