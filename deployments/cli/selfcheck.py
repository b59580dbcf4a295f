"""`seedvr2 selfcheck`: does the model work with these weights on this device, and how well?

For whoever has the real weights and a GPU: one command, at most ten minutes, a report and
pictures. The checks are in seedvr2_core/selfcheck; here they are fed, listened to and reported.
"""

import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from deployments.host.exits import exit_codes, say, screen
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.planning.sizes import BUDGETS_PX, target_size
from seedvr2_core.planning.windows import first_frame, num_latents
from seedvr2_core.selfcheck.report import CHECK_NAMES, Check, Clock
from tasks.settings import child_environment

if TYPE_CHECKING:
    import numpy as np

    from seedvr2_core.engines.seedvr2.load import World
    from seedvr2_core.selfcheck.bench import Clip
    from seedvr2_core.selfcheck.run import CheckSetup, Findings
    from seedvr2_core.video.info import VideoInfo

REPORT_NAME = "selfcheck.json"
DEMO_CLIP = Path(__file__).parents[1] / "demo" / "bunny_320x180.mp4"
KEPT = f"the checks that were over are in {REPORT_NAME}"


class WeightsUsed(BaseModel):
    """One file."""

    name: str
    part: str
    dtypes: tuple[str, ...]
    size_bytes: int
    sha256: str | None
    status: str
    """verified: the publisher's digest; unknown: no publisher's digest to compare with."""


class CheckReport(BaseModel):
    """One check."""

    name: str
    about: str
    status: str
    """ok, failed, reported (measured, no verdict) or skipped."""
    told: str
    """A sentence; why, where it was skipped."""
    seconds: float
    numbers: dict[str, Any]
    pictures: tuple[str, ...]


class SelfcheckReport(BaseModel):
    """All that is known; selfcheck.json."""

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
    """The memory plan; its peaks are predictions."""
    budget_seconds: float
    seconds: float
    checks: list[CheckReport]
    failed: list[str]
    """Names; none is the good news."""


def selfcheck(
    weights: Annotated[Path, typer.Option(help="Folder of the weights.")],
    model: Annotated[
        str, typer.Option(help="seedvr2-7b, seedvr2-7b-sharp, seedvr2-3b.")
    ] = "seedvr2-7b",
    video: Annotated[
        Path | None, typer.Option(help="A clip without a cut; default the bundled one.")
    ] = None,
    resolution: Annotated[
        str, typer.Option(help="720p, 1080p, 2k, 4k, or a size as 640x360.")
    ] = "720p",
    frames: Annotated[int, typer.Option(help="Of the clip; at least 45.")] = 65,
    out: Annotated[Path, typer.Option(help="Where report and pictures go.")] = Path("selfcheck"),
    seconds: Annotated[
        float, typer.Option(help="Wall time; checks that do not fit are skipped and say so.")
    ] = 600,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    check: Annotated[
        list[str] | None, typer.Option(help=f"Only these: {', '.join(CHECK_NAMES)}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The last line is JSON.")] = False,
) -> None:
    """Check a model with its real weights on this device; exit 1 if a check failed."""
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
        report = _run(setup, out, clock=clock, seconds=seconds, quiet=as_json)
    if as_json:
        typer.echo(report.model_dump_json())
    raise typer.Exit(1 if report.failed else 0)


