"""`seedvr2 selfcheck`: does the model work with these weights on this device, and how well?

It is for people who have the real weights and a GPU. It takes at most ten minutes and writes a
report and pictures. The checks themselves are in seedvr2_core/selfcheck; this module prepares their
input, shows their progress and writes the report.
"""

import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from deployments.cli.options import AsJson
from deployments.cli.words import absolute
from deployments.host.exits import console, exit_codes, say
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.kernels.devices import gpu_name, on_gpu
from seedvr2_core.planning.sizes import BUDGETS_PX, SHORT_SIDES_PX, target_size
from seedvr2_core.planning.windows import first_frame, num_latents
from seedvr2_core.selfcheck.report import CHECK_NAMES, Check, Clock, SavePicture
from tasks.settings import child_environment

if TYPE_CHECKING:
    import numpy as np

    from seedvr2_core.engines.seedvr2.load import World
    from seedvr2_core.selfcheck.bench import Clip
    from seedvr2_core.selfcheck.run import CheckSetup, Findings
    from seedvr2_core.video.info import VideoInfo
    from seedvr2_core.weights.folder import WeightsFile

REPORT_NAME = "selfcheck.json"
DEMO_CLIP = Path(__file__).parents[1] / "demo" / "bunny_320x180.mp4"
KEPT = f"the finished checks are in {REPORT_NAME}"


class WeightsUsed(BaseModel, defer_build=True):
    """One file of weights."""

    name: str
    part: str
    dtypes: tuple[str, ...]
    size_bytes: int
    sha256: str | None
    status: str
    """verified: it has the publisher's digest; unknown: the publisher's digest is not known."""


class CheckReport(BaseModel, defer_build=True):
    """One check and its result."""

    name: str
    about: str
    status: str
    """ok, failed, reported (measured, no verdict) or skipped."""
    told: str
    """The result in a sentence; for a skipped check the reason."""
    seconds: float
    numbers: dict[str, Any]
    pictures: tuple[str, ...]


class SelfcheckReport(BaseModel, defer_build=True):
    """The content of selfcheck.json."""

    when: datetime
    model: str
    weights: list[WeightsUsed]
    device: str
    device_kind: str
    python: str
    torch: str
    cuda: str | None
    cudnn: int | None
    vae_dtype: str
    dit_dtype: str
    clip: str
    clip_sha256: str
    frames: int
    width: int
    height: int
    memory: dict[str, Any]
    """The memory plan; its peaks are predictions, not measurements."""
    budget_seconds: float
    seconds: float
    checks: list[CheckReport]
    failed: list[str]
    """Names of the checks that failed."""


