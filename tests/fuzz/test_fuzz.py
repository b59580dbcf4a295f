"""The readers of what strangers and bad disks wrote stand any bytes.

Here a few hundred changed seeds each; `make soak` lets atheris search for a minute a target.
"""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, seeds

SECONDS = 60
ROOT = Path(__file__).parents[2]


def changed(data: bytes, rng: random.Random) -> bytes:
    """The bytes with a few of them replaced, removed, repeated or followed by others."""
    text = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(text))
        match rng.randrange(4):
            case 0:
                text[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del text[at : at + rng.randint(1, 8)]
            case 2:
                text[at:at] = text[at : at + rng.randint(1, 16)]
            case _:
                text[at:at] = rng.choice(
                    (b"9" * 30, b"-", b'"', b"\\", b"\x00", b"\xff", b"[", b"\r\n")
                )
    return bytes(text)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_neighbours_are_read_or_refused(name: str) -> None:
    rng = random.Random(7)
    for seed in seeds(name):
        TARGETS[name](seed)
        for _ in range(25):
            TARGETS[name](changed(seed, rng))


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_a_minute_of_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this Python or system")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz", name, str(tmp_path / "corpus")),
            *(f"-max_total_time={SECONDS}", "-timeout=20", "-rss_limit_mb=2048"),
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS + 120,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
