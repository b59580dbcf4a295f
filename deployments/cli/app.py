"""The `seedvr2` command: `upscale`, `plan` and `doctor`; the other commands are added here.

Cheap checks run before Prefect is imported, because that takes seconds and a wrong input should be
answered at once. deployments/host/exits.py lists the exit codes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import typer

from deployments.cli.again.command import retry, whole
from deployments.cli.batch.sources import ListFile, VideoBatch, WatchFolder, batch_of
from deployments.cli.compare.command import compare
from deployments.cli.init.command import init
from deployments.cli.jobs import cancel, delete, jobs, logs, status, submit
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
    Fps,
    Fresh,
    Gpu,
    Grain,
    KeepMaster,
    MaxPrice,
    MaxSeconds,
    Model,
    OutputFile,
    Overlap,
    Overwrite,
    Preset,
    Preview,
    Quality,
    Resolution,
    Seed,
    Sources,
    Start,
    StitchMode,
    Strength,
    Videos,
    WeightsFile,
    WorkDir,
    check_file,
    container_for,
    request_of,
)
from deployments.cli.output import (
    Output,
    as_json_line,
    check_work_dir,
    chosen_output,
    delivered_to,
    ending,
)
from deployments.cli.screen import open_display
from deployments.cli.selfcheck import selfcheck
from deployments.cli.serve import serve
from deployments.cli.weights import app as weights_app
from deployments.cli.words import absolute, terminal_columns
from deployments.host.exits import CommandGroup, console, exit_codes, run_program, say, tell
from deployments.host.loopback import keep_loopback_direct
from deployments.host.quiet import outside_the_folder
from tasks.schemas import UpscaleRequest, UpscaleResult
from tasks.settings import Settings, get_settings, use_settings
from tasks.sources import check_source

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Restore and upscale videos with SeedVR2.

    `seedvr2 upscale VIDEO` works on this machine. `submit`, `whole`, `status`, `jobs`, `cancel`,
    `retry`, `delete` and `logs` talk to a gateway, which `seedvr2 serve` starts.""",
)
app.add_typer(weights_app, name="weights")

KEPT = "finished segments are kept"


def _show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from importlib.metadata import version  # ten milliseconds that no other command needs

        typer.echo(f"seedvr2 {version('seedvr2-prefect')}")
        raise typer.Exit


