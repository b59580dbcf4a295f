"""Reads that fail, and a slow disk, in real children and in a whole job."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from seedvr2_core.child.protocol import Join, Probe
from seedvr2_core.errors import FileReadError
from seedvr2_core.files import file_sha256
from tasks.child import operation, run_operation
from tests.kits.faults import Fault, FaultyJob
from tests.kits.processes import ROOT

pytestmark = pytest.mark.long

READ = "seedvr2_core.files.reading:FileReader._read"


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Let the children that this process starts have a fault."""

    def set_up(fault: Fault) -> None:
        monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests' / 'faults' / 'inject'}:{ROOT}")
        monkeypatch.setenv("SEEDVR2_TEST_FAULTS", json.dumps([asdict(fault)]))

    return set_up


def test_a_failed_read_reaches_the_parent_and_is_over_with_the_next_child(
    demo_clip: Path, tmp_path: Path, inject: Callable[[Fault], None]
) -> None:
    usual, got = tmp_path / "usual.json", tmp_path / "got.json"
    run_operation(Probe(path=demo_clip, out=usual), doing="probing")
    inject(Fault(at=READ, call=3, do="eio", mark=str(tmp_path / "mark")))
    with pytest.raises(FileReadError, match=f"{demo_clip.name}: reading at byte .*Input/output"):
        run_operation(Probe(path=demo_clip, out=got), doing="probing")
    assert not got.exists()
    run_operation(Probe(path=demo_clip, out=got), doing="probing")
    assert got.read_bytes() == usual.read_bytes()


def join_request(job: FaultyJob, out: Path) -> Join:
    return Join(job_dir=job.job_dir(), source=job.clip, out=out, metadata={})


@pytest.mark.soak
def test_a_slow_disk_is_no_silent_child(
    finished: Callable[[str], FaultyJob],
    tmp_path: Path,
    inject: Callable[[Fault], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All reads together take far longer than the child may be silent."""
    job = finished("sleep")
    usual, slow = tmp_path / "usual.mp4", tmp_path / "slow.mp4"
    run_operation(join_request(job, usual), doing="joining")
    monkeypatch.setattr(operation, "STALL_SECONDS", 5.0)
    inject(Fault(at=READ, call=100, do="slow"))
    run_operation(join_request(job, slow), doing="joining")
    assert slow.read_bytes() == usual.read_bytes()


def test_a_job_whose_reads_fail_in_every_phase_comes_out_the_same(
    make_job: Callable[..., FaultyJob], undisturbed: Callable[[str], str]
) -> None:
    """Once while probing, once while decoding, once while joining: each costs a retry."""
    job = make_job()
    places = {
        "fetched": "tasks.fetch:obtain_source",
        "probed": "seedvr2_core.video.probe:probe_video",
        "joined": "seedvr2_core.video.join:join_segments",
    }
    done = [Fault(at=at, do="count", mark=job.place(name)) for name, at in places.items()]
    faults = [
        Fault(at=READ, call=2, do="eio", mark=job.place("1"), after=job.place("fetched")),
        # Who has probed goes on to restore, and to join.
        Fault(at=READ, call=3, do="estale", mark=job.place("2"), since=job.place("probed")),
        Fault(at=READ, call=3, do="eio", mark=job.place("3"), since=job.place("joined")),
    ]
    result = job.result(job.start(*done, *faults))
    assert all(Path(fault.mark).exists() for fault in faults)
    assert result["frames"] == 75
    (output,) = (job.work_dir / "output").glob("*.mp4")
    assert file_sha256(output) == undisturbed("sleep")
