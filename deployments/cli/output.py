"""Where `seedvr2 upscale` puts its result, checked before the work begins, and what it says at the
end.
"""

import itertools
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.cli.options import is_folder
from deployments.cli.words import absolute, amount, duration
from seedvr2_core.errors import BudgetError, InvalidRequestError, ResourceError
from seedvr2_core.files.place import try_writing
from seedvr2_core.files.space import check_room
from seedvr2_core.job.output_file import OutputFile, check_output_file
from seedvr2_core.words import counted
from tasks.schemas import PlannedJob, UpscaleRequest, UpscaleResult, output_key_of
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.run.record import JobProgress


def check_work_dir(settings: Settings) -> None:
    """Make the work directory and write to it, so that no job begins that cannot keep its files.

    Raises:
        InvalidRequestError: it is a file, or cannot be made or written.
        ResourceError: its disk is full.
    """
    folder = settings.work_dir.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_room(folder, 0, doing="a job")
        try_writing(folder)
    except ResourceError as error:
        raise ResourceError(f"the work directory's disk is full: {error}") from error
    except OSError as error:
        blocking = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), folder)
        reason = f"{blocking} is no folder" if not blocking.is_dir() else error.strerror
        raise InvalidRequestError(
            f"the work directory {folder} cannot be used: {reason}; name another with --work-dir "
            "or SEEDVR2_WORK_DIR"
        ) from error


class Output:
    """The file that --output names. It also listens to the job, to refuse it once it is planned."""

    def __init__(self, file: OutputFile, made_by: str | None) -> None:
        """Use `chosen_output`.

        Args:
            file: the checked file.
            made_by: key of the output that is there; None if there is none.
        """
        self.file = file
        self._made_by = made_by
        self.needs_whole_plan = made_by is not None
        """Whose file it is, only the job's key says."""

    def planned(self, job: PlannedJob) -> None:
        """Refuse a job that would make another video than the one that is there.

        Raises:
            InvalidRequestError: the file is another job's result.
        """
        if self._made_by not in (None, job.output_key):
            kind, helps = (
                ("folder", "; a folder is never replaced")
                if self.file.folder
                else ("file", ", or replace it with --overwrite")
            )
            raise InvalidRequestError(
                f"the output {kind} {self.file.path} is there already, made from another source or "
                f"with other options; choose another name{helps}"
            )

    def progressed(self, progress: "JobProgress") -> None:
        """Nothing: only the plan matters here."""


def chosen_output(
    path: Path | None, request: UpscaleRequest, settings: Settings, *, overwrite: bool
) -> Output | None:
    """Check the file that --output names; None if the option is not given.

    A file that an earlier run of the command has made may be there: whether this is the same
    request is known when the job is planned.

    Raises:
        InvalidRequestError: why the result cannot be written there.
    """
    if path is None:
        if overwrite:
            raise InvalidRequestError("--overwrite is about the file of --output, which is missing")
        return None
    if settings.storage != "local":
        raise InvalidRequestError(
            f"--output needs the local storage, got SEEDVR2_STORAGE={settings.storage}; leave "
            "--output out, the command then prints the result's address"
        )
    wanted = absolute(path, "--output")
    if request.preview:
        wanted = wanted.with_name(f"{wanted.stem}.preview{wanted.suffix}")
    source = Path(request.video_path) if request.video_path else None
    folder = is_folder(wanted, request.container)
    file = OutputFile(path=wanted, overwrite=overwrite, source=source, folder=folder)
    made_by = None if overwrite or request.fresh else _maker(wanted, settings)
    if made_by is None:
        check_output_file(file)
    elif not folder:
        check_output_file(OutputFile(path=wanted, overwrite=True, source=source))
    return Output(file, made_by)


def _maker(path: Path, settings: Settings) -> str | None:
    """Key of the output that this file is, byte for byte; None if there is none."""
    from seedvr2_core.files import file_sha256
    from seedvr2_core.files.unpacking import archive_of

    made_of = archive_of(path)
    if made_of is None and not path.is_file():
        return None
    sha256 = file_sha256(path) if made_of is None else made_of.sha256
    records = (settings.jobs_dir.glob(f"{name}/result.json") for name in ("*", "*/preview-*"))
    for record in itertools.chain(*records):
        try:
            made = UpscaleResult.model_validate_json(record.read_bytes())
        except (OSError, ValueError):  # a job without a readable result has made no file here
            continue
        if made.output_path == str(path) and made.sha256 == sha256:
            return output_key_of(made.job_key, made.preview)
    return None


