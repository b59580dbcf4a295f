"""One job made by 1, 2 and 4 child processes at once: the joined file has the same bytes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from seedvr2_core.child.protocol import Event, Idle, Join, Restore, Taken
from seedvr2_core.files import file_sha256, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.job.sharing import Sharing
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.probe import probe_video
from tasks.child import Child, run_operation
from tasks.settings import Settings
from tests.kits.factories import make_options
from tests.kits.pipeline import use_small_pictures
from tests.kits.restorer import ENGINE

RUN = "11111111-2222-3333-4444-555555555555"
CASES: dict[str, Sequence[int]] = {"one long shot": (), "cuts": (9, 31, 34, 60)}


@pytest.fixture(autouse=True)
def _settings(settings_with: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    settings_with(test_engines=True)
    use_small_pictures(monkeypatch)


def plan_of(clip: Path, cuts: Sequence[int]) -> Plan:
    """The tiny network in float32, windows of 3 latents, segments of about eight frames."""
    engine = replace(ENGINE, name="tiny", window=3, overlap=1)
    options = make_options(segment_seconds=0.3, preset="ultrafast", cpu_count=1)
    plan = build_plan(probe_video(clip), "0" * 64, replace(options, engine=engine), cuts=cuts)
    assert plan.memory is not None
    assert {plan.memory.vae_dtype, plan.memory.dit_dtype} == {"float32"}
    return plan


def made_by(workers: int, plan: Plan, clip: Path, folder: Path) -> tuple[str, Counter[int]]:
    """Let so many processes make a job.

    Returns:
        SHA-256 of the joined file, and how many segments each process has taken.
    """
    job_dir = JobDir(folder)
    folder.mkdir()
    write_plan(job_dir.plan_path, plan)
    sharing = Sharing(
        run_id=RUN,
        workers=workers,
        device="cpu",
        source=clip,
        source_name=clip.name,
        source_bytes=clip.stat().st_size,
    )
    write_record(job_dir.sharing_path, sharing)
    children = [Child() for _ in range(workers)]
    try:
        for number, child in enumerate(children):
            child.send(
                Restore(
                    job_dir=folder,
                    source=clip,
                    device="cpu",
                    weights_dir=folder,
                    lock_dir=folder,
                    segments=tuple(range(len(plan.segments))),
                    workers=workers,
                    helps=RUN if number else "",
                )
            )
        # The run's own child comes last: it ends when all segments are there.
        taken = Counter({k: taken_by(child) for k, child in reversed(list(enumerate(children)))})
    finally:
        for child in children:
            child.close()
    join = Join(job_dir=folder, source=clip, out=job_dir.output_path, metadata={})
    run_operation(join, doing="joining the segments")
    return file_sha256(job_dir.output_path), taken


def taken_by(child: Child) -> int:
    """How many segments a child has taken, when it has nothing left to do."""
    taken, event = 0, Event()
    while not isinstance(event, Idle):
        event = child.next_event(stall_seconds=120, doing="the test")
        taken += len(event.segments) if isinstance(event, Taken) else 0
    return taken


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_processes_makes_the_same_bytes(
    demo_clip: Path, tmp_path: Path, name: str
) -> None:
    plan = plan_of(demo_clip, CASES[name])
    assert len(plan.shots) == 1 + len(CASES[name])
    digests: set[str] = set()
    for workers in (1, 2, 4):
        digest, taken = made_by(workers, plan, demo_clip, tmp_path / str(workers))
        digests.add(digest)
        print(name, workers, digest[:12], taken)
        assert taken.total() == len(plan.segments), "each segment is made once"
        assert workers == 1 or sum(n > 0 for n in taken.values()) > 1, "somebody helped"
    assert len(digests) == 1
