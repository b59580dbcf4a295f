"""One job on two machines without a common disk: who makes what, by a real S3-compatible server.

What a child does is done by a thread here: it takes what is free in its directory, as a child does,
and commits files of a few bytes.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from seedvr2_core.child.protocol import Event
from seedvr2_core.child.shares import Shares, Work
from seedvr2_core.files import write_record
from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.job.claims import Claims
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.job.sharing import Sharing
from seedvr2_core.job.sidecar import Making, commit_segment
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import outline_of
from seedvr2_core.planning.plan import Plan
from tasks.net.bucket import Bucket
from tasks.parts import division
from tasks.parts.division import Divider, HelperDivider, JobDivider, Sender
from tasks.settings import Settings
from tasks.store import JobCopy
from tasks.store.claims import OFFER, StoreClaims
from tests.kits.factories import make_info, make_options
from tests.kits.faults import wait_until
from tests.kits.http.s3 import S3

RUN, HELPER = "11111111-2222-3333-4444-555555555555", "66666666-2222-3333-4444-555555555555"
LEASE_SECONDS = 3.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_SECONDS", "_IDLE_SECONDS"):
        monkeypatch.setattr(division, name, 0.2)
    monkeypatch.setattr("tasks.store.keeper.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("tasks.store.keeper._AGAIN_SECONDS", 0.2)


@pytest.fixture
def plan() -> Plan:
    plan = build_plan(make_info(), "a", make_options(segment_seconds=1))
    assert len(plan.segments) == 12
    return plan


class Quiet:
    """Hears what a child tells."""

    def emit(self, event: Event) -> None:
        """Nobody listens."""

    def beat(self, phase: str, done: int, total: int) -> None:
        """Nobody listens."""


@dataclass(kw_only=True)
class Machine:
    """A directory with a child at work, and what the flow's process does beside it."""

    folder: Path
    plan: Plan
    bucket: Bucket
    run_id: str
    helps: bool = False
    frame_seconds: float = 0.02
    made: list[int] = field(default_factory=list)
    killed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.job_dir = JobDir(self.folder)
        self.job_dir.segments_path.mkdir(parents=True)
        write_plan(self.job_dir.plan_path, self.plan)
        self.outline = outline_of(self.plan)
        self.copy = JobCopy(self.bucket, self.plan.job_key)
        self.claims = StoreClaims(
            self.bucket,
            self.plan.job_key,
            run_id=self.run_id,
            holder=self.folder.name,
            seconds=LEASE_SECONDS,
        )
        self.offer = f"{self.copy.folder}/{OFFER}"
        self.divider = self._divider()
        self.sender = Sender(self.claims, self.copy, self.job_dir, self.outline, number=1)
        self.child = threading.Thread(target=self._work, daemon=True)
        self.committing = threading.Lock()
        """Held until what is committed counts as made."""

    def _divider(self) -> Divider:
        if self.helps:
            sharing = Sharing(
                run_id=RUN,
                workers=2,
                device="cpu",
                source=self.folder,
                source_name="a",
                source_bytes=1,
            )
            write_record(self.job_dir.sharing_path, sharing)
            return HelperDivider(self.claims, self.copy, self.job_dir, self.outline, workers=2)

        def offer() -> bool:
            self.bucket.write(self.offer, b"{}")
            return True

        return JobDivider(
            self.claims, self.copy, self.job_dir, self.outline, workers=2, offer=offer
        )

    def start(self) -> "Machine":
        if self.helps:  # a job offers its segments before it asks for helpers
            wait_until(lambda: self.claims.look().wanted, "the job wants help", seconds=60)
            self.sender.start()
        else:
            self.bucket.create(f"{self.copy.folder}/plan.json", b"{}")
        self.divider.start()
        self.child.start()
        return self

    def lose(self) -> None:
        """As when a machine is lost: nobody gives anything up."""
        self.killed.set()
        for beside in (self.divider, self.sender):
            beside._look = lambda: None  # type: ignore[method-assign]

    def stop(self) -> None:
        self.killed.set()
        if self.helps:
            self.sender.stop()
        self.divider.stop()
        self.child.join(30)

    def _work(self) -> None:
        indices = tuple(segment.index for segment in self.plan.segments)
        work = Work(indices=indices, helps=RUN if self.helps else "", waits=True)
        with Claims(self.job_dir) as claims:
            for share in Shares(self.plan, self.job_dir, claims, work, Quiet()):
                for segment in share:
                    time.sleep(self.frame_seconds * segment.num_frames)
                    if self.killed.is_set():
                        return
                    part = self.job_dir.video_part_path(segment.index)
                    part.write_bytes(b"pictures of %d" % segment.index)
                    making = Making(device="cpu", precision="", seconds=0.1)
                    place = self.outline.segments[segment.index]
                    with self.committing:
                        commit_segment(self.job_dir, self.outline, place, making)
                        self.made.append(segment.index)

    @property
    def is_whole(self) -> bool:
        with self.committing:
            return not pending_segments(self.job_dir, self.outline)