@contextmanager
def delivered_to(output: Output | None) -> Iterator[None]:
    """Let the job inside the block store its result where the command wants it."""
    if output is None:
        yield
        return
    from tasks.run.record import shown_to
    from tasks.storage.open import stored_as

    with stored_as(output.file), shown_to(output):
        yield


def ending(result: UpscaleResult) -> list[str]:
    """What was made, for people: the file, the work, what was kept, where the picture is."""
    place = result.output_path or result.cdn_url or result.filename
    lines = [
        f"{'already done' if result.already_done else 'done'}: {place}",
        f"  {result.width}x{result.height}, {counted(result.frames, 'frame')}, "
        f"{amount(result.output_size_mb)}, made by {result.engine}"
        + (f" from {result.source_name}" if result.source_name else ""),
    ]
    if not result.already_done:
        made = result.frames - result.frames_reused
        rate = f", {made / result.seconds:.1f} frames/s" if made and result.seconds else ""
        lines.append(f"  {duration(result.seconds)}{rate}{_account(result)}")
        if result.frames_reused:
            lines.append(f"  {result.frames_reused} of {counted(result.frames, 'frame')} kept")
    lines += [f"  note: {note}" for note in result.notes]
    if result.preview_path:
        lines.append(f"  before and after: {result.preview_path}")
    if result.preview:
        if result.preview.before_path:
            lines.append(f"  the source there: {result.preview.before_path}")
        lines.append(f"  to make the whole video: {whole_command(sys.argv[1:])}")
    if result.report_path:
        lines.append(f"  report: {result.report_path}")
    return lines


def whole_command(arguments: Sequence[str]) -> str:
    """The command that makes the whole video, of the arguments of the one that made a preview.

    Without --fresh, which would not keep what the preview has made.
    """
    kept, rest = ["seedvr2"], iter(arguments)
    for one in rest:
        if one == "--":  # names of files follow, whatever they look like
            kept += [one, *rest]
        elif one == "--preview":
            next(rest, None)
        elif one != "--fresh" and not one.startswith("--preview="):
            kept.append(one)
    return shlex.join(kept)


def gateway_options(gateway: str | None, token_file: Path | None) -> list[str]:
    """The options that name a gateway, for commands that are shown."""
    options = {"--gateway": gateway, "--token-file": token_file and str(token_file)}
    return [word for name, value in options.items() if value for word in (name, value)]


def whole_job_told(job: Mapping[str, Any], options: Sequence[str]) -> str:
    """Of a completed preview: the command that makes the whole video there; "" of other jobs."""
    if not job.get("whole_with"):
        return ""
    return f"to make the whole video: {shlex.join(['seedvr2', 'whole', job['job_id'], *options])}"


def retry_told(job: Mapping[str, Any], options: Sequence[str]) -> str:
    """Of a job that has failed or was cancelled: the command that goes on with it; else ""."""
    if job["status"] not in ("failed", "cancelled"):
        return ""
    words = ["seedvr2", "retry", job["job_id"], *options]
    if job["error_code"] != BudgetError.code:
        return f"to try it again: {shlex.join(words)}"
    words.insert(3, "--no-limit")
    return f"to go on (or with a larger --max-seconds or --max-price): {shlex.join(words)}"


def _account(result: UpscaleResult) -> str:
    """Prediction and truth of the work, and what it cost."""
    told = ""
    if result.estimated_seconds is not None and result.taken_seconds is not None:
        expected, taken = duration(result.estimated_seconds), duration(result.taken_seconds)
        told = f"; expected {expected} from the plan on, taken {taken}"
    return told + ("" if result.cost is None else f"; cost {result.cost:.2f}")


def as_json_line(result: UpscaleResult) -> str:
    """The result as one line of JSON that holds ASCII alone, safe for any terminal."""
    return json.dumps(result.model_dump(mode="json"))