def selfcheck(
    weights: Annotated[Path, typer.Option(help="Folder with the weights.")],
    model: Annotated[
        str, typer.Option(help="seedvr2-7b, seedvr2-7b-sharp, seedvr2-3b or seedvr2-1.4b.")
    ] = "seedvr2-7b",
    video: Annotated[
        Path | None, typer.Option(help="A clip without cuts; default: the demo clip.")
    ] = None,
    resolution: Annotated[
        str, typer.Option(help="Size of the output: 720p, 1080p, 2k, 4k, or 640x360.")
    ] = "720p",
    frames: Annotated[int, typer.Option(help="Frames of the clip to use; at least 45.")] = 65,
    out: Annotated[Path, typer.Option(help="Folder for the report and pictures.")] = Path(
        "selfcheck"
    ),
    seconds: Annotated[
        float, typer.Option(help="Time limit; checks that do not fit into it are skipped.")
    ] = 600,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    check: Annotated[
        list[str] | None,
        typer.Option(help=f"Run only this check; repeatable: {', '.join(CHECK_NAMES)}."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a model with its real weights on this device.

    Restores a short clip in several ways and writes selfcheck.json and pictures. Exits with 1 if a
    check failed.
    """
    clock = Clock(seconds)
    os.environ.update(child_environment())  # before torch meets the GPU
    with exit_codes(KEPT):
        setup = _setup(
            model=model,
            weights=weights,
            video=video or DEMO_CLIP,
            resolution=resolution,
            frames=frames,
            device=device,
            checks=tuple(check or ()),
        )
        report = _run_checks(setup, out, clock=clock, seconds=seconds, quiet=as_json)
    if as_json:
        typer.echo(report.model_dump_json())
    raise typer.Exit(1 if report.failed else 0)


def _run_checks(
    setup: "CheckSetup", out: Path, *, clock: Clock, seconds: float, quiet: bool
) -> SelfcheckReport:
    """Run the checks; the report is written after each of them, so that a crash loses none.

    Args:
        setup: what is checked, and with which clip.
        out: folder of the report and pictures; made if it does not exist.
        clock: started when the command was.
        seconds: the time limit, for the report.
        quiet: print to stderr, because stdout is for the JSON.
    """
    from seedvr2_core.selfcheck.run import run_selfcheck

    out = absolute(out, "--out")
    _make_folder(out)
    tell = say if quiet else typer.echo
    tell(
        f"{setup.model} at {setup.width}x{setup.height} on {setup.device_kind} ({setup.device}), "
        f"{_num_frames(setup)} frames of {setup.clip.name}"
    )

    def hear(findings: "Findings") -> None:
        tell(_check_line(findings.checks[-1]))
        _write(out, _report(setup, findings, clock=clock, seconds=seconds))

    findings = run_selfcheck(
        setup, clock=clock, save=_picture_saver(out), begins=_show_begin, hear=hear
    )
    report = _report(setup, findings, clock=clock, seconds=seconds)
    _write(out, report)
    tell(_summary(report, out))
    return report


def _picture_saver(out: Path) -> SavePicture:
    """Make the function that saves a picture as PNG in the folder and returns its path."""

    def save(name: str, picture: "np.ndarray") -> str:
        from moviepy import ImageClip

        path = out / f"{name}.png"
        ImageClip(picture).save_frame(str(path), t=0, with_mask=False)
        return str(path)

    return save


def _show_begin(name: str) -> None:
    """Name the check that begins, on a terminal only: a check may take minutes."""
    if console.is_terminal:
        say(f"... {name}: {CHECK_NAMES[name]}")


def _summary(report: SelfcheckReport, out: Path) -> str:
    """The last line for people: how many checks ended how, and where the report is."""
    statuses = [check.status for check in report.checks]
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in ("ok", "reported", "skipped", "failed"))
    return f"{counts} in {report.seconds:.0f} s; {out / REPORT_NAME}"


def _num_frames(setup: "CheckSetup") -> int:
    """Frames of the clip that the checks use: a shot's first latent holds 1, each other one 4."""
    return first_frame(setup.num_latents)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(
            f"--out must be a folder that can be written, got {out}: {error.strerror}"
        ) from error


def _setup(
    *,
    model: str,
    weights: Path,
    video: Path,
    resolution: str,
    frames: int,
    device: str,
    checks: tuple[str, ...],
) -> "CheckSetup":
    """Read the clip, choose the device and check the options, all without the weights.

    Raises:
        InvalidRequestError: an option is wrong.
        InvalidVideoError: the clip cannot be read.
    """
    size = _given_size(resolution)
    from seedvr2_core.selfcheck.run import MIN_LATENTS, CheckSetup

    latents = num_latents(frames)
    if latents < MIN_LATENTS:
        raise InvalidRequestError(
            f"--frames must be at least {first_frame(MIN_LATENTS)}, enough for two "
            f"windows, got {frames}"
        )
    info, clip = _read_clip(video, first_frame(latents))
    width, height = size or target_size(info, resolution)
    name, kind, free_bytes = _find_device(device)
    return CheckSetup(
        model=model,
        weights_dir=absolute(weights, "--weights"),
        clip=clip,
        width=width,
        height=height,
        device=name,
        device_kind=kind,
        device_bytes=free_bytes,
        checks=checks,
        num_latents=latents,
        world=_world(),
    )


def _world() -> "World":
    """The models that are known; tests replace this with small ones."""
    from seedvr2_core.engines.seedvr2.load import WORLD

    return WORLD


def _given_size(resolution: str) -> tuple[int, int] | None:
    """Parse --resolution; returns (width, height), or None if it is a name such as 720p.

    Raises:
        InvalidRequestError: it is neither a size nor a name.
    """
    if resolution in (*BUDGETS_PX, *SHORT_SIDES_PX):
        return None
    width, _, height = resolution.partition("x")
    if width.isdecimal() and height.isdecimal():
        return int(width), int(height)
    raise InvalidRequestError(
        f"--resolution is one of {', '.join([*BUDGETS_PX, *SHORT_SIDES_PX])} or a size like "
        f"640x360, got {resolution}"
    )


def _read_clip(video: Path, num_frames: int) -> "tuple[VideoInfo, Clip]":
    """Read the clip's first frames."""
    from seedvr2_core.files import file_sha256
    from seedvr2_core.selfcheck.bench import Clip
    from seedvr2_core.video.probe import probe_video
    from seedvr2_core.video.reader import read_frames

    info = probe_video(video)
    frames = tuple(read_frames(video, info, 0, min(num_frames, info.num_frames)))
    clip = Clip(name=video.name, sha256=file_sha256(video), video=info, frames=frames)
    return info, clip


def _find_device(name: str) -> tuple[str, str, int | None]:
    """Find the device.

    Returns:
        Its name in torch, its name for people, and its free bytes (None for the CPU).

    Raises:
        InvalidRequestError: there is no such device.
    """
    import torch

    known = [gpu_name(i) for i in range(torch.cuda.device_count())] + ["cpu"]
    name = known[0] if name == "auto" else name
    if name not in known:
        raise InvalidRequestError(
            f"--device is auto or one of {', '.join(known)} on this machine, got {name}"
        )
    if name == "cpu":
        return name, f"cpu {platform.machine()}, {torch.get_num_threads()} threads", None
    return name, torch.cuda.get_device_name(name), torch.cuda.mem_get_info(name)[0]


def _weights_used(file: "WeightsFile") -> WeightsUsed:
    return WeightsUsed(
        name=file.path.name,
        part=file.part,
        dtypes=file.dtypes,
        size_bytes=file.num_bytes,
        sha256=file.sha256,
        status=file.status,
    )


def _report(
    setup: "CheckSetup", findings: "Findings", *, clock: Clock, seconds: float
) -> SelfcheckReport:
    """Make the report from what the checks have found so far."""
    import torch

    on_cuda = on_gpu(setup.device)
    return SelfcheckReport(
        when=datetime.now(UTC),
        model=setup.model,
        weights=list(map(_weights_used, findings.weights)),
        device=setup.device,
        device_kind=setup.device_kind,
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda if on_cuda else None,
        cudnn=torch.backends.cudnn.version() if on_cuda else None,
        vae_dtype=findings.memory.vae_dtype,
        dit_dtype=findings.memory.dit_dtype,
        clip=setup.clip.name,
        clip_sha256=setup.clip.sha256,
        frames=_num_frames(setup),
        width=setup.width,
        height=setup.height,
        memory=asdict(findings.memory),
        budget_seconds=seconds,
        seconds=round(clock.elapsed, 1),
        checks=[CheckReport(about=CHECK_NAMES[c.name], **asdict(c)) for c in findings.checks],
        failed=findings.failed,
    )


def _write(out: Path, report: SelfcheckReport) -> None:
    """Write the report so that the file is always complete, even after a crash."""
    part = out / f"{REPORT_NAME}.part"
    part.write_text(report.model_dump_json(indent=2) + "\n")
    part.replace(out / REPORT_NAME)


def _check_line(check: Check) -> str:
    """A check's result in one line: status, name, seconds, sentence."""
    seconds = f"{check.seconds:6.1f} s" if check.seconds else " " * 8
    return f"{check.status:<9} {check.name:<14} {seconds}  {check.told}"
