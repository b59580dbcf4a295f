"""The directory of a job and the name of every file in it.

    jobs/<job_key>/
        plan.json                  the plan, written once and obeyed from then on
        plan.outline.json          what flow processes read of it; made anew by every run
        plan.fresh.json            the plan of a fresh start, until its run holds the job; its
                                   outline is plan.fresh.outline.json
        plan.lock                  held while the plan is written
        job.lock                   held by the run that works on the job; names it (JSON)
        child.lock                 held by the child of that run
        claims.lock                a byte for each segment, locked by the child that makes it
        sharing.json               while other runs may make segments of it: what they must know
        masters.json               while a run works: what it wants of masters (masters.py)
        waiting/                   one empty file for each run that waits for job.lock, by its id
        fresh.run                  id of the run that has started the job afresh
        early.json                 of a job that was begun before all cuts were known: which were
        kernels.json               which kernels were fastest at the start; obeyed then on
        segments/00000.mp4         packets of a segment
        segments/00000.safetensors final latents and tail of a part of a divided shot
        segments/00000.json        sidecar: the segment exists once this file does
        segments/previewed.json    which segments previews have shown
        output.mp4                 the joined file
        preview.jpg                the before/after picture
        before.mp4                 of a preview: the same piece of the source
        report.json                what was measured of the result
        report.html                the same to be read
        result.json                what the run answered

A file that is being written has ".part" behind its name. Jobs of earlier versions are resumed, so
these names do not change.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PART_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class JobDir:
    """The directory of a job. It only names files; none of them needs to exist."""

    path: Path

    @property
    def plan_path(self) -> Path:
        """The plan, a `Plan` record."""
        return self.path / "plan.json"

    @property
    def outline_path(self) -> Path:
        """What a flow process reads of the plan, a `PlanOutline` record."""
        return outline_beside(self.plan_path)

    @property
    def fresh_plan_path(self) -> Path:
        """The plan of a fresh start; it becomes `plan_path` once its run holds the job."""
        return self.path / "plan.fresh.json"

    @property
    def fresh_outline_path(self) -> Path:
        """The outline of that plan."""
        return outline_beside(self.fresh_plan_path)

    @property
    def plan_lock_path(self) -> Path:
        """Held while the plan is written: two equal requests may come at once."""
        return self.path / "plan.lock"

    @property
    def lock_path(self) -> Path:
        """Held by the run that works on the job."""
        return self.path / "job.lock"

    @property
    def child_lock_path(self) -> Path:
        """Held by the child that makes the segments: one of a killed run may still be ending."""
        return self.path / "child.lock"

    @property
    def claims_path(self) -> Path:
        """Has a byte for each segment; whoever makes the segment holds the lock on it."""
        return self.path / "claims.lock"

    @property
    def sharing_path(self) -> Path:
        """A `Sharing` record, while other runs than the one at work may make segments."""
        return self.path / "sharing.json"

    @property
    def masters_path(self) -> Path:
        """A `WantedMasters` record, where the run at work uses or keeps masters."""
        return self.path / "masters.json"

    @property
    def waiting_path(self) -> Path:
        """Folder with one file for each run that waits until the run at work has ended."""
        return self.path / "waiting"

    @property
    def fresh_run_path(self) -> Path:
        """Id of the run that has started the job afresh; its own retries do not do so again."""
        return self.path / "fresh.run"

    @property
    def early_path(self) -> Path:
        """A `SettledCuts` record, where the job was begun before all its cuts were known."""
        return self.path / "early.json"

    @property
    def result_path(self) -> Path:
        """What the run answered, an `UpscaleResult`; stays when everything else is removed."""
        return self.path / "result.json"

    @property
    def kernels_path(self) -> Path:
        """Which kernels were fastest when the job began (`kernels.choice`)."""
        return self.path / "kernels.json"

    @property
    def output_path(self) -> Path:
        """The joined file."""
        return self.path / "output.mp4"

    @property
    def output_part_path(self) -> Path:
        """The joined file while it is written."""
        return _part(self.output_path)

    @property
    def preview_path(self) -> Path:
        """The before/after picture."""
        return self.path / "preview.jpg"

    @property
    def before_path(self) -> Path:
        """Of a preview's own folder: the same piece of the source, whatever its container is."""
        return self.path / "before.mp4"

    @property
    def before_part_path(self) -> Path:
        """That piece while it is written."""
        return _part(self.before_path)

    @property
    def report_json_path(self) -> Path:
        """What was measured of the result, a `QualityReport`."""
        return self.path / "report.json"

    @property
    def report_path(self) -> Path:
        """The same as a page to be read."""
        return self.path / "report.html"

    @property
    def segments_path(self) -> Path:
        """Folder of the segments."""
        return self.path / "segments"

    @property
    def lost_children_path(self) -> Path:
        """How many children of the job were ended because they seemed to hang."""
        return self.segments_path / "lost-children.json"

    @property
    def spent_path(self) -> Path:
        """What the making of the segments has spent so far; removed with them."""
        return self.segments_path / "spent.json"

    @property
    def previewed_path(self) -> Path:
        """Which segments previews have shown; removed with them."""
        return self.segments_path / "previewed.json"

    def spent_path_of(self, helper: int) -> Path:
        """The same of a helper, by its number; 0: of the run itself."""
        return self.segments_path / f"spent-{helper}.json" if helper else self.spent_path

    def spent_paths_of_helpers(self) -> list[Path]:
        """All of these that are there."""
        return sorted(self.segments_path.glob("spent-*.json"))

    def video_path(self, index: int) -> Path:
        """Packets of one segment."""
        return self.segments_path / f"{index:05d}.mp4"

    def video_part_path(self, index: int) -> Path:
        """Packets of one segment until they are checked and committed."""
        return _part(self.video_path(index))

    def latents_path(self, index: int) -> Path:
        """Final latents and tail of one segment, where it is a part of a divided shot."""
        return self.segments_path / f"{index:05d}.safetensors"

    def latents_part_path(self, index: int) -> Path:
        """Latents and tail of one segment while they are written."""
        return _part(self.latents_path(index))

    def sidecar_path(self, index: int) -> Path:
        """The sidecar of one segment; without it the segment does not exist."""
        return self.segments_path / f"{index:05d}.json"

    def part_files(self) -> list[Path]:
        """Files that are half-written, or were when their process was killed."""
        pattern = f"*{PART_SUFFIX}"
        return [*self.path.glob(pattern), *self.segments_path.glob(pattern)]

    def part_files_of(self, indices: Iterable[int]) -> list[Path]:
        """Those of some segments."""
        return [
            part
            for k in indices
            for path in (self.video_path(k), self.latents_path(k), self.sidecar_path(k))
            if os.path.lexists(part := _part(path))
        ]


def outline_beside(plan_path: Path) -> Path:
    """The file with a plan's outline, in the same directory."""
    return plan_path.with_suffix(".outline.json")


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART_SUFFIX)