@pytest.fixture
def bucket(s3: S3, settings_with: Callable[..., Settings]) -> Bucket:
    return Bucket(s3.address, settings_with(store=s3.address, **s3.settings()))


@pytest.fixture
def machine(plan: Plan, bucket: Bucket, tmp_path: Path) -> Callable[..., Machine]:
    def make(name: str, **fields: object) -> Machine:
        run_id = HELPER if fields.get("helps") else RUN
        return Machine(folder=tmp_path / name, plan=plan, bucket=bucket, run_id=run_id, **fields)

    return make


def test_each_segment_is_made_once_and_the_job_has_all(
    machine: Callable[..., Machine], plan: Plan, bucket: Bucket
) -> None:
    job, helper = machine("job").start(), machine("helper", helps=True).start()
    wait_until(lambda: job.is_whole, "the job has all segments", seconds=60)
    assert sorted(job.made + helper.made) == [segment.index for segment in plan.segments]
    assert job.made
    assert helper.made
    bucket.delete(job.offer)
    job.stop()
    helper.child.join(30)
    assert not helper.child.is_alive(), "it waits no longer"
    helper.stop()
    assert [name for name in bucket.names(job.copy.folder) if "/holders/" in name] == []


@pytest.mark.long
def test_what_a_lost_helper_has_claimed_is_made_by_the_job(
    machine: Callable[..., Machine], plan: Plan
) -> None:
    job, helper = machine("job", frame_seconds=0.04).start(), machine("helper", helps=True).start()
    wait_until(lambda: helper.made, "the helper was at work", seconds=60)
    helper.lose()
    wait_until(lambda: job.is_whole, "the job has all segments", seconds=60)
    assert max(Counter(job.made).values()) == 1
    job.stop()
    helper.stop()


@pytest.mark.long
def test_what_a_lost_run_had_claimed_is_free_for_its_next_attempt(
    machine: Callable[..., Machine], plan: Plan
) -> None:
    first = machine("first").start()
    wait_until(lambda: first.made, "it was at work", seconds=60)
    first.lose()
    second = machine("second").start()
    wait_until(lambda: second.is_whole, "it has all segments", seconds=60)
    second.stop()
    first.stop()


@pytest.mark.long
def test_what_the_store_has_lost_is_made_by_the_job(
    machine: Callable[..., Machine], plan: Plan, bucket: Bucket
) -> None:
    """The helper that has made it believes that it is there."""
    helper = machine("helper", helps=True)
    for name in ("plan.json", OFFER):
        bucket.write(f"{helper.copy.folder}/{name}", b"{}")
    helper.start()
    wait_until(lambda: len(helper.claims.look().finished) == 12, "all was sent", seconds=60)
    lost = [name for name in bucket.names(helper.copy.folder) if "/segments/00004." in name]
    bucket.delete(*[name for name in lost if not name.endswith("00004.json")])
    job = machine("job").start()
    wait_until(lambda: job.is_whole, "the job has all segments", seconds=60)
    assert job.made == [4]
    job.stop()
    helper.stop()


@pytest.mark.long
def test_what_helpers_have_spent_is_known_to_the_job(
    machine: Callable[..., Machine], bucket: Bucket
) -> None:
    job, folder = machine("job"), f"jobs/{machine('other').plan.job_key}/notes"
    bucket.write(f"{folder}/spent-2.json", b"of the second")
    bucket.write(f"{folder}/spent-x.json", b"of nobody")
    job.start()
    wait_until(lambda: job.is_whole, "the job has all segments", seconds=60)
    job.stop()
    assert job.job_dir.spent_path_of(2).read_bytes() == b"of the second"
    assert len(list(job.job_dir.segments_path.glob("spent-*"))) == 1


