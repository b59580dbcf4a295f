"""Runs a selfcheck: loads the real weights, then runs check after check until the time is up."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seedvr2_core.engines.seedvr2.load import WORLD, World, load_models
from seedvr2_core.errors import DeadlineError, InvalidRequestError, SeedVR2Error
from seedvr2_core.frames import BLACK_ROWS, SIZE_MULTIPLE
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.planning import Plan
from seedvr2_core.planning.memory import plan_memory
from seedvr2_core.planning.peaks import MemoryRequest
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.planning.windows import first_frame
from seedvr2_core.selfcheck import checks, sessions
from seedvr2_core.selfcheck.bench import Bench, Clip, make_plan
from seedvr2_core.selfcheck.report import (
    CHECK_NAMES,
    FLOAT16,
    LOAD,
    NOT_ASKED_FOR,
    OUT_OF_TIME,
    Check,
    Clock,
    Outcome,
    SavePicture,
)
from seedvr2_core.weights import examine, find_model
from seedvr2_core.weights.folder import WeightsFile

logger = logging.getLogger(__name__)

CLIP_LATENTS = 17
"""65 frames: long enough for two windows that look like those of a job."""
LONG_LATENTS = 56
"""Its last window begins beyond the warm-ups of encoder (28 latents) and decoder (37)."""
MIN_LATENTS = 12
"""For two windows that share 3 latents."""
MIN_WIDTH, MIN_HEIGHT = SIZE_MULTIPLE, BLACK_ROWS + 8

_CHECKS: dict[str, Callable[[Bench], Outcome]] = {
    "activations": checks.check_activations,
    "restore": sessions.check_restore,
    "resume": sessions.check_resume,
    "color": checks.check_color,
    "posterior": checks.check_posterior,
    "black_rows": checks.check_black_rows,
    "overlap": checks.check_overlap,
    "fresh_windows": checks.check_fresh_windows,
    "resume_long": sessions.check_resume_long,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSetup:
    """What is checked, and where."""

    model: str
    weights_dir: Path
    clip: Clip
    width: int
    """Of the output; at least MIN_WIDTH, even."""
    height: int
    """At least MIN_HEIGHT, even."""
    device: str
    device_kind: str
    """Its name, for people."""
    device_bytes: int | None
    """Free on it; None: the host, taken as large enough."""
    checks: tuple[str, ...] = ()
    """Names of the checks to run; empty: all."""
    vae_dtype: str = FLOAT16
    """As in a job's plan. The check of activations always uses float16."""
    num_latents: int = CLIP_LATENTS
    """Of the clip, at least MIN_LATENTS."""
    world: World = WORLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The result of a selfcheck, also while it is under way."""

    weights: tuple[WeightsFile, ...]
    memory: MemoryPlan
    checks: tuple[Check, ...]
    """Finished and skipped checks in order; at the end every name is there once."""

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if check.status == "failed"]


def run_selfcheck(
    setup: CheckSetup,
    *,
    clock: Clock,
    save: SavePicture,
    begins: Callable[[str], object] = lambda name: None,
    hear: Callable[[Findings], object] = lambda findings: None,
) -> Findings:
    """Check a model with its real weights.

    Args:
        setup: model, weights, clip, size, device.
        clock: checks for which it has no time left are skipped and say so. Loading cannot be
            interrupted.
        save: saves a picture.
        begins: called with the name of each check that starts.
        hear: called with the findings so far after every check.

    Raises:
        InvalidRequestError: unknown model or check, or a picture that is too small.
        CheckpointError: weights are missing or wrong; names the tensor.
        ResourceError: the model does not fit the device.
    """
    _check_setup(setup)
    plan = _plan(setup)
    assert plan.memory is not None
    with _deterministic():
        begins(LOAD)
        bench, weights, loaded = _load(setup, plan, clock, save)
        done = [loaded]
        hear(Findings(weights=weights, memory=plan.memory, checks=tuple(done)))
        for name, run in _CHECKS.items():
            if setup.checks and name not in setup.checks:
                done.append(_skipped(name, NOT_ASKED_FOR))
            else:
                begins(name)
                done.append(_run(name, run, bench))
            hear(Findings(weights=weights, memory=plan.memory, checks=tuple(done)))
    return Findings(weights=weights, memory=plan.memory, checks=tuple(done))


def _check_setup(setup: CheckSetup) -> None:
    known = setup.world.catalog.models
    if setup.model not in known:
        raise InvalidRequestError(
            f"unknown model {setup.model!r}; choose one of: {', '.join(known)}"
        )
    if unknown := [name for name in setup.checks if name not in CHECK_NAMES]:
        raise InvalidRequestError(
            f"unknown checks {', '.join(unknown)}; there are: {', '.join(CHECK_NAMES)}"
        )
    width, height = setup.width, setup.height
    if width < MIN_WIDTH or height < MIN_HEIGHT or width % 2 or height % 2:
        raise InvalidRequestError(
            f"the picture must have even sides and at least {MIN_WIDTH}x{MIN_HEIGHT} pixels, got "
            f"{width}x{height}; choose another resolution"
        )
    assert setup.num_latents >= MIN_LATENTS


def _plan(setup: CheckSetup) -> Plan:
    """One shot in one window, with memory for it."""
    num_frames = first_frame(setup.num_latents)
    plan = make_plan(
        setup.clip.video,
        model=setup.model,
        size=(setup.height, setup.width),
        device=setup.device,
        threads=torch.get_num_threads(),
        num_frames=num_frames,
    )
    world = setup.world
    request = MemoryRequest(
        dit_config=world.dit_configs[world.catalog.models[setup.model][0]],
        vae_config=world.vae_config,
        width=setup.width,
        height=setup.height,
        num_latents_in_window=setup.num_latents,
        overlap=max(checks.OVERLAPS),
        segment_latents=setup.num_latents,
        source_frame_bytes=setup.clip.frames[0].rgb.nbytes,
        device_bytes=setup.device_bytes,
        device_kind=setup.device_kind,
        vae_dtype=setup.vae_dtype,
    )
    return replace(plan, memory=plan_memory(request))


def _load(
    setup: CheckSetup, plan: Plan, clock: Clock, save: SavePicture
) -> tuple[Bench, tuple[WeightsFile, ...], Check]:
    """Find, verify and read the three files, and build both networks.

    Raises:
        CheckpointError: one is missing, of another model or damaged.
    """
    assert plan.memory is not None
    world, began = setup.world, clock.elapsed
    parts = world.catalog.models[setup.model]
    files = find_model(setup.weights_dir, setup.model, catalog=world.catalog)
    weights = tuple(examine(file, catalog=world.catalog) for file in files)
    found = clock.elapsed
    models = load_models(
        parts,
        files,
        dit_dtype=getattr(torch, plan.memory.dit_dtype),
        device=setup.device,
        world=world,
        keep_folded=False,
    )
    bench = Bench(
        models,
        plan,
        setup.clip.stretched(plan.video.num_frames),
        clock=clock,
        save=save,
        long_frames=setup.clip.stretched(first_frame(LONG_LATENTS)),
    )
    vae = bench.vae()
    seconds = clock.elapsed - began
    num_values = sum(p.numel() for module in (models.dit, vae) for p in module.parameters())
    read_bytes = sum(file.num_bytes for file in weights)
    check = Check(
        name=LOAD,
        status="ok",
        told=f"{len(files)} files, {read_bytes / 1e9:.2f} GB, names, shapes and values are right",
        seconds=round(seconds, 3),
        numbers={
            "find_and_hash_seconds": round(found - began, 3),
            "read_and_fold_seconds": round(clock.elapsed - found, 3),
            "bytes": read_bytes,
            "parameters": num_values,
        },
        pictures=(),
    )
    return bench, weights, check


def _run(name: str, run: Callable[[Bench], Outcome], bench: Bench) -> Check:
    """Run one check. An error inside it becomes its result, and the next check runs."""
    began = time.monotonic()
    try:
        bench.clock.tick()
        outcome = run(bench)
    except DeadlineError:
        return _skipped(name, OUT_OF_TIME, seconds=time.monotonic() - began)
    except torch.OutOfMemoryError as error:
        outcome = Outcome(status="failed", told=f"the device's memory does not suffice: {error}")
    except SeedVR2Error as error:
        outcome = Outcome(status="failed", told=str(error))
    except RuntimeError as error:  # what torch raises when one of its kernels fails
        logger.exception("check %s", name)
        outcome = Outcome(status="failed", told=f"{type(error).__name__}: {error}")
    finally:
        if on_gpu(bench.device):
            torch.cuda.empty_cache()
    return Check(
        name=name,
        status=outcome.status,
        told=outcome.told,
        seconds=round(time.monotonic() - began, 3),
        numbers=outcome.numbers,
        pictures=tuple(outcome.pictures),
    )


def _skipped(name: str, reason: str, *, seconds: float = 0.0) -> Check:
    return Check(
        name=name,
        status="skipped",
        told=reason,
        seconds=round(seconds, 3),
        numbers={},
        pictures=(),
    )


@contextmanager
def _deterministic() -> Iterator[None]:
    """Compute as a job does: no algorithm is chosen by timing. Settings are put back at the end."""
    deterministic = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.cudnn.benchmark,
    )
    _set_determinism(True, False, False, False)
    try:
        yield
    finally:
        _set_determinism(*before)


def _set_determinism(enabled: bool, warn_only: bool, fill: bool, benchmark: bool) -> None:
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    deterministic = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = fill  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = benchmark