@app.callback()
def before_all(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that stand before a command; --version has ended the program by now."""
    del show_version


@app.command()
def upscale(
    sources: Videos = None,
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
    max_seconds: MaxSeconds = None,
    max_price: MaxPrice = None,
    output: OutputFile = None,
    overwrite: Overwrite = False,
    list_file: ListFile = None,
    watch_folder: WatchFolder = None,
    notify: Notify = None,
    work_dir: WorkDir = None,
    as_json: AsJson = False,
) -> None:
    """Upscale a video, or several, on this machine.

    Several are given as files, folders or a list. The last line of stdout is the path of the
    result, or its address if the storage is remote. After an interruption the same command goes on
    after the last finished segment. No file is ever replaced without --overwrite, and the source
    never is. Of several videos, one that fails does not stop the others; a table at the end tells
    what became of each, and the exit code is 1 if one has failed. The same command again finds what
    is done.
    """
    with notified(notify), exit_codes(KEPT):
        _use_settings(work_dir)
        batch = batch_of(
            sources,
            list_file=list_file,
            watch_folder=watch_folder,
            output=output,
            overwrite=overwrite,
            fps=fps,
        )
        request = _checked_request(
            sources if batch is None else batch,
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
            container=container_for(container, None if batch else output, codec),
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
            max_seconds=max_seconds,
            max_price=max_price,
        )
        check_work_dir(get_settings())
        if batch is not None:
            raise typer.Exit(_run_batch(batch, request, as_json=as_json))
        chosen = chosen_output(output, request, get_settings(), overwrite=overwrite)
        result = _run_flow(request, chosen)
        for line in ending(result):
            say(line)
    tell(as_json_line(result) if as_json else str(result.output_path or result.cdn_url))


@app.command()
def plan(
    sources: Sources = None,
    fps: Fps = "",
    resolution: Resolution = "1080p",
    model: Model = "auto",
    weights_file: WeightsFile = "",
    batch_size: BatchSize = 100,
    temporal_overlap: Overlap = None,
    codec: Codec = "auto",
    container: Container = "auto",
    audio: Audio = "keep",
    deinterlace: Deinterlace = "auto",
    alpha: Alpha = "auto",
    start: Start = "",
    end: End = "",
    preview: Preview = "",
    encoder: Encoder = "software",
    grain: Grain = 0.0,
    allow_damaged: AllowDamaged = False,
    keep_master: KeepMaster = False,
    max_seconds: MaxSeconds = None,
    max_price: MaxPrice = None,
    gpu: Gpu = None,
    work_dir: WorkDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what upscaling a video would take, without doing it.

    Prints the output's size, the engine, segments, memory, the expected time and price. An address
    is downloaded, and the job finds the video there.
    """
    with exit_codes("what was downloaded is kept, no job was begun", then="run it again"):
        _use_settings(work_dir)
        request = _checked_request(
            sources,
            fps=fps,
            resolution=resolution,
            model=model,
            weights_file=weights_file,
            batch_size=batch_size,
            temporal_overlap=temporal_overlap,
            codec=codec,
            container=container,
            audio=audio,
            deinterlace=deinterlace,
            alpha=alpha,
            start=start,
            end=end,
            preview=preview,
            encoder=encoder,
            grain=grain,
            allow_damaged=allow_damaged,
            keep_master=keep_master,
            max_seconds=max_seconds,
            max_price=max_price,
        )
        with outside_the_folder():
            from deployments.cli.plan import planned_summary

            summary = planned_summary(request, get_settings(), gpu=gpu, say=say)
    tell(summary.model_dump_json() if as_json else summary.as_text(terminal_columns()))


@app.command()
def doctor(work_dir: WorkDir = None, as_json: AsJson = False) -> None:
    """Check what this machine can run.

    Looks at packages, devices, work directory, storage and weights. Exits with 1 if no job can run.
    """
    with exit_codes("it only looks, nothing was changed", then="run it again"):
        _use_settings(work_dir)
        with outside_the_folder():
            from deployments.cli.doctor import examine

            report = examine(get_settings())
    tell(report.model_dump_json() if as_json else report.as_text(terminal_columns()))
    raise typer.Exit(0 if report.usable else 1)


for command in (compare, init, selfcheck, serve):
    app.command()(command)
for command in (submit, whole, status, jobs, cancel, retry, delete, logs):  # of a gateway
    app.command()(command)


def _use_settings(work_dir: Path | None) -> None:
    """Use settings that fit one's own machine: they allow local files and running without a GPU."""
    settings = Settings(allow_local_files=True, allow_cpu_engine=True)
    if work_dir is not None:
        chosen = absolute(work_dir, "--work-dir")
        settings = settings.model_copy(update={"work_dir": chosen})
    use_settings(settings)


def _checked_request(sources: list[str] | VideoBatch | None, **options: object) -> UpscaleRequest:
    """Make the request and check it as far as this is possible without running anything.

    Of a batch only what all its videos have in common is checked.
    """
    given = [sources.example] if isinstance(sources, VideoBatch) else sources
    request = request_of(given, **options)
    from tasks.run.spending import limit_seconds

    limit_seconds(request.max_seconds, request.max_price, get_settings())
    if isinstance(sources, VideoBatch):
        return request
    if request.video_path is None:
        check_source(request, get_settings())
    check_file(request, get_settings())
    return request


def _run_flow(request: UpscaleRequest, output: Output | None) -> UpscaleResult:
    """Run the flow in this process and show its progress."""
    _set_up_prefect()
    with outside_the_folder():
        from tasks.run.record import shown_to

        with (
            delivered_to(output),
            open_display(console) as display,
            shown_to(display),
            _prefect_api(),
        ):
            from flows.upscale import upscale as upscale_flow

            return cast(UpscaleResult, upscale_flow(**request.model_dump(exclude_none=True)))


def _run_batch(batch: VideoBatch, asked: UpscaleRequest, *, as_json: bool) -> int:
    """Run the flow for each video of a batch, all recorded by one Prefect API."""
    from deployments.cli.batch.run import check_batch, upscale_batch

    def run(request: UpscaleRequest) -> UpscaleResult:
        if request.video_path is None:
            check_source(request, get_settings())
        check_file(request, get_settings())
        return _run_flow(request, None)

    check_batch(batch, get_settings())
    _set_up_prefect()
    with outside_the_folder(), _prefect_api():
        return upscale_batch(batch, asked, get_settings(), run=run, as_json=as_json)


def _set_up_prefect() -> None:
    """Say what Prefect is to do, before it is imported."""
    # Prefect prints errors with tracebacks. We print one sentence; the run's logs keep the rest.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # Prefect's own temporary server outlives a command that is killed; `_prefect_api` starts ours.
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"


@contextmanager
def _prefect_api() -> Iterator[None]:
    """Make sure there is a Prefect API to record the run in.

    It is the one of PREFECT_API_URL or of the Prefect profile. If neither names one, it is that of
    a `seedvr2 serve` on the same PREFECT_HOME, else a server that runs as long as the block does.
    """
    from prefect.settings import PREFECT_API_URL

    from deployments.host.prefect_server import check_api, open_api

    if url := PREFECT_API_URL.value():
        check_api(url)
        yield
        return

    with open_api(get_settings().work_dir / "prefect-server.log"):
        yield


def main() -> None:
    """Run the `seedvr2` script."""
    keep_loopback_direct()
    run_program(app)


if __name__ == "__main__":
    main()
