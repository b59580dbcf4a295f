"""The plan of a job on disk: plan.json, and beside it the outline that flow processes read."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from seedvr2_core.errors import SegmentError
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job.job_dir import outline_beside
from seedvr2_core.planning import Plan
from seedvr2_core.planning.outline import PlanOutline, outline_of


def write_plan(path: Path, plan: Plan) -> PlanOutline:
    """Write a plan to `path`, and its outline beside it, each complete or not at all.

    Returns:
        The outline.
    """
    outline = outline_of(plan)
    write_record(outline_beside(path), outline)
    write_record(path, plan)
    return outline


def read_outlines(paths: Iterable[Path]) -> list[PlanOutline]:
    """The outlines that are there and can be read."""
    found: list[PlanOutline] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError, SegmentError):
            found.append(read_record(path, PlanOutline))
    return found


def read_plan(path: Path, planned: PlanOutline) -> Plan:
    """The plan that an earlier run has written for the same job, to be obeyed.

    Args:
        path: plan.json.
        planned: what this run would write.

    Raises:
        SegmentError: the file is damaged, of another format or version, or of another job.
        FileNotFoundError: there is nothing of that name.
    """
    plan = read_record(path, Plan)
    told = (plan.format, plan.pixel_version, plan.job_key, plan.source_sha256)
    asked = (planned.format, planned.pixel_version, planned.job_key, planned.source_sha256)
    if told != asked:
        raise SegmentError(f"{path} is of another job or version")
    return plan
