"""Copies of finished jobs, for tests that change them."""

import shutil
from pathlib import Path


def copy_jobs(finished: Path, work_dir: Path) -> None:
    """Copy all jobs of a work directory into another one, where their stored outputs are lost.

    Their records must not lead to the original's outputs: a run would find them there.
    """
    shutil.copytree(finished / "jobs", work_dir / "jobs")
    for record in work_dir.glob("jobs/*/result.json"):
        record.write_text(record.read_text().replace(str(finished), str(work_dir)))
