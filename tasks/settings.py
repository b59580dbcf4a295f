"""Settings of the installation: the only reader of the environment.

Every field is an environment variable with the prefix SEEDVR2_ (SEEDVR2_WORK_DIR, ...). What a
job is asked to do is no setting: that is the request (`tasks/schemas.py`).
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from seedvr2_core.errors import InvalidRequestError

RESOLUTIONS = ("720p", "1080p", "2k", "4k")


class Settings(BaseSettings):
    """What this machine or pool allows and where it keeps things."""

    model_config = SettingsConfigDict(env_prefix="SEEDVR2_", extra="ignore", frozen=True)

    work_dir: Path = Field(
        default=Path.home() / ".seedvr2",
        description="Intake, sources and jobs; finished segments live here. Needs working flock.",
    )
    output_dir: Path | None = Field(
        default=None, description="Folder of the local storage; default WORK_DIR/output."
    )
    weights_dir: Path | None = Field(
        default=None, description="Plain folder with the model's weights; default WORK_DIR/weights."
    )
    hf_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Hub that weights come from, a mirror's address; default huggingface.co.",
    )
    test_engines: bool = Field(
        default=False, description="Offer the models tiny and tiny-3b, which restore nothing."
    )
    storage: Literal["local"] = Field(default="local", description="Where outputs are put.")
    segment_seconds: float = Field(
        default=10.0, gt=0, description="Presentation time after which a segment is closed."
    )
    resolutions: Annotated[tuple[str, ...], NoDecode] = Field(
        default=RESOLUTIONS,
        description="Comma list of what this pool takes; others are refused at the door.",
    )
    allow_cpu_engine: bool = Field(
        default=False, description="model=auto may become span where no GPU or weights are."
    )
    allow_local_files: bool = Field(
        default=False, description="video_path may name a file of this machine."
    )
    device: str = Field(
        default="auto", description="auto, cpu or cuda:N; auto takes the first GPU there is."
    )
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Comma list of host[:port] that may be private addresses; empty: none.",
    )
    fetch_max_bytes: int = Field(default=50 * 10**9, gt=0, description="Largest source accepted.")
    fetch_seconds: float = Field(default=3600.0, gt=0, description="Longest download.")
    stall_seconds: float | None = Field(
        default=None, gt=0, description="Overrides the planned limit without a heartbeat."
    )
    job_seconds: float | None = Field(
        default=None, gt=0, description="Overrides the planned limit of a whole job."
    )

    @field_validator("resolutions", "fetch_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read a comma list."""
        if isinstance(value, str):
            return tuple(item.strip().lower() for item in value.split(",") if item.strip())
        return value

    @field_validator("resolutions")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse resolutions that do not exist."""
        if unknown := set(value) - set(RESOLUTIONS):
            raise ValueError(f"unknown resolutions {sorted(unknown)}; known: {RESOLUTIONS}")
        return value

    @property
    def storage_dir(self) -> Path:
        """Folder of the local storage."""
        return self.output_dir or self.work_dir / "output"

    @property
    def weights_folder(self) -> Path:
        """Folder of the weights."""
        return self.weights_dir or self.work_dir / "weights"


def child_environment() -> dict[str, str]:
    """Environment of whatever runs a model: ours, and what torch asks for on a GPU.

    An allocator that wastes little memory; a cuBLAS workspace with which sums have one order.
    """
    return {
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **os.environ,
    }


_override: list[Settings] = []


def get_settings() -> Settings:
    """The settings in force: the environment's, or what `use_settings` put in their place."""
    return _override[-1] if _override else Settings()


def use_settings(settings: Settings) -> None:
    """Let this process use these settings (the command line does, from its own options)."""
    _override[:] = [settings]


def check_pool(resolution: str) -> None:
    """Refuse a resolution that this pool does not take.

    Raises:
        InvalidRequestError: the run was created on the wrong pool.
    """
    allowed = get_settings().resolutions
    if resolution not in allowed:
        raise InvalidRequestError(
            f"this pool takes {', '.join(allowed)}, got {resolution}; start the run on the "
            "deployment for that resolution"
        )
