"""The two artifacts in which a run publishes its progress and its result.

This module alone knows how they are stored: it writes them, and `recover`, the gateway and the
callback read them through it. Databases keep artifacts for years, so the format does not change.

- `upscale-progress`: data is the percentage. The metadata holds strings only: `beat_at`, `phase`,
  `stall_limit`, `deadline`, `alive_every`, `frames`, `num_frames`, `seconds_left`, `detail`, `job`
  (a `Prospect` as JSON) and the fields of `Measures`. Prefect cuts a value after 500 characters, so
  a longer `job` is there in pieces as well: `job_0`, `job_1`, ... Each attempt of a run has one.
- `upscale-result`: a table of two columns, `what` and `value`, with a row for each field of an
  `UpscaleResult`; its notes are one text with a line for each. Until November 2026 it was one row
  with a column for each field; both are read.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.sorting import ArtifactSort

from seedvr2_core.words import counted
from tasks.run.measures import Measures, as_text, from_text
from tasks.schemas import Account, Prospect, UpscaleResult

PROGRESS_KEY = "upscale-progress"
RESULT_KEY = "upscale-result"

MOST_CHARACTERS = 500
"""Of a value in an artifact's metadata: Prefect cuts what is longer, and appends "..."."""

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedProgress:
    """What a progress artifact says; every field is None where the run has not said it yet."""

    phase: str | None = None
    percent: float | None = None
    """0..100; it never falls within an attempt."""
    frames: int | None = None
    """Restored frames, those that an earlier run has kept included."""
    num_frames: int | None = None
    seconds_left: float | None = None
    """Seconds from `beat_at` until the output is stored."""
    detail: str | None = None
    """What is going on where frames do not say it: whom the job waits for, "30 of 400 MB"."""
    description: str | None = None
    """What people read: how many frames are done, or what else is going on."""
    beat_at: datetime | None = None
    """The last sign of life, by the clock of the machine that runs the job."""
    stall_seconds: float | None = None
    """Seconds without another sign of life after which this phase counts as hung."""
    deadline: datetime | None = None
    """When the job passes the limit that its operator set; most jobs have none."""
    alive_seconds: float | None = None
    """The process renews the artifact at least this often, whatever its work does."""
    prospect_json: str | None = None
    """The planned job. `prospect` parses it."""
    began_at: datetime | None = None
    """When the artifact was created, by the server's clock: the attempt's first sign of life."""
    renewed_at: datetime | None = None
    """When the artifact was last renewed, by the server's clock."""
    measures: Measures = field(default_factory=Measures)

    @property
    def prospect(self) -> Prospect | None:
        """What the job will produce; None before it is planned.

        Parsed on use: the gateway never needs it, and must not fail at one of a newer version.
        """
        text = self.prospect_json
        if not text:
            return None
        # One of an older version may be cut, within its notes, and has nothing else behind them.
        whole = text.partition(',"notes":')[0] + "}" if text.endswith("...") else text
        return Prospect.model_validate_json(whole)


def artifact_filter(run_ids: Sequence[UUID], *keys: str) -> ArtifactFilter:
    """The artifacts of these runs that have one of these keys."""
    wanted = {"flow_run_id": {"any_": list(run_ids)}, "key": {"any_": list(keys)}}
    return ArtifactFilter.model_validate(wanted)


def newest_artifact(client: SyncPrefectClient, run_id: UUID, key: str) -> list[Artifact]:
    """The last artifact of that key, for `read_progress` or `read_result`; [] if there is none."""
    return client.read_artifacts(
        artifact_filter=artifact_filter([run_id], key), sort=ArtifactSort.CREATED_DESC, limit=1
    )


def save_progress(run_id: UUID, progress: SavedProgress, artifact_id: UUID | None) -> UUID:
    """Create the progress artifact of an attempt, or update the one with this id.

    Returns:
        The artifact's id, for the next update.

    Raises:
        PrefectException, httpx.HTTPError: the server did not take it.
    """
    told: dict[str, Any] = {
        "data": progress.percent,
        "description": progress.description,
        "metadata_": _metadata(progress),
    }
    with get_client(sync_client=True) as client:
        if artifact_id is None:
            artifact = ArtifactCreate(key=PROGRESS_KEY, type="progress", flow_run_id=run_id, **told)
            return client.create_artifact(artifact).id
        # Prefect's own method also sends an event, which its server keeps for a week. Nobody
        # listens for it, and a job of three hours would leave ten thousand.
        update = ArtifactUpdate(**told).model_dump(mode="json", exclude_unset=True)
        client.request("PATCH", "/artifacts/{id}", json=update, path_params={"id": artifact_id})
        return artifact_id


def _metadata(progress: SavedProgress) -> dict[str, str]:
    """The metadata of a progress artifact: what is known, each value as a string."""
    beat_at, deadline, left = progress.beat_at, progress.deadline, progress.seconds_left
    told = {
        "phase": progress.phase,
        "beat_at": beat_at.isoformat(timespec="milliseconds") if beat_at else None,
        "stall_limit": progress.stall_seconds,
        "deadline": deadline.isoformat(timespec="seconds") if deadline else None,
        "alive_every": progress.alive_seconds,
        "frames": progress.frames,
        "num_frames": progress.num_frames,
        "seconds_left": None if left is None else f"{left:.1f}",
        "detail": progress.detail,
        "job": progress.prospect_json,
        **_pieces("job", progress.prospect_json or ""),
    }
    known = {name: str(value) for name, value in told.items() if value is not None}
    return known | as_text(progress.measures)


