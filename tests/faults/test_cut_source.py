"""A file that was cut off, at the command: refused at once, or taken and told of."""

import json
from pathlib import Path

import pytest

from tests.kits.processes import run_command

QUICK = ("--model", "lanczos", "--resolution", "720p", "--preset", "ultrafast", "--json")


@pytest.mark.long
def test_the_command_refuses_it_before_anything_runs_and_tells_of_it_when_it_is_allowed(
    demo_clip: Path, tmp_path: Path, api_url: str
) -> None:
    content = demo_clip.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: len(content) // 2])
    words = ("upscale", cut, *QUICK, "--work-dir", tmp_path / "work")
    refused = run_command(*words, PREFECT_API_URL=api_url)
    assert refused.returncode == 2
    assert "ends early" in refused.stderr
    assert "of about 75 frames" in refused.stderr
    assert not (tmp_path / "work" / "jobs").exists()
    taken = run_command(*words, "--allow-damaged", PREFECT_API_URL=api_url)
    assert taken.returncode == 0, taken.stderr
    result = json.loads(taken.stdout)
    (note,) = [note for note in result["notes"] if "ends early" in note]
    assert note == f"the file ends early: {result['frames']} of about 75 frames"
    assert f"note: {note}" in taken.stderr
