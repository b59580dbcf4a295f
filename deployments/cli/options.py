"""Options that several commands share, and the request they make."""

from pathlib import Path
from typing import Annotated

import typer

from seedvr2_core.errors import InvalidRequestError
from tasks.schemas import UpscaleRequest, check_request

Sources = Annotated[
    list[str] | None, typer.Argument(metavar="SOURCE", help="A video file or an http(s) address.")
]
Resolution = Annotated[str, typer.Option(help="720p, 1080p, 2k or 4k.")]
Model = Annotated[
    str,
    typer.Option(
        help="auto, seedvr2-7b, seedvr2-7b-sharp, seedvr2-3b, span, lanczos; auto takes seedvr2-7b "
        "where GPU and weights are, else span."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Frames the SeedVR2 model sees at once.")]
Overlap = Annotated[
    int | None, typer.Option(help="Frames shared by neighbouring batches; 12 if not given.")
]
StitchMode = Annotated[str, typer.Option(help="crossfade or later.")]
Seed = Annotated[int, typer.Option(help="Of the noise.")]
ColorCorrection = Annotated[
    str, typer.Option(help="auto, wavelet, wavelet_rgb, lab, adain or none.")
]
Crf = Annotated[int, typer.Option(help="x264 quality, 0..51, smaller is better.")]
Preset = Annotated[str, typer.Option(help="x264 speed, ultrafast..veryslow.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore finished segments.")]
WorkDir = Annotated[
    Path | None,
    typer.Option(help="Where segments are kept; default SEEDVR2_WORK_DIR or ~/.seedvr2."),
]
AsJson = Annotated[bool, typer.Option("--json", help="The last line is JSON.")]


def request_of(sources: list[str] | None, **options: object) -> UpscaleRequest:
    """The request that a command line describes; a path in it is absolute.

    Raises:
        InvalidRequestError: not exactly one source, or a wrong option.
    """
    if not sources or len(sources) != 1:
        raise InvalidRequestError(
            f"exactly one SOURCE is needed, got {len(sources or [])}; see --help"
        )
    if "://" in sources[0]:
        return check_request(video_url=sources[0], **options)
    path = str(Path(sources[0]).expanduser().absolute())
    return check_request(video_path=path, **options)