def _run(
    setup: "CheckSetup", out: Path, *, clock: Clock, seconds: float, quiet: bool
) -> SelfcheckReport:
    """Run the checks; the report on disk grows with every one, so that a crash loses none."""
    from seedvr2_core.selfcheck.run import run_selfcheck

    out = out.expanduser().absolute()
    _make_folder(out)
    tell = say if quiet else typer.echo
    tell(
        f"{setup.model} at {setup.width}x{setup.height} on {setup.device_kind} ({setup.device}), "
        f"{first_frame(setup.num_latents)} frames of {setup.clip.name}"
    )

    def save(name: str, picture: "np.ndarray") -> str:
        from moviepy import ImageClip

        path = out / f"{name}.png"
        ImageClip(picture).save_frame(str(path), t=0, with_mask=False)
        return str(path)

    def hear(findings: "Findings") -> None:
        tell(_line(findings.checks[-1]))
        _write(out, _report(setup, findings, clock=clock, seconds=seconds))

    def begins(name: str) -> None:
        if screen.is_terminal:
            say(f"... {name}: {CHECK_NAMES[name]}")

    findings = run_selfcheck(setup, clock=clock, save=save, begins=begins, hear=hear)
    report = _report(setup, findings, clock=clock, seconds=seconds)
    _write(out, report)
    counts = [check.status for check in findings.checks]
    told = ", ".join(f"{counts.count(s)} {s}" for s in ("ok", "reported", "skipped", "failed"))
    tell(f"{told} in {report.seconds:.0f} s; {out / REPORT_NAME}")
    return report


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
    """Everything that is asked for, as far as it can be checked without weights.

    Raises:
        InvalidRequestError: an option makes no sense.
        InvalidVideoError: the clip cannot be read.
    """
    size = _given_size(resolution)
    from seedvr2_core.selfcheck.run import MIN_LATENTS, CheckSetup

    latents = num_latents(frames)
    if latents < MIN_LATENTS:
        raise InvalidRequestError(
            f"--frames must be at least {first_frame(MIN_LATENTS)}, for two windows, got {frames}"
        )
    info, clip = _read_clip(video, first_frame(latents))
    width, height = size or target_size(info, resolution)
    name, kind, free_bytes = _find_device(device)
    return CheckSetup(
        model=model,
        weights_dir=weights.expanduser().absolute(),
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
    """The known models; tests put small ones in their place."""
    from seedvr2_core.engines.seedvr2.load import WORLD

    return WORLD


def _given_size(resolution: str) -> tuple[int, int] | None:
    """(width, height) where the resolution is a size; None where it is a name.

    Raises:
        InvalidRequestError: it is neither.
    """
    if resolution in BUDGETS_PX:
        return None
    width, _, height = resolution.partition("x")
    if width.isdecimal() and height.isdecimal():
        return int(width), int(height)
    raise InvalidRequestError(
        f"--resolution is one of {', '.join(BUDGETS_PX)} or a size as 640x360, got {resolution}"
    )


def _read_clip(video: Path, num_frames: int) -> "tuple[VideoInfo, Clip]":
    """The clip's first frames."""
    from seedvr2_core.files import file_sha256
    from seedvr2_core.selfcheck.bench import Clip
    from seedvr2_core.video.probe import probe_video
    from seedvr2_core.video.reader import read_frames

    info = probe_video(video)
    frames = tuple(read_frames(video, info, 0, min(num_frames, info.num_frames)))
    clip = Clip(name=video.name, sha256=file_sha256(video), video=info, frames=frames)
    return info, clip


def _find_device(name: str) -> tuple[str, str, int | None]:
    """Torch device, its name for people, and its free bytes (None: the host).

    Raises:
        InvalidRequestError: there is no such device.
    """
    import torch

    known = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["cpu"]
    name = known[0] if name == "auto" else name
    if name not in known:
        raise InvalidRequestError(
            f"--device is auto or one of {', '.join(known)} on this machine, got {name}"
        )
    if name == "cpu":
        return name, f"cpu {platform.machine()}, {torch.get_num_threads()} threads", None
    return name, torch.cuda.get_device_name(name), torch.cuda.mem_get_info(name)[0]


def _report(
    setup: "CheckSetup", findings: "Findings", *, clock: Clock, seconds: float
) -> SelfcheckReport:
    import torch

    on_cuda = setup.device.startswith("cuda")
    return SelfcheckReport(
        when=datetime.now(UTC),
        model=setup.model,
        weights=[
            WeightsUsed(
                name=file.path.name,
                part=file.part,
                dtypes=file.dtypes,
                size_bytes=file.num_bytes,
                sha256=file.sha256,
                status=file.status,
            )
            for file in findings.weights
        ],
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
        frames=first_frame(setup.num_latents),
        width=setup.width,
        height=setup.height,
        memory=asdict(findings.memory),
        budget_seconds=seconds,
        seconds=round(clock.elapsed, 1),
        checks=[CheckReport(about=CHECK_NAMES[c.name], **asdict(c)) for c in findings.checks],
        failed=findings.failed,
    )


def _write(out: Path, report: SelfcheckReport) -> None:
    """Complete or as it was."""
    part = out / f"{REPORT_NAME}.part"
    part.write_text(report.model_dump_json(indent=2) + "\n")
    part.replace(out / REPORT_NAME)


def _line(check: Check) -> str:
    seconds = f"{check.seconds:6.1f} s" if check.seconds else " " * 8
    return f"{check.status:<9} {check.name:<14} {seconds}  {check.told}"
