"""`seedvr2 submit`, `status`, `jobs`, `cancel`, `delete` and `logs`: the jobs of a gateway.

All use the gateway's HTTP API and need no Prefect. The gateway is the one of --gateway or
SEEDVR2_GATEWAY_URL, else the one that `seedvr2 serve` starts on this machine.
"""

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr

from deployments.cli.notify import Notify, notified
from deployments.cli.options import (
    AllowDamaged,
    Alpha,
    AsJson,
    Audio,
    BatchSize,
    Codec,
    ColorCorrection,
    Container,
    Crf,
    Deinterlace,
    Encoder,
    End,
    ExpiresIn,
    Fps,
    Fresh,
    Grain,
    KeepMaster,
    MaxPrice,
    MaxSeconds,
    MaxWorkers,
    Metadata,
    Model,
    Overlap,
    Preset,
    Preview,
    Quality,
    Resolution,
    Seed,
    Sources,
    Start,
    StitchMode,
    Strength,
    Tags,
    WeightsFile,
    check_file,
    request_of,
)
from deployments.cli.output import gateway_options, retry_told, whole_job_told
from deployments.cli.screen import (
    ENDED,
    error_words,
    job_line,
    remedy_words,
    status_line,
    watch,
)
from deployments.cli.words import ENDED_WELL, earlier, log_line, terminal_columns, wrapped
from deployments.host.exits import console, exit_codes, say, tell, tell_remedy
from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings

if TYPE_CHECKING:
    from deployments.gateway.client import Answer, GatewayClient

