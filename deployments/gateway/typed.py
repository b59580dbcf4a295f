"""A typed client of the gateway, for other programs: `seedvr2.client` (docs/developer.md).

    from seedvr2.client import TypedClient

    with TypedClient("https://gateway.example.org", token="...") as client:
        job = client.submit("clip.mp4", resolution="1080p", model="seedvr2-7b")
        ended = client.wait(job["job_id"], on_status=lambda s: print(s["progress"]))
        client.download(ended, "restored.mp4")

Answers are plain dictionaries, typed as the gateway's OpenAPI document has them; a test compares
the two. It waits and asks again while the gateway is away, as the command does. It imports no
Prefect and no torch.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack, cast
from urllib.parse import quote

import httpx

from deployments.gateway.client import ENDED, GatewayClient
from seedvr2_core.errors import ServiceError
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings

JobState = Literal["pending", "processing", "completed", "failed", "cancelled"]


class JobTicket(TypedDict):
    """A job that was submitted; `Submitted` in the OpenAPI document."""

    job_id: str
    status: JobState
    gpu_type: str
    deployment: str
    resolution: str
    video_url: str | None
    notes: list[str]


class JobStatus(TypedDict):
    """A job; `Job` in the OpenAPI document, which says what each field means."""

    job_id: str
    status: JobState
    state: str
    progress: float
    phase: str | None
    source_name: str | None
    engine: str | None
    width: int | None
    height: int | None
    frames: int | None
    frames_done: int | None
    seconds_left: float | None
    seconds_left_low: float | None
    seconds_left_high: float | None
    segment: int | None
    segments: int | None
    frames_per_second: float | None
    estimated_seconds: float | None
    taken_seconds: float | None
    device: str | None
    seed: int | None
    gpu_seconds: float | None
    cost: float | None
    engine_was_warm: bool | None
    detail: str | None
    position: int | None
    gpu_type: str | None
    resolution: str | None
    download_url: str | None
    output_path: str | None
    filename: str | None
    input_size_mb: float | None
    output_size_mb: float | None
    error: str | None
    error_code: str | None
    error_remedy: str | None
    elapsed_seconds: float
    submitted_at: str | None
    notes: list[str]
    waiting_for: str | None
    tags: list[str]
    metadata: dict[str, Any]
    preview: dict[str, Any] | None
    whole_with: str | None
    expires_at: str | None
    deleted_at: str | None


class JobDeletion(TypedDict):
    """What was removed; `Deleted` in the OpenAPI document."""

    job_id: str
    removed: list[str]
    kept: list[str]
    removed_bytes: int
    deleted_at: str


class LogEntry(TypedDict):
    """One line of a job's log; `LogLine` in the OpenAPI document."""

    id: str
    at: str
    level: str
    message: str


class UpscaleOptions(TypedDict, total=False):
    """The options of a request, as docs/options.md has them; what is left out has its default."""

    fps: str
    resolution: str
    model: str
    start: str
    end: str
    preview: str
    deinterlace: str
    alpha: str
    weights_file: str
    batch_size: int
    temporal_overlap: int | None
    stitch_mode: str
    seed: int
    color_correction: str
    strength: float
    codec: str
    container: str
    quality: int | None
    audio: str
    crf: int
    preset: str
    encoder: str
    grain: float
    allow_damaged: bool
    fresh: bool
    keep_master: bool
    max_workers: int
    max_seconds: float | None
    max_price: float | None
    output_url: str | None
    callback_url: str | None
    callback_events: str | list[str]
    tags: str | list[str]
    metadata: str | dict[str, Any]
    expires_in: float | None


