"""Damaged copies of clips, each through the whole pipeline: `python -m tests.kits.clips.mutants`.

A process of its own does a row of them, because a decoder may crash on such a file; in production
it is a child process as well. One JSON line tells how each one ended.
"""

import json
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.planning import sizes
from tests.kits.clips.cases import make_video
from tests.kits.hosts.memory import peak_kib

MOST_SECONDS = 60
_HEAD_BYTES = 2000
_EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1")


def mutate(whole: bytes, draw: random.Random) -> bytes:
    """A copy with one kind of damage: in the header, in packets, or to its length."""
    data = bytearray(whole)
    kind = draw.choice(["head", "head", "tail", "body", "body", "cut", "hole", "double"])
    span = {
        "head": range(min(_HEAD_BYTES, len(data) - 4)),
        "tail": range(max(0, len(data) - _HEAD_BYTES), len(data) - 4),
    }.get(kind, range(len(data) - 4))
    if kind == "cut":
        return bytes(data[: draw.choice(span)])
    if kind in ("hole", "double"):
        at, size = draw.choice(span), draw.choice([1, 188, 4096, 20_000])
        piece = data[at : at + size] * 2 if kind == "double" else b""
        return bytes(data[:at] + piece + data[at + size :])
    for _ in range(draw.choice([1, 3, 30])):
        at = draw.choice(span)
        if draw.random() < 0.3:
            data[at : at + 4] = draw.choice(_EXTREMES)
        else:
            data[at] ^= 1 << draw.randrange(8)
    return bytes(data)


def outcome(clip: Path, seed: int, folder: Path) -> str:
    """How a job of a damaged copy ends: "made", "refused", or what is wrong."""
    copy = folder / f"mutant{clip.suffix}"
    copy.write_bytes(mutate(clip.read_bytes(), random.Random(f"{clip.name} {seed}")))
    output = folder / "output.mp4"
    try:
        made = make_video(copy, folder)
        return "made" if made.output.stat().st_size else "an empty output"
    except SeedVR2Error as error:
        if output.exists():
            return "half an output"
        told = str(error)
        good = error.user_mistake and "\n" not in told
        return "refused" if good else f"{type(error).__name__}: {told}"
    except Exception:  # noqa: BLE001 -- whatever it is, the test is told
        return traceback.format_exc()


def main(clips: list[str], seeds: range) -> None:
    """Do them all, in order."""
    sizes.BUDGETS_PX = {**sizes.BUDGETS_PX, "720p": 64 * 36}
    for seed in seeds:
        clip = Path(clips[seed % len(clips)])
        began = time.monotonic()
        signal.alarm(MOST_SECONDS)  # a hang ends the process, and the test sees who it was
        with tempfile.TemporaryDirectory() as folder:
            ended = outcome(clip, seed, Path(folder))
        signal.alarm(0)
        told = {
            "clip": clip.name,
            "seed": seed,
            "ended": ended,
            "seconds": time.monotonic() - began,
            "megabytes": peak_kib() // 1024,
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[3:], range(int(sys.argv[1]), int(sys.argv[2])))
