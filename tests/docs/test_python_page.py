"""The examples of the page on Python run as they stand."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.S | re.M)


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=["file", "frames", "stop"])
def test_an_example_runs(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(ROOT / "deployments/demo/bunny_320x180.mp4", tmp_path / "my.mp4")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/python.md", "exec"), {})
    told = capsys.readouterr().out
    assert "720" in told or "stopped" in told
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left <= {"my.mp4", "restored.mp4"}, "a video that was stopped is absent"