@pytest.mark.long
def test_a_store_that_is_away_holds_the_job_up_for_a_lease_at_most(
    machine: Callable[..., Machine], plan: Plan, s3: S3
) -> None:
    job = machine("job").start()
    wait_until(lambda: job.made, "it was at work", seconds=60)
    s3.line.fail("away", ".", times=100_000)
    wait_until(lambda: job.is_whole, "the job has all segments", seconds=60)
    assert sorted(job.made) == [segment.index for segment in plan.segments]
    s3.line.mend()
    job.stop()


@pytest.mark.long
def test_a_helper_without_its_store_waits_and_goes_on(
    machine: Callable[..., Machine], bucket: Bucket, s3: S3
) -> None:
    """Nobody would get what it made meanwhile."""
    helper = machine("helper", helps=True)
    for name in ("plan.json", OFFER):
        bucket.write(f"{helper.copy.folder}/{name}", b"{}")
    helper.start()
    wait_until(lambda: helper.made, "it was at work", seconds=60)
    s3.line.fail("away", ".", times=100_000)
    time.sleep(LEASE_SECONDS + 2.0)
    made = len(helper.made)
    time.sleep(1.0)
    assert len(helper.made) == made
    assert made < 12
    s3.line.mend()
    wait_until(lambda: len(helper.made) == 12, "it goes on", seconds=60)
    helper.stop()


@pytest.mark.long
@pytest.mark.parametrize("late", [False, True], ids=["in time", "while it is sent"])
def test_nothing_stays_that_is_sent_once_no_help_is_wanted(
    machine: Callable[..., Machine], bucket: Bucket, s3: S3, late: bool
) -> None:
    """The objects of a job that has ended are removed: what came later would stay for ever."""
    helper = machine("helper", helps=True)
    for name in ("plan.json", OFFER):
        bucket.write(f"{helper.copy.folder}/{name}", b"{}")
    if late:
        s3.line.fail("slow", "^PUT .*segments", times=2)
    helper.start()
    wait_until(lambda: helper.made, "it was at work", seconds=60)
    if late:
        wait_until(lambda: "slow" in s3.line.happened, "something was being sent", seconds=60)
    bucket.delete(helper.offer)
    time.sleep(0.0 if late else 2.0)
    bucket.delete(*bucket.names(helper.copy.folder))
    helper.child.join(30)
    assert not helper.child.is_alive()
    helper.stop()
    assert bucket.names(helper.copy.folder) == []


def claims_of(bucket: Bucket, run_id: str, holder: str, seconds: float = 60.0) -> StoreClaims:
    return StoreClaims(bucket, "key", run_id=run_id, holder=holder, seconds=seconds)


def test_a_claim_has_one_holder_until_it_is_given_up_or_the_holder_is_gone(bucket: Bucket) -> None:
    one, other = claims_of(bucket, RUN, "a"), claims_of(bucket, HELPER, "b")
    one.sign()
    assert one.take(3)
    assert one.take(3), "its own"
    assert not other.take(3)
    assert not other.take_over(3)
    assert other.look().claimed == {3}
    other.release([3])
    assert one.look().claimed == {3}, "it is not the other's"
    one.release([3])
    assert other.take_over(3), "free"
    assert one.look().claimed == {3}
    other.leave()
    assert one.take_over(3), "the other has left"


@pytest.mark.long
def test_a_holder_that_is_silent_for_a_lease_is_gone(bucket: Bucket) -> None:
    silent, other = claims_of(bucket, RUN, "a"), claims_of(bucket, HELPER, "b", seconds=2.0)
    silent.sign()
    assert silent.take(0)
    assert not other.take_over(0)
    time.sleep(3.0)
    assert other.take_over(0)


def test_an_earlier_attempt_of_the_same_run_is_gone(bucket: Bucket) -> None:
    earlier, now = claims_of(bucket, RUN, "a"), claims_of(bucket, RUN, "b")
    earlier.sign()
    assert earlier.take(0)
    assert now.take_over(0)