def _pieces(name: str, text: str) -> dict[str, str]:
    """A text in values that Prefect does not cut; {} if it is short enough to be one."""
    if len(text) <= MOST_CHARACTERS:
        return {}
    starts = range(0, len(text), MOST_CHARACTERS)
    return {f"{name}_{k}": text[at : at + MOST_CHARACTERS] for k, at in enumerate(starts)}


def _joined(name: str, told: Mapping[str, str]) -> str | None:
    """The text that `_pieces` has divided, or the value that is there alone."""
    pieces = list(itertools.takewhile(bool, (told.get(f"{name}_{k}") for k in itertools.count())))
    return "".join(map(str, pieces)) if pieces else told.get(name)


def read_progress(artifacts: Iterable[Artifact]) -> SavedProgress:
    """What a run's progress artifact says.

    Args:
        artifacts: of one run, the newest first; a run that was started again has several.

    Returns:
        The newest progress; an empty record if there is none.
    """
    artifact = _first(artifacts, PROGRESS_KEY)
    if artifact is None:
        return SavedProgress()
    told: dict[str, str] = artifact.metadata_ or {}
    data = artifact.data
    return SavedProgress(
        phase=told.get("phase"),
        percent=float(data) if isinstance(data, int | float) else None,
        description=artifact.description,
        beat_at=_time(told.get("beat_at")),
        frames=_number(told.get("frames"), int),
        num_frames=_number(told.get("num_frames"), int),
        seconds_left=_number(told.get("seconds_left"), float),
        detail=told.get("detail"),
        stall_seconds=_number(told.get("stall_limit"), float),
        deadline=_time(told.get("deadline")),
        alive_seconds=_number(told.get("alive_every"), float),
        prospect_json=_joined("job", told),
        began_at=artifact.created,
        renewed_at=artifact.updated,
        measures=from_text(told),
    )


def publish_result(result: UpscaleResult) -> None:
    """Write the result artifact.

    Raises:
        PrefectException, httpx.HTTPError: the server did not take it.
    """
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactCreate(
                key=RESULT_KEY,
                type="table",
                data=json.dumps(_rows(result)),
                description=_summary(result),
                flow_run_id=UUID(result.job_id),
            )
        )


def _rows(result: UpscaleResult) -> list[dict[str, Any]]:
    """The rows of the result artifact; what has no value has no row."""
    told = result.model_dump(mode="json", exclude_none=True)
    told["notes"] = "\n".join(note.replace("\n", " ") for note in result.notes)
    told["tags"] = ", ".join(result.tags)
    told["metadata"] = json.dumps(result.metadata, ensure_ascii=False) if result.metadata else ""
    names = sorted(told, key=lambda name: name in Account.model_fields)  # what was made comes first
    return [{"what": name, "value": told[name]} for name in names if told[name] != ""]


def _summary(result: UpscaleResult) -> str:
    """What a person wants to know first, in Markdown: where the video is, what it is, a picture."""
    picture = f"\n\n![before and after]({result.preview_url})" if result.preview_url else ""
    where = result.report_url or result.report_path
    told = f"[report]({where})" if result.report_url else f"report: {where}"
    report = f"\n\n{told}" if where else ""
    return (
        f"{result.cdn_url or result.output_path}\n\n"
        f"{result.width}x{result.height}, {counted(result.frames, 'frame')}, "
        f"{result.input_size_mb:g} MB -> {result.output_size_mb:g} MB, "
        f"engine {result.engine}, {result.seconds:g} s{report}{picture}"
    )


def read_result(artifacts: Iterable[Artifact]) -> Mapping[str, Any]:
    """The fields of `UpscaleResult` that a run has published.

    Args:
        artifacts: of one run, the newest first.

    Returns:
        The newest result; {} if there is none. Those of older versions lack fields.
    """
    artifact = _first(artifacts, RESULT_KEY)
    if artifact is None or not isinstance(artifact.data, str):
        return {}
    rows = json.loads(artifact.data)
    if not rows or "what" not in rows[0]:
        return rows[0] if rows else {}
    told = dict.fromkeys(UpscaleResult.model_fields) | {r["what"]: r["value"] for r in rows}
    told["sha256"] = told["sha256"] or ""  # a storage may not have computed it
    told["tags"] = [tag for tag in str(told["tags"] or "").split(", ") if tag]
    told["metadata"] = json.loads(told["metadata"]) if told["metadata"] else {}
    return told | {"notes": str(told["notes"] or "").splitlines()}


def _first(artifacts: Iterable[Artifact], key: str) -> Artifact | None:
    return next((artifact for artifact in artifacts if artifact.key == key), None)


def _number(text: str | None, kind: type[N]) -> N | None:
    return None if text is None else kind(text)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
