"""Options that several commands share, and the request that they make up."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.words import absolute, check_named
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.video.output.formats import CODECS, container_of
from tasks.schemas import UpscaleRequest, check_request
from tasks.settings import Settings
from tasks.sources import check_source
from tasks.sources.kinds import SourceKind, kind_of
from tasks.sources.sequence import check_zip, local_pictures

Videos = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        help="Video files, pictures, folders of videos, or http(s) addresses; with --fps folders "
        "of pictures, patterns such as frames/%05d.png, or zips.",
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE",
        help="A video file or an http(s) address; with --fps a folder of pictures, a pattern such "
        "as frames/%05d.png, or a zip.",
    ),
]
Fps = Annotated[
    str,
    typer.Option(
        "--fps",
        help="Make one video of pictures: how many are shown in a second (24, 29.97, 24000/1001).",
    ),
]
Resolution = Annotated[
    str,
    typer.Option(
        "--resolution",
        "-r",
        help="Size of the output by its area: 720p, 1080p, 2k or 4k; by its shorter side: "
        "short:720, short:1080, short:1440 or short:2160; by a factor: 2x, 1.5x (0.25x to 16x); or "
        "the largest that fits into a box: 1920x1080.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="seedvr2-7b, seedvr2-7b-sharp, seedvr2-3b or seedvr2-1.4b (for stills, by its "
        "author's word), which need a GPU and weights; span (small), waifu2x (small, takes away "
        "noise and traces of compression), lanczos (resizes only), or auto: seedvr2-7b if it can "
        "run, else waifu2x for a source that is much compressed, or span."
    ),
]
WeightsFile = Annotated[
    str,
    typer.Option(
        help="File in the folder of weights that the SeedVR2 model is read from; default: the best "
        "one there. Weights that their publisher has replaced are used only if they are named."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Frames that a SeedVR2 model sees at once.")]
Overlap = Annotated[
    int | None, typer.Option(help="Frames that neighbouring batches share; default 12.")
]
StitchMode = Annotated[
    str,
    typer.Option(
        help="How shared frames are joined: crossfade, or later (keeps the earlier batch's)."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
ColorCorrection = Annotated[
    str,
    typer.Option(
        help="How colours are matched to the source: auto, wavelet, wavelet_rgb, lab, adain, none."
    ),
]
Strength = Annotated[
    float,
    typer.Option(
        help="How much of a SeedVR2 model's detail is kept: 1 all of it, 0 the source's instead."
    ),
]
Codec = Annotated[
    str,
    typer.Option(
        help="h264 (8 bits), hevc, av1, vp9 (WebM with alpha), prores, dnxhr, ffv1 (lossless), "
        "png, tiff, jpeg, webp or exr (pictures), or auto: h264 for 8-bit SDR, hevc (10 bits) for "
        "all else."
    ),
]
Container = Annotated[
    str,
    typer.Option(
        help="mp4, mov, mkv, webm (AV1 and Opus), folder (pictures), or auto: mp4, or mkv where "
        "mp4 would lose something."
    ),
]
Quality = Annotated[
    int | None,
    typer.Option(help="Quality of the picture in any codec: 1 to 100, larger is better; 75 usual."),
]
Audio = Annotated[
    str, typer.Option(help="keep, aac (encode all sound as AAC), or none (leave it out).")
]
Deinterlace = Annotated[
    str,
    typer.Option(
        help="auto (interlaced video: a frame of each picture), bob (of each field), film (3:2 "
        "pulldown is undone), or off."
    ),
]
Alpha = Annotated[
    str,
    typer.Option(
        help="auto (the alpha of a transparent source is kept; in prores, if codec is auto), keep, "
        "flatten (on black), flatten:#ffffff (on a colour), or refuse."
    ),
]
Start = Annotated[
    str,
    typer.Option(help="Begin here: seconds (90), h:m:s (1:02:03.5) or a frame (frame:1500)."),
]
End = Annotated[str, typer.Option(help="End before this place, written as that of --start.")]
Preview = Annotated[
    str,
    typer.Option(
        "--preview",
        help="Make only a short piece first: a length and a place (3s@0:42, 90f@1200) or a length "
        "(3s). The whole job, the same command without it, keeps what is made.",
    ),
]
Crf = Annotated[int, typer.Option(help="Quality on x264's scale: 0 to 51, smaller is better.")]
Preset = Annotated[str, typer.Option(help="Speed of the encoder: ultrafast to veryslow.")]
Encoder = Annotated[
    str,
    typer.Option(help="What codes the pictures: software, or nvenc (a GPU with a video unit)."),
]
Grain = Annotated[float, typer.Option(help="How much film grain is added, from 0 to 1; 0 is none.")]
AllowDamaged = Annotated[
    bool,
    typer.Option("--allow-damaged", help="Take a video whose end is missing: what is there of it."),
]
MaxWorkers = Annotated[int, typer.Option(help="Workers on which a long video may be made at once.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Ignore segments that an earlier run has finished.")
]
KeepMaster = Annotated[
    bool,
    typer.Option(
        "--keep-master",
        help="Keep a lossless master, from which other codecs are made without the engine.",
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(help="Stop the job before it holds its device for longer, in all of its runs."),
]
MaxPrice = Annotated[
    float | None,
    typer.Option(help="Stop the job before it costs more (SEEDVR2_HOUR_PRICE)."),
]
Tags = Annotated[
    str, typer.Option("--tags", help="Words by which the job is found, with commas: trailer,4k.")
]
Metadata = Annotated[
    str, typer.Option("--metadata", help='What you note on the job, as JSON: {"order": 17}.')
]
ExpiresIn = Annotated[
    float | None,
    typer.Option(help="Seconds after the job's end until its output is removed; 0: never."),
]
OutputFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="The file to write, which ends in .mp4, .mov, .mkv, .webm, .zip (pictures), .png, "
        ".tif, .jpg, .webp or .exr (one picture), or the folder, for pictures or of several "
        "videos; default: a new file in WORK_DIR/output.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file of --output, if there is one.")
]
Gpu = Annotated[
    str | None,
    typer.Option(
        help="Plan for a card that need not be here: h100, h200 or GB of memory (48), and the "
        "machine's free memory if that matters (24GB,host=64GB). Default: this machine's, or an "
        "H100 for a model that needs a GPU where there is none."
    ),
]
WorkDir = Annotated[
    Path | None,
    typer.Option(help="Folder of jobs and outputs; default SEEDVR2_WORK_DIR or ~/.seedvr2."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]


def request_of(sources: list[str] | None, **options: object) -> UpscaleRequest:
    """Make the request that a command line describes; a path in it is absolute.

    Raises:
        InvalidRequestError: there is not exactly one source, or an option is wrong.
    """
    if not sources or len(sources) != 1:
        raise InvalidRequestError(
            f"exactly one SOURCE is needed, got {len(sources or [])}; see --help"
        )
    check_named(sources)
    if "://" in sources[0]:
        return check_request(video_url=sources[0], **options)
    path = absolute(Path(sources[0]), "SOURCE")
    return check_request(video_path=str(path), **options)


def is_folder(output: Path, container: str) -> bool:
    """Whether --output names a folder of pictures: a name without the ending of a file of ours."""
    return container == "folder" and container_of(output) == ""


def container_for(container: str, output: Path | None, codec: str = "auto") -> str:
    """The container that is asked for, by its name or by the ending of the file to write.

    A name without an ending is a folder, where the codec is one of pictures.

    Raises:
        InvalidRequestError: the two do not agree.
    """
    meant = container_of(output) if output is not None else ""
    if output is not None and not output.suffix and codec in CODECS and CODECS[codec].ending:
        meant = "folder"
    if meant in ("", container):
        return container  # an ending that we do not write is refused with the file
    if container != "auto":
        raise InvalidRequestError(
            f"--container {container} and an output file that is {meant} do not agree; leave one "
            "of them out"
        )
    return meant


def check_file(request: UpscaleRequest, settings: Settings) -> None:
    """Check that the request's file, if it names one, is there and looks like a video.

    Raises:
        InvalidRequestError: these settings do not allow local files.
        InvalidVideoError: the file is empty, no video, or cut off and that is not allowed.
        SourceRefusedError: there is no such file.
    """
    if request.video_path is None:
        return
    check_source(request, settings)
    path = Path(request.video_path)
    if request.fps:
        _check_pictures(request, path, settings)
        return
    from seedvr2_core.video.foreign import media_errors_told
    from seedvr2_core.video.probe import sniff_video

    with media_errors_told(path, "its first picture is decoded"):
        sniff_video(path, allow_damaged=request.allow_damaged, max_frames=settings.max_frames)


def _check_pictures(request: UpscaleRequest, path: Path, settings: Settings) -> None:
    """Check the pictures of a sequence, so that none is found to differ in the midst of the job."""
    if kind_of(request) is not SourceKind.PICTURES:
        check_zip(path, path.name, settings)
        return
    from seedvr2_core.video.foreign import media_errors_told
    from seedvr2_core.video.sequence.look import check_pictures

    with media_errors_told(path, "its pictures are compared"):
        check_pictures(local_pictures(request, settings))
