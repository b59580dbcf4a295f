"""Upscales several videos one after another and tells at the end what became of each."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.cli.batch.sources import VideoBatch, resting_files
from deployments.cli.batch.summary import EndedVideo, show_summary
from deployments.cli.output import as_json_line, ending
from deployments.host.exits import say, tell, tell_remedy, tell_unexpected
from seedvr2_core.errors import InvalidRequestError, SeedVR2Error, remedy_of, with_code
from tasks.schemas import UpscaleRequest, UpscaleResult, check_request
from tasks.settings import Settings, use_settings
from tasks.sources.names import name_in

WARM_SECONDS = 60.0
"""How long an engine waits for the batch's next video, where the settings say nothing."""
FAILED = 1
"""Exit code if a video has failed; the others are made."""

Run = Callable[[UpscaleRequest], UpscaleResult]


def upscale_batch(
    batch: VideoBatch, asked: UpscaleRequest, settings: Settings, *, run: Run, as_json: bool
) -> int:
    """Upscale the videos of a batch; one that fails does not stop the others.

    Args:
        batch: which videos.
        asked: a request with the options of all of them.
        settings: of this command.
        run: checks a request and runs its job.
        as_json: print results as JSON, one a line; else their paths.

    Returns:
        The exit code: 0 if all are made, `FAILED` if one is not.
    """
    told = [EndedVideo(source=source) for source in batch.sources]
    began = time.monotonic()
    try:
        for entry, is_last in _in_turn(batch, told):
            with _settings_for(settings, batch, is_last=is_last):
                _upscale_one(entry, asked, run=run, as_json=as_json)
    finally:
        show_summary(told, seconds=time.monotonic() - began)
    return FAILED if any(one.state == "failed" for one in told) else 0


def _in_turn(batch: VideoBatch, told: list[EndedVideo]) -> Iterator[tuple[EndedVideo, bool]]:
    """Each video, and whether it is the last one; those of a watched folder are added."""
    if batch.watched is None:
        for number, entry in enumerate(told, start=1):
            say(f"{number} of {len(told)}: {entry.source}")
            yield entry, number == len(told)
        return
    say(f"watching {batch.watched}; Ctrl-C ends it")
    for path in resting_files(batch.watched):
        told.append(EndedVideo(source=str(path)))
        say(f"found {path.name}")
        yield told[-1], False


@contextmanager
def _settings_for(settings: Settings, batch: VideoBatch, *, is_last: bool) -> Iterator[None]:
    """Let the results go where the batch wants them, and the engine wait for the next video."""
    changed: dict[str, object] = {}
    if batch.output is not None:
        changed["output_dir"] = batch.output
    if not settings.warm_seconds and not is_last:
        changed["warm_seconds"] = WARM_SECONDS
    use_settings(settings.model_copy(update=changed))
    try:
        yield
    finally:
        use_settings(settings)


def check_batch(batch: VideoBatch, settings: Settings) -> None:
    """Refuse a batch whose results cannot go where they should.

    Raises:
        InvalidRequestError: --output is given and results go to a remote storage.
    """
    if batch.output is not None and settings.storage != "local":
        raise InvalidRequestError(
            f"--output needs the local storage, got SEEDVR2_STORAGE={settings.storage}; leave "
            "--output out, the command then prints the results' addresses"
        )


def _upscale_one(entry: EndedVideo, asked: UpscaleRequest, *, run: Run, as_json: bool) -> None:
    """Run the job of one video; what goes wrong is told and kept in its entry."""
    began = time.monotonic()
    entry.state = "interrupted"
    try:
        result = run(_request_for(entry.source, asked))
    except SeedVR2Error as error:
        entry.state = "failed"
        say(f"error: {name_in(entry.source)}: {with_code(error)}")
        tell_remedy(remedy_of(type(error)))
    except Exception as error:  # noqa: BLE001 - told, kept in full, and no matter of the next video
        entry.state = "failed"
        tell_unexpected(error)
    else:
        entry.state = "already done" if result.already_done else "done"
        entry.output = str(result.output_path or result.cdn_url)
        for line in ending(result):
            say(line)
        tell(as_json_line(result) if as_json else entry.output)
    finally:
        entry.seconds = time.monotonic() - began


def _request_for(source: str, asked: UpscaleRequest) -> UpscaleRequest:
    """The same request for another source."""
    options = asked.model_dump(exclude_unset=True, exclude={"video_url", "video_path"})
    name = "video_url" if "://" in source else "video_path"
    return check_request(**options, **{name: source})
