"""What both doors of the Python API share: options, progress, and how a caller stops the work."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from seedvr2_core.child.memory import free_host_bytes
from seedvr2_core.config import EngineSpec, find_engine
from seedvr2_core.engines import known_weights
from seedvr2_core.errors import InvalidRequestError, StoppedByCallerError
from seedvr2_core.kernels.devices import (
    GPU,
    ability_of,
    gpu_name,
    kind_of,
    on_gpu,
    runs_own_kernels,
)
from seedvr2_core.planning import Options
from seedvr2_core.planning.outputs import AUTO, CRF_DEFAULT, MAX_CRF, crf_of_quality, no_nvenc
from seedvr2_core.planning.sizes import parse_resolution
from seedvr2_core.planning.timing import ENCODE_SECONDS_PER_MPX
from seedvr2_core.planning.windows import engine_settings
from seedvr2_core.video.alpha.wish import parse_alpha
from seedvr2_core.video.output.encoders import check_nvenc
from seedvr2_core.video.output.formats import CODECS, NVENC, NVENC_CODECS, SOFTWARE
from seedvr2_core.video.wanted import ALL_FRAMES, BOB, FILM, OFF, WantedFrames
from seedvr2_core.video.wanted import AUTO as AUTO_FIELDS

DEFAULT_MODEL = "seedvr2-7b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the work is."""

    phase: str
    """"hash", "probe", "cuts", "load", "restore", "join"; "restore" for everything that the
    engine and the encoder do."""
    done: int
    """Of this phase: frames where it works on frames, else bytes."""
    total: int
    """What `done` will be at the phase's end; 0 where that is not known."""


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """For callers who do not want to be told."""


