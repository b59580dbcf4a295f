"""`seedvr2 submit`, `status`, `cancel` and `logs`: jobs of a gateway, here or on another machine.

One way for all of them: the gateway's HTTP API, which has tokens, idempotency and uploads, and
needs no Prefect on this side. The gateway is --gateway, SEEDVR2_GATEWAY_URL, or the one that
`seedvr2 serve` starts by default.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli.options import (
    AsJson,
    BatchSize,
    ColorCorrection,
    Crf,
    Fresh,
    Model,
    Overlap,
    Preset,
    Resolution,
    Seed,
    Sources,
    StitchMode,
    request_of,
)
from deployments.cli.screen import ENDED, watch, where_it_is
from deployments.gateway.client import Answer, Gateway
from deployments.host.exits import exit_codes, say, screen
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources import check_source

KEPT = "the job goes on"
_LATE_SECONDS = 15.0
"""Prefect takes log lines in batches: how far back to look for late ones."""
_FOLLOW_SECONDS = 2.0

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id that submit printed.")]
GatewayUrl = Annotated[
    str | None,
    typer.Option("--gateway", help="Its address; default SEEDVR2_GATEWAY_URL or port 8000 here."),
]
Watch = Annotated[bool, typer.Option("--watch", help="Show progress until the job has ended.")]


def submit(
    sources: Sources = None,
    resolution: Resolution = "1080p",
    model: Model = "auto",
    batch_size: BatchSize = 100,
    temporal_overlap: Overlap = None,
    stitch_mode: StitchMode = "crossfade",
    seed: Seed = 100,
    color_correction: ColorCorrection = "auto",
    crf: Crf = 18,
    preset: Preset = "medium",
    fresh: Fresh = False,
    upload: Annotated[
        bool, typer.Option("--upload", help="Send a file's bytes even to a gateway that sees it.")
    ] = False,
    watched: Watch = False,
    gateway: GatewayUrl = None,
    as_json: AsJson = False,
) -> None:
    """Hand a video to a gateway; the last line is the job's id, or its result with --watch."""
    with exit_codes(KEPT), _gateway(gateway) as line:
        request = request_of(
            sources,
            resolution=resolution,
            model=model,
            batch_size=batch_size,
            temporal_overlap=temporal_overlap,
            stitch_mode=stitch_mode,
            seed=seed,
            color_correction=color_correction,
            crf=crf,
            preset=preset,
            fresh=fresh,
        )
        _check(request)
        answer = line.submit(request, upload=upload)
        say(f"job {answer['job_id']} on {answer['deployment']}")
        for note in answer["notes"]:
            say(f"note: {note}")
        if watched:
            _watch(line, answer["job_id"], as_json)
        else:
            typer.echo(json.dumps(answer) if as_json else answer["job_id"])


def status(
    job: JobId, watched: Watch = False, gateway: GatewayUrl = None, as_json: AsJson = False
) -> None:
    """Show where a job is; with --watch until it has ended, exit 1 if it has not succeeded."""
    with exit_codes(KEPT), _gateway(gateway) as line:
        if watched:
            _watch(line, job, as_json)
            return
        _show(line.status(job), as_json)


def cancel(job: JobId, gateway: GatewayUrl = None, as_json: AsJson = False) -> None:
    """Cancel a job; finished segments are kept."""
    with exit_codes(KEPT), _gateway(gateway) as line:
        _show(line.cancel(job), as_json)


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job has ended.")] = False,
    gateway: GatewayUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show what a job has logged; with --json one object a line."""
    with exit_codes(KEPT), _gateway(gateway) as line:
        seen: set[str] = set()
        after = None
        ended = not follow
        while True:
            # Asked before the lines are read: the last look comes after the end.
            ended = ended or line.status(job)["status"] in ENDED
            if follow and ended:
                time.sleep(_FOLLOW_SECONDS)  # its last batch may be on the way
            for entry in line.logs(job, seen, after):
                typer.echo(json.dumps(entry) if as_json else _log_line(entry))
                after = _earlier(entry["at"])
            if ended:
                return
            time.sleep(_FOLLOW_SECONDS)


@contextmanager
def _gateway(url: str | None) -> Iterator[Gateway]:
    """The gateway that is meant."""
    line = Gateway(Settings(), url=url, say=say)
    try:
        yield line
    finally:
        line.close()


def _check(request: UpscaleRequest) -> None:
    """What can be seen from here: a file is a video. Addresses are for the gateway to judge."""
    if request.video_path is None:
        return
    check_source(request, Settings(allow_local_files=True))
    from seedvr2_core.video.probe import sniff_video

    sniff_video(Path(request.video_path))


def _watch(line: Gateway, job_id: str, as_json: bool) -> None:
    """Show a job until its end, then where its result is."""
    try:
        job = watch(lambda: line.status(job_id), screen)
    except KeyboardInterrupt:
        say(f"no longer watching; the job goes on: seedvr2 status {job_id} --watch")
        raise typer.Exit(130) from None
    for note in job["notes"]:
        say(f"note: {note}")
    if as_json:
        typer.echo(json.dumps(job))
    elif job["status"] == "completed":
        typer.echo(job["download_url"] or job["output_path"])
    if job["status"] != "completed":
        say(f"error: job {job_id} has {job['status']}: {job['error']}")
        raise typer.Exit(1)


def _show(job: Answer, as_json: bool) -> None:
    """A job's status, for people or scripts."""
    if as_json:
        typer.echo(json.dumps(job))
        return
    typer.echo(where_it_is(job))
    for name in ("download_url", "output_path", "error"):
        if job[name]:
            typer.echo(f"{name}: {job[name]}")


def _log_line(entry: dict[str, Any]) -> str:
    """Time, level, message."""
    at = datetime.fromisoformat(entry["at"]).astimezone()
    return f"{at:%H:%M:%S} {entry['level']:<8}{entry['message']}"


def _earlier(at: str) -> str:
    """From when on to look for lines the next time."""
    return (datetime.fromisoformat(at) - timedelta(seconds=_LATE_SECONDS)).isoformat()
