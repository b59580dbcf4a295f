"""A step that hangs, or that ends its process, costs its limit and nothing else."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import watch
from benchmarks.gpu.watch import supervise

ROOT = Path(__file__).parents[3]
WORKER = """
import json, os, sys, time
from pathlib import Path
from benchmarks.gpu.watch import Signs, stacks_of

out, pipe, skip, more = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4]
signs = Signs(pipe, stacks_of(out))
stream = out.open("a" if more == "True" else "w")

def line(**what):
    stream.write(json.dumps(what) + "\\n")
    stream.flush()
    signs.beat()

def hang():
    os.system("sleep 1000 & echo $! > %s.child" % out)
    stream.write('{"part": "conv')
    stream.flush()
    while True:
        time.sleep(0.01)

def die():
    os.abort()

for step, work in (("kernels", None), ("convs/bad", hang), ("convs/worse", die), ("last", None)):
    signs.step(step)
    if step not in skip:
        work() if work else [signs.beat() or time.sleep(0.3) for _ in range(8)]
        line(part=step, name="measured")
sys.exit(1 if skip != [""] else 0)
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def worker(
    path: Path, begun: list[float]
) -> Callable[[Sequence[str], float, bool, int], list[str]]:
    script = path.with_suffix(".py")
    script.write_text(WORKER)

    def command(skip: Sequence[str], left: float, more: bool, pipe: int) -> list[str]:
        begun.append(left)
        arguments = [str(path), str(pipe), ",".join(skip), str(more)]
        return [sys.executable, str(script), *arguments]

    return command


@pytest.mark.long
@pytest.mark.slow
def test_a_step_that_hangs_is_ended_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps before and behind it are in the report, the steps of 2.4 s with signs too."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out, begun = tmp_path / "out.jsonl", list[float]()
    code = supervise(out, worker(out, begun), seconds=100, step_seconds=2)
    report = lines(out)
    assert code == 1
    assert [(x["part"], x["name"]) for x in report] == [
        ("kernels", "measured"),
        ("convs", "bad"),
        ("kernels", "measured"),
        ("convs", "worse"),
        ("kernels", "measured"),
        ("last", "measured"),
    ]
    hung, died = report[1], report[3]
    assert hung["error"] == "no sign of life for 2 s; the process was ended"
    assert "in hang" in hung["stacks"]
    assert died["error"] == "the process died with exit code -6"
    # Half a line that the hanging step left stays on its own line.
    assert '{"part": "conv' in out.read_text().splitlines()
    assert 100 >= begun[0] > begun[1] > begun[2] > 0
    child = int(Path(f"{out}.child").read_text())
    assert not Path(f"/proc/{child}/stat").exists() or _is_zombie(child)
    assert not watch.stacks_of(out).exists()


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")


@pytest.mark.long
def test_a_step_that_hangs_again_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no worker comes as far as its first part."""
    monkeypatch.setattr(watch, "STACK_SECONDS", 0.2)
    out, begun = tmp_path / "out.jsonl", list[int]()

    def command(skip: Sequence[str], left: float, more: bool, pipe: int) -> list[str]:
        begun.append(len(skip))
        code = f"import os, time; os.write({pipe}, b'start\\n'); time.sleep(1000)"
        return [sys.executable, "-S", "-c", code]

    assert supervise(out, command, seconds=100, step_seconds=1) == 1
    assert begun == [0, 1]
    assert [x["part"] for x in lines(out)] == ["start", "start"]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_comes_to_its_end_is_left_alone(tmp_path: Path, code: int) -> None:
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-S", "-c", f"raise SystemExit({code})"]
    assert supervise(out, lambda *_: command, seconds=9, step_seconds=60) == code
    assert not out.exists()


@pytest.mark.long
@pytest.mark.slow
def test_the_command_itself_goes_on_behind_a_kernel_that_hangs(tmp_path: Path) -> None:
    """The real parts on a CPU; one piece of work never ends."""
    (tmp_path / "sitecustomize.py").write_text(
        """
import sys
if "--worker" in sys.argv:
    import time, importlib.abc, importlib.util

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != "benchmarks.gpu.golden":
                return None
            return importlib.util.spec_from_loader(name, Loader())

    class Loader(importlib.abc.Loader):
        def exec_module(self, module):
            def run(report, device):
                report.attempt("good", lambda: report.line("good", value=1))
                report.attempt("hangs", lambda: time.sleep(1000))
                report.attempt("behind", lambda: report.line("behind", value=1))
            module.run = run

    sys.meta_path.insert(0, Finder())
"""
    )
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--out", str(out)]
    command += ["--only", "golden,attention", "--step-seconds", "12"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=300)
    assert done.returncode == 1
    assert time.monotonic() - began > 12
    report = [(x["part"], x["name"]) for x in lines(out)]
    assert report[:2] == [("golden", "good"), ("golden", "hangs")]
    assert "time.sleep" in lines(out)[1]["stacks"] or "sitecustomize" in lines(out)[1]["stacks"]
    assert report[2:6] == [
        ("golden", "good"),
        ("golden", "hangs"),
        ("golden", "behind"),
        ("golden", "done"),
    ]
    assert report[-1] == ("attention", "done")
