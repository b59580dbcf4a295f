"""The settings of the processes that read videos and run models; a part of `tasks/settings.py`."""

from pydantic import BaseModel, Field

from tasks.setting_types import Seconds


class ChildSettings(BaseModel, defer_build=True):
    """What a child process may take, and how long it may live."""

    stall_seconds: Seconds | None = Field(
        default=None,
        description="How many seconds the restoring process may show no sign of life before it is "
        "ended and started again. Not set: planned for each job from resolution and batch size, "
        "and doubled each time a process of the job was ended for that.",
    )
    job_seconds: Seconds | None = Field(
        default=None,
        description="How many seconds the restoring of a job may take in all; then it fails, and a "
        "new run goes on. Not set: as long as the job gets ahead.",
    )
    warm_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How many seconds the process with the loaded engine outlives its job, to take "
        "the next one without loading it again. It holds its GPU's memory meanwhile, ends with its "
        "worker, and makes way for any other job here. Without effect where each job has a "
        "container of its own. 0: it ends with its job.",
    )
    child_memory_bytes: int | None = Field(
        default=None,
        ge=2**29,
        description="How much private memory a child process may ask for where it works on the "
        "CPU: all that reads videos, and small engines. Not set: as much as the machine or the "
        "container has.",
    )
    confine_children: bool = Field(
        default=True,
        description="Take network, new rights and the sight of other processes from the child "
        "processes that read videos and run models. Turn it off only if a GPU's driver does not "
        "work in them; `seedvr2 doctor` says which parts are on.",
    )
