"""Copies of finished jobs, for tests that change them."""

import shutil
from pathlib import Path


def copy_jobs(finished: Path, work_dir: Path) -> None:
    """Copy all jobs and probes of a work directory into another one; their stored outputs are lost.

    Their records must not lead to the original's outputs: a run would find them there.
    """
    for folder in ("jobs", "probes"):
        shutil.copytree(finished / folder, work_dir / folder)
    for record in work_dir.glob("jobs/*/result.json"):
        record.write_text(record.read_text().replace(str(finished), str(work_dir)))
