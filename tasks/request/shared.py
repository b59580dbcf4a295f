"""Parts of several schemas: their base, what a result is coded as, its account, a preview."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel, defer_build=True):
    """Base of all schemas: unknown fields are refused, and values cannot be changed."""

    # Addresses may carry secrets in their query strings, and errors end up in logs.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class OutputFormat(Record):
    """What a result is coded as; records of older versions have none."""

    codec: str = Field(default="h264", description="What the pictures are coded as.")
    bits: int = Field(default=8, description="Bits a sample.")
    container: str = Field(default="mp4", description="The kind of its file.")
    hdr: Literal["experimental"] | None = Field(
        default=None, description="Set where the result is HDR."
    )
    deinterlace: Literal["bwdif", "bob", "film"] | None = Field(
        default=None,
        description="How frames are made of fields: one of each picture (`bwdif`), one of each "
        "field (`bob`), or those of a film (`film`).",
    )
    alpha: Literal["kept", "flattened"] | None = Field(
        default=None,
        description="What became of alpha: `kept`, or `flattened` (put on a colour). Null where "
        "nothing shows through.",
    )


class Account(Record):
    """What a run was expected to take and what it has taken; None where it was not measured."""

    estimated_seconds: float | None = None
    """Expected from the plan to the stored output, for what this run had to make."""
    taken_seconds: float | None = None
    """The same as measured."""
    gpu_seconds: float | None = None
    """Seconds for which the job has held its GPU, in all of its runs; None on a CPU."""
    cost: float | None = None
    """What that cost, or the CPU's time; None where SEEDVR2_HOUR_PRICE is not set."""
    device: str | None = None
    """What the engine ran on."""
    seed: int | None = None
    """Seed of the noise; None for engines that draw none."""
    engine_was_warm: bool | None = None
    """Whether an earlier job had loaded the engine; None if this run needed none."""


class KeptWork(Record):
    """What a run has found made of its job."""

    segments: int = 0
    frames: int = 0
    """Of these segments."""
    previewed: int = 0
    """How many of these segments a preview has shown."""


class PreviewPart(Record):
    """The piece of a job's film that a preview shows, and what is made for it."""

    asked: str = Field(description="What the request asked for.")
    first: int = Field(description="First frame of the piece, in the whole result.")
    stop: int = Field(description="The frame behind its last one.")
    start_seconds: float = Field(description="When the first frame is shown.")
    end_seconds: float = Field(description="When the last one has been shown.")
    segments: tuple[int, ...] = Field(
        description="Segments of the whole job that the piece touches, counted from 0; these are "
        "made, and the whole job keeps them."
    )
    frames: int = Field(description="Frames of these segments.")
    seconds: float = Field(description="Expected seconds of making them.")
    price: float | None = Field(default=None, description="Its expected price, if known.")
    of_segments: int = Field(description="Segments of the whole job.")
    whole_frames: int = Field(description="Frames of the whole job.")
    whole_seconds: float = Field(description="Expected seconds of the whole job.")
    whole_price: float | None = Field(default=None, description="The same of the whole job.")
    exact: bool = Field(
        default=True,
        description="Whether these segments have the bits of the whole job for certain. If not, "
        "the notes say why.",
    )
    before_path: str | None = Field(
        default=None, description="The same piece of the source on the machine that ran the job."
    )
    before_url: str | None = Field(default=None, description="Its public address, if it has one.")

    @property
    def folder(self) -> str:
        """Name of its folder in the directory of the whole job."""
        return f"preview-{self.first}-{self.stop}"


def own_folder(job_dir: Path, preview: PreviewPart | None) -> Path:
    """Where a run keeps its result: the job's directory, or in it the folder of a preview."""
    return job_dir / preview.folder if preview else job_dir


def output_key_of(job_key: str, preview: PreviewPart | None) -> str:
    """What names an output: the job's key, or a digest of it and of the piece that is shown."""
    if preview is None:
        return job_key
    return hashlib.sha256(f"{job_key}/{preview.folder}".encode()).hexdigest()


def key_in(result: Mapping[str, Any]) -> str:
    """The same of a published result."""
    told = result.get("preview")
    preview = PreviewPart.model_validate(told) if told else None
    return output_key_of(str(result.get("job_key") or ""), preview)