_FOLLOW_SECONDS = 2.0
"""Pause between two looks at a log."""
_INTERRUPTED = {
    "submit": ("what was sent is kept", "run it again to go on"),
    "whole": ("the gateway may have made the job", "run it again, it is the same job"),
    "retry": ("the gateway may have made the job", "run it again, it is the same job"),
    "status": ("the job goes on", "run it again to look"),
    "jobs": ("all jobs go on", "run it again to look"),
    "cancel": ("the job may be cancelled already", "look with seedvr2 status"),
    "delete": ("a part may be removed already", "run it again to remove the rest"),
    "logs": ("the job goes on", "run it again to read on"),
}
"""Command -> what Ctrl-C has not stopped or lost, and what to do then."""

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id that submit printed.")]
GatewayUrl = Annotated[
    str | None,
    typer.Option("--gateway", help="Its address; default SEEDVR2_GATEWAY_URL or this machine."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", help="File with the gateway's token; default SEEDVR2_GATEWAY_TOKEN."
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Show the progress until the job ends.")]


def submit(
    sources: Sources = None,
    fps: Fps = "",
    resolution: Resolution = "1080p",
    model: Model = "auto",
    weights_file: WeightsFile = "",
    batch_size: BatchSize = 100,
    temporal_overlap: Overlap = None,
    stitch_mode: StitchMode = "crossfade",
    seed: Seed = 100,
    color_correction: ColorCorrection = "auto",
    strength: Strength = 1.0,
    codec: Codec = "auto",
    container: Container = "auto",
    quality: Quality = None,
    audio: Audio = "keep",
    deinterlace: Deinterlace = "auto",
    alpha: Alpha = "auto",
    start: Start = "",
    end: End = "",
    preview: Preview = "",
    crf: Crf = 18,
    preset: Preset = "medium",
    encoder: Encoder = "software",
    grain: Grain = 0.0,
    allow_damaged: AllowDamaged = False,
    fresh: Fresh = False,
    keep_master: KeepMaster = False,
    max_workers: MaxWorkers = 1,
    max_seconds: MaxSeconds = None,
    max_price: MaxPrice = None,
    tags: Tags = "",
    metadata: Metadata = "",
    expires_in: ExpiresIn = None,
    upload: Annotated[
        bool,
        typer.Option("--upload", help="Send the file's bytes even if the gateway sees the file."),
    ] = False,
    watched: Watch = False,
    notify: Notify = None,
    gateway: GatewayUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Submit a video to a gateway.

    The last line of stdout is the job's id; with --watch it is the result's address or path.
    """
    with notified(notify), open_gateway("submit", gateway, token_file) as client:
        request = request_of(
            sources,
            fps=fps,
            resolution=resolution,
            model=model,
            weights_file=weights_file,
            batch_size=batch_size,
            temporal_overlap=temporal_overlap,
            stitch_mode=stitch_mode,
            seed=seed,
            color_correction=color_correction,
            strength=strength,
            codec=codec,
            container=container,
            quality=quality,
            audio=audio,
            deinterlace=deinterlace,
            alpha=alpha,
            start=start,
            end=end,
            preview=preview,
            crf=crf,
            preset=preset,
            encoder=encoder,
            grain=grain,
            allow_damaged=allow_damaged,
            fresh=fresh,
            keep_master=keep_master,
            max_workers=max_workers,
            max_seconds=max_seconds,
            max_price=max_price,
            tags=tags,
            metadata=metadata,
            expires_in=expires_in,
        )
        # Only a file is checked here. Whether it accepts an address is for the gateway to decide.
        check_file(request, Settings(allow_local_files=True))
        answer = client.submit(request, upload=upload)
        follow_job(client, answer, watched, as_json, gateway_options(gateway, token_file))


def status(
    job: JobId,
    watched: Watch = False,
    notify: Notify = None,
    gateway: GatewayUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a job.

    With --watch it shows the progress until the job ends, and exits with 1 if it has not completed.
    """
    with notified(notify), open_gateway("status", gateway, token_file) as client:
        if watched:
            _watch(client, job, as_json, gateway_options(gateway, token_file))
            return
        _print_status(client.status(job), as_json, gateway_options(gateway, token_file))


def jobs(
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100, help="How many jobs to show.")
    ] = 20,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Only jobs with this tag; several: with all.")
    ] = None,
    gateway: GatewayUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the gateway's jobs, newest first.

    With --json every line is one JSON object, as `status` prints it.
    """
    with open_gateway("jobs", gateway, token_file) as client:
        found = client.jobs(limit, tag or ())
        for job in found:
            tell(json.dumps(job) if as_json else job_line(job, terminal_columns()))
        if not found:
            say("the gateway has no such jobs" if tag else "the gateway has no jobs")


def cancel(
    job: JobId,
    gateway: GatewayUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job; finished segments are kept."""
    with open_gateway("cancel", gateway, token_file) as client:
        _print_status(client.cancel(job), as_json, gateway_options(gateway, token_file))


def delete(
    job: JobId,
    gateway: GatewayUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove what a job has made.

    That is its output in storage, its report and its work files. A job that waits or is at work
    must be cancelled first. An output that another job has as well stays.
    """
    with open_gateway("delete", gateway, token_file) as client:
        answer = client.delete(job)
        if as_json:
            typer.echo(json.dumps(answer))
            return
        for name in answer["removed"]:
            tell(f"removed {name}")
        for sentence in answer["kept"]:
            tell(f"kept {sentence}")
        if not answer["removed"] and not answer["kept"]:
            say("nothing was left to remove")


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    gateway: GatewayUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the log of a job.

    With --json every line is one JSON object.
    """
    with open_gateway("logs", gateway, token_file) as client:
        seen: set[str] = set()
        after = None
        ended = not follow
        while True:
            # Asked before the lines are read, so that we read once more after the job's end.
            ended = ended or client.status(job)["status"] in ENDED
            if follow and ended:
                time.sleep(_FOLLOW_SECONDS)  # the last batch of lines may still be on the way
            for entry in client.logs(job, seen, after):
                if as_json or entry["message"] != ENDED_WELL:
                    tell(json.dumps(entry) if as_json else log_line(entry))
                after = earlier(entry["at"])
            if ended:
                return
            time.sleep(_FOLLOW_SECONDS)


@contextmanager
def open_gateway(
    command: str, url: str | None, token_file: Path | None
) -> Iterator["GatewayClient"]:
    """Open a client of the gateway at `url`, or of the settings' one, with the token of a file.

    Errors of the block end the command with a sentence and an exit code; what Ctrl-C says goes by
    the command.
    """
    kept, then = _INTERRUPTED[command]
    with exit_codes(kept, then=then):
        settings = Settings()
        if token_file is not None:
            token = SecretStr(_token_in(token_file))
            settings = settings.model_copy(update={"gateway_token": token})
        from deployments.gateway.client import GatewayClient

        client = GatewayClient(settings, url=url, say=say)
        try:
            yield client
        finally:
            client.close()


def _token_in(path: Path) -> str:
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InvalidRequestError(f"--token-file {path} cannot be read: {reason}") from error
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidRequestError(f"--token-file {path} holds no token: one line is expected")
    return token


def follow_job(
    client: "GatewayClient", answer: "Answer", watched: bool, as_json: bool, door: list[str]
) -> None:
    """End a command that has made a job: say where; watch it, or print its id or the answer."""
    say(f"job {answer['job_id']} on {answer['deployment']}")
    for note in answer["notes"]:
        say(f"note: {note}")
    if watched:
        _watch(client, answer["job_id"], as_json, door)
    else:
        typer.echo(json.dumps(answer) if as_json else answer["job_id"])


def _watch(client: "GatewayClient", job_id: str, as_json: bool, door: list[str]) -> None:
    """Show a job until it ends, then print its result; exits with 1 if it has not completed."""
    try:
        job = watch(client.follow(job_id), console)
    except KeyboardInterrupt:
        words = ["seedvr2", "status", job_id, "--watch", *door]
        say(f"no longer watching; the job goes on: {shlex.join(words)}")
        raise typer.Exit(130) from None
    for note in job["notes"]:
        say(f"note: {note}")
    if told := whole_job_told(job, door):
        say(told)
    if as_json:
        typer.echo(json.dumps(job))
    elif job["status"] == "completed":
        tell(job["download_url"] or job["output_path"] or job["filename"] or "")
    if job["status"] != "completed":
        say(f"error: job {job_id} has {job['status']}: {error_words(job)}")
        tell_remedy(remedy_words(job))
        say(retry_told(job, door))
        raise typer.Exit(1)


def _print_status(job: "Answer", as_json: bool, door: list[str]) -> None:
    """Print a job's status, for people or as JSON."""
    if as_json:
        typer.echo(json.dumps(job))
        return
    tell(wrapped(status_line(job)))
    for name in ("download_url", "output_path"):
        if job[name]:
            tell(f"{name}: {job[name]}")
    if told := whole_job_told(job, door):
        tell(told)
    if job["error"]:
        tell(f"error: {error_words(job)}")
    if remedy := remedy_words(job):
        tell(f"what helps: {remedy}")
    if told := retry_told(job, door):
        tell(told)