def crf_asked(quality: int | None, crf: int) -> int:
    """What a caller asks for by either scale, on that of x264.

    Raises:
        InvalidRequestError: `quality` is not from 1 to 100, or both are given.
    """
    if quality is None:
        return crf
    if not 1 <= quality <= 100:
        raise InvalidRequestError(f"expected quality from 1 to 100, got {quality}")
    if crf != CRF_DEFAULT:
        raise InvalidRequestError(
            f"quality {quality} and crf {crf} say the same in two ways; give one"
        )
    return crf_of_quality(quality)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How a file is encoded."""

    codec: str = AUTO
    container: str = ""
    """"" where no file is written."""
    audio: str = "keep"
    crf: int = CRF_DEFAULT
    preset: str = "medium"
    encoder: str = SOFTWARE
    grain: float = 0.0
    wanted: WantedFrames = ALL_FRAMES
    """Which frames of the file are made."""

    def check(self) -> None:
        """Refuse what there is not.

        Raises:
            InvalidRequestError: which values there are.
        """
        allowed = {
            "codec": (AUTO, *CODECS),
            "audio": ("keep", "aac", "none"),
            "preset": tuple(ENCODE_SECONDS_PER_MPX),
            "encoder": (SOFTWARE, NVENC),
            "deinterlace": (AUTO_FIELDS, OFF, BOB, FILM),
        }
        for name, values in allowed.items():
            holder = self.wanted if name == "deinterlace" else self
            if (got := getattr(holder, name)) not in values:
                raise InvalidRequestError(f"{name} is one of {', '.join(values)}; got {got!r}")
        try:
            parse_alpha(self.wanted.alpha)
        except ValueError as error:
            raise InvalidRequestError(f"alpha: {error}, got {self.wanted.alpha!r}") from error
        if not 0 <= self.crf <= MAX_CRF:
            raise InvalidRequestError(f"expected crf from 0 to {MAX_CRF}, got {self.crf}")
        if self.encoder == NVENC:
            if self.codec not in (AUTO, *NVENC_CODECS):
                raise InvalidRequestError(no_nvenc(self.codec))
            check_nvenc(self.codec)
        if not 0 <= self.grain <= 1:
            raise InvalidRequestError(f"expected grain from 0 to 1, got {self.grain}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model restores, where, and how; each field changes the pixels, but for the device.

    `docs/options.md` says more about those that requests have as well.
    """

    model: str = DEFAULT_MODEL
    """seedvr2-7b, seedvr2-7b-sharp, seedvr2-3b, seedvr2-1.4b, span, waifu2x or lanczos."""
    weights_dir: Path | None = None
    """Folder of the SeedVR2 weights; the small engines need none."""
    device: str = "auto"
    """Torch device string, "cuda:0" or "cpu"; "auto" is the first GPU, or the CPU without one."""
    batch_size: int = 100
    temporal_overlap: int | None = None
    stitch_mode: str = "crossfade"
    seed: int = 100
    color_correction: str = "auto"
    strength: float = 1.0
    """How much of a SeedVR2 model's detail in luma is kept, from 0 to 1."""

    def __post_init__(self) -> None:
        allowed = {
            "stitch_mode": ("crossfade", "later"),
            "color_correction": ("auto", "wavelet", "wavelet_rgb", "lab", "adain", "none"),
        }
        for name, values in allowed.items():
            if (got := getattr(self, name)) not in values:
                raise InvalidRequestError(f"{name} is one of {', '.join(values)}; got {got!r}")
        if not 0 <= self.strength <= 1:
            raise InvalidRequestError(f"expected strength from 0 to 1, got {self.strength}")
        if not 0 <= self.seed < 2**64 or self.batch_size < 1:
            raise InvalidRequestError(
                f"expected 0 <= seed < 2**64 and batch_size >= 1, got {self.seed} and "
                f"{self.batch_size}"
            )

    def chosen_device(self, spec: EngineSpec) -> str:
        """The torch device string that is meant.

        Raises:
            InvalidRequestError: the model cannot run on it, or there is none of that name.
        """
        device = self.device
        if device == "auto":
            device = gpu_name(0) if torch.cuda.is_available() else "cpu"
        try:
            kind = torch.device(device).type
        except RuntimeError as error:
            raise InvalidRequestError(f"device {device!r} is no device of torch") from error
        if kind == GPU and not torch.cuda.is_available():
            raise InvalidRequestError(f"device {device}: torch finds no GPU on this machine")
        if spec.needs_gpu and kind == "cpu":
            raise InvalidRequestError(
                f"{spec.name} needs an NVIDIA GPU; choose span, waifu2x or lanczos on a CPU"
            )
        return device

    def planned(
        self, resolution: str, *, coding: Coding | None = None, detector: str = ""
    ) -> Options:
        """The options that a plan is made from.

        Raises:
            InvalidRequestError: unknown model or resolution, or a model that cannot run here.
            CheckpointError: the model's weights are missing or damaged.
        """
        spec = find_engine(self.model)
        device = self.chosen_device(spec)
        resolution = check_resolution(resolution)
        coding = coding or Coding()
        weights = known_weights(spec.name, self.weights_dir)
        settings, note = engine_settings(self, spec, weights.digest)
        return Options(
            resolution=resolution,
            engine=settings,
            device=device,
            device_kind=kind_of(device),
            device_bytes=torch.cuda.mem_get_info(device)[0] if on_gpu(device) else None,
            host_bytes=free_host_bytes() if on_gpu(device) else None,
            dit_dtype=ability_of(device).dit_dtype,
            own_kernels=runs_own_kernels(device),
            cpu_count=len(os.sched_getaffinity(0)),
            crf=coding.crf,
            preset=coding.preset,
            codec=coding.codec,
            container=coding.container or AUTO,
            audio=coding.audio,
            encoder=coding.encoder,
            grain=coding.grain,
            grain_seed=self.seed,
            segment_seconds=10.0,
            batch_size=self.batch_size,
            cut_detector=detector,
            quantized=weights.quantized,
            load_seconds=weights.load_seconds,
            notes=(*([note] if note else []), *weights.notes),
        )


def check_resolution(resolution: str) -> str:
    """The resolution as jobs keep it.

    Raises:
        InvalidRequestError: which ones there are.
    """
    if not isinstance(resolution, str):
        raise InvalidRequestError(f"resolution: expected a word such as '720p', got {resolution!r}")
    try:
        return parse_resolution(resolution)
    except ValueError as error:
        raise InvalidRequestError(f"resolution: {error}, got {resolution!r}") from error


class Cancellation:
    """Asks whether the caller wants the work to end, and ends it."""

    def __init__(self, cancel: threading.Event | None) -> None:
        """Use the caller's event; None: there is nobody who could ask."""
        self._cancel = cancel

    def check(self) -> None:
        """Go on, or raise.

        Raises:
            StoppedByCallerError: the event is set.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise StoppedByCallerError("stopped by its caller")