class TypedClient:
    """Talks to one gateway; a context manager.

    All methods raise ServiceError if the gateway fails or cannot be reached, and the error that the
    gateway names by its code (docs/errors.md), such as InvalidRequestError, if it refuses.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        on_wait: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Use the gateway at `url`.

        Args:
            url: its address, with the path under which a proxy serves it.
            token: bearer token; None where it asks for none.
            on_wait: called with a sentence when the client begins to wait for the gateway.
        """
        settings = Settings.model_validate({"gateway_url": url, "gateway_token": token})
        self._gateway = GatewayClient(settings, url=url, say=on_wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._gateway.close()

    def submit(self, source: str | Path, **options: Unpack[UpscaleOptions]) -> JobTicket:
        """Create a job.

        Args:
            source: an address (http(s)://, s3://, gs://, az://), or a file: its path is sent to a
                gateway on this machine that takes paths, else its bytes.
            options: as for `UpscaleOptions`.
        """
        text = str(source)
        is_address = "://" in text or text.startswith("upload:")
        place = {"video_url": text} if is_address else {"video_path": str(Path(source).absolute())}
        request = UpscaleRequest.model_validate({**place, **options})
        return cast(JobTicket, self._gateway.submit(request))

    def status(self, job_id: str) -> JobStatus:
        """A job's state, progress and result."""
        return cast(JobStatus, self._gateway.status(job_id))

    def follow(self, job_id: str) -> Iterator[JobStatus]:
        """A job's status whenever it changes; the last one has ended."""
        return cast(Iterator[JobStatus], self._gateway.follow(job_id))

    def wait(
        self, job_id: str, *, on_status: Callable[[JobStatus], None] = lambda status: None
    ) -> JobStatus:
        """Wait for a job's end, whatever that is; returns its last status."""
        for status in self.follow(job_id):
            on_status(status)
            if status["status"] in ENDED:
                return status
        raise ServiceError(f"the gateway stopped telling about job {job_id}; ask again")

    def whole(self, job_id: str) -> JobTicket:
        """Create the job of the whole video of a completed preview, whose segments it keeps.

        Asked twice, it is the same job.
        """
        return cast(JobTicket, self._gateway.whole(job_id))

    def retry(
        self,
        job_id: str,
        *,
        max_seconds: float | None = None,
        max_price: float | None = None,
        no_limit: bool = False,
    ) -> JobTicket:
        """Create a failed or cancelled job again; it goes on with the segments that are kept.

        Asked twice, it is the same job.

        Args:
            job_id: the job that has ended.
            max_seconds: with this or `max_price`, the limits in the place of those that it had.
                One that its limit has stopped needs a larger one, or none.
            max_price: the same as a price.
            no_limit: the new job has neither.
        """
        again = self._gateway.retry(
            job_id, max_seconds=max_seconds, max_price=max_price, no_limit=no_limit
        )
        return cast(JobTicket, again)

    def jobs(self, limit: int = 20, *, tags: Sequence[str] = ()) -> list[JobStatus]:
        """The newest jobs of this token, at most 100; with tags, only those that have all."""
        return cast(list[JobStatus], self._gateway.jobs(limit, tags))

    def delete(self, job_id: str) -> JobDeletion:
        """Remove what a job that has ended has made."""
        return cast(JobDeletion, self._gateway.delete(job_id))

    def cancel(self, job_id: str) -> JobStatus:
        """Cancel a job; finished segments are kept."""
        return cast(JobStatus, self._gateway.cancel(job_id))

    def logs(self, job_id: str) -> Iterator[LogEntry]:
        """All lines that a job has logged so far, oldest first."""
        return cast(Iterator[LogEntry], self._gateway.logs(job_id, set(), None))

    def download(self, job: JobStatus, path: str | Path) -> Path:
        """Fetch the result of a completed job into a file, complete or not at all.

        Raises:
            FileExistsError: nothing of yours is replaced.
            ServiceError: the job has no result that can be fetched, or it did not come whole.
        """
        target = Path(path)
        if target.exists():
            raise FileExistsError(f"{target} exists; give another name, or remove it")
        part = target.with_name(target.name + ".part")
        try:
            if job["download_url"]:
                _fetch(job["download_url"], part)
            elif job["output_path"] and Path(job["output_path"]).is_file():
                shutil.copyfile(job["output_path"], part)
            else:
                raise ServiceError(
                    f"job {job['job_id']} ({job['status']}) has no result that can be fetched from "
                    "here; it must be completed, and its storage have a public address"
                )
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        return target


def _fetch(url: str, part: Path) -> None:
    """Write what an address gives into a file.

    Raises:
        ServiceError: it refuses, or does not give all.
    """
    shown = quote(url, safe=":/")
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=60.0) as answer:
            if answer.status_code != httpx.codes.OK:
                raise ServiceError(f"{shown} answers {answer.status_code}; ask for the job again")
            with part.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
    except httpx.HTTPError as error:
        raise ServiceError(f"{shown} did not come whole ({error!r}); try again") from error
