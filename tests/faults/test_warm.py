"""A service whose engine outlives its jobs: loaded once, ended by a cancellation and by a drain."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tasks.child.warm import WarmEngine, warm_engines
from tasks.settings import Settings
from tests.kits.faults import SMALL_PICTURES, Fault, wait_until
from tests.kits.processes import ROOT, is_running
from tests.kits.server import Serve, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OPTIONS = ("--model", "sleep", "--resolution", "720p", "--preset", "ultrafast")


@pytest.fixture
def loads(tmp_path: Path) -> Path:
    """Has a byte for each time that the engine was loaded."""
    return tmp_path / "loads"


@pytest.fixture
def serve(tmp_path: Path, loads: Path) -> Iterator[Serve]:
    """A service that keeps its engine for two minutes."""
    count = Fault(at="seedvr2_core.engines.sleep:load", do="count", mark=str(loads))
    folder = tmp_path / "serve"
    folder.mkdir()
    serve = Serve(
        folder,
        PYTHONPATH=os.pathsep.join((str(ROOT / "tests" / "faults" / "inject"), str(ROOT))),
        SEEDVR2_TEST_FAULTS=json.dumps([asdict(fault) for fault in (SMALL_PICTURES, count)]),
        SEEDVR2_WARM_SECONDS="120",
        SEEDVR2_REPORT="false",
    ).wait_until_ready()
    yield serve
    serve.close()
    eventually(lambda: not serve.processes(), "the end of all processes")


@pytest.fixture
def clips(tmp_path: Path, ffmpeg: Callable[..., object]) -> list[Path]:
    """Three clips, one of them long enough to be cancelled."""
    paths = []
    for seconds in (1, 2, 60):
        paths.append(tmp_path / f"clip{seconds}.mp4")
        source = f"testsrc2=s=96x54:r=10:d={seconds}"
        ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", paths[-1])
    return paths


@pytest.mark.long
def test_jobs_of_a_service_share_a_loaded_engine(
    serve: Serve, clips: list[Path], loads: Path
) -> None:
    short, second, long = clips

    def found() -> list[WarmEngine]:
        return warm_engines(Settings(work_dir=serve.work_dir))

    warm: list[bool] = []
    for clip in (short, second):
        job = serve.submit(clip, *OPTIONS)
        ended = serve.wait_for(job, "completed", "failed")
        assert ended["status"] == "completed", ended
        results = [json.loads(p.read_text()) for p in serve.work_dir.glob("jobs/*/result.json")]
        warm += [told["engine_was_warm"] for told in results if told["job_id"] == job]
    assert warm == [False, True]
    assert loads.stat().st_size == 1
    (engine,) = found()
    doctor = serve.command("doctor", "--work-dir", serve.work_dir)
    assert f"process {engine.pid} keeps sleep loaded on cpu" in doctor.stdout

    job = serve.submit(long, *OPTIONS)
    eventually(lambda: serve.status(job).get("frames_done"), "its first frames")
    assert is_running(engine.pid)
    assert loads.stat().st_size == 1
    assert serve.command("cancel", job).returncode == 0
    wait_until(lambda: not is_running(engine.pid), "the engine had ended", seconds=60)
    assert not found()

    third = serve.submit(second, *OPTIONS, "--seed", "5", "--crf", "20")
    assert serve.wait_for(third, "completed", "failed")["status"] == "completed"
    assert loads.stat().st_size == 2
    (engine,) = found()
    assert serve.stop() == 0
    wait_until(lambda: not is_running(engine.pid), "the drain had ended the engine", seconds=30)
