"""How fast this machine is: measured at first use, corrected by every job, kept for later plans.

WORK_DIR/rates/<machine>.json has, for each engine on each kind of device at each size, and for each
preset of the encoder, the seconds of a frame over those of the tables in
`seedvr2_core/planning/timing.py`, and for each storage those of a delivery. The name stands for the
kind of processor and the number of cores: workers of one kind share a file.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from seedvr2_core.child.protocol import Measure
from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files import read_record, write_record
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.outputs import encoder_name
from seedvr2_core.planning.plan import FrameSeconds, Rates
from seedvr2_core.planning.sizes import BUDGETS_PX, budget_of_size
from seedvr2_core.planning.timing import delivery_seconds
from tasks.child.operation import run_operation
from tasks.child.pace import Pace
from tasks.run import current
from tasks.settings import Settings

FEWEST_FRAMES, FEWEST_SECONDS = 25, 3.0
"""A child that made less tells nothing about the machine."""
MOST_CHANGE = 8.0
"""A job corrects the rates by no more than this: it may have shared the machine with others."""
DELIVERY_STAGES = ("deliver", "join", "picture", "upload", "verify")
"""Phases of the record between the last segment and the stored output."""
ASSUMED_DOUBT = 100.0
"""How much more may be wrong with a rate that was only assumed than with one that was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRates:
    """What is known of a machine; numbers are its seconds over those of the tables."""

    machine: str
    engines: dict[str, float] = field(default_factory=dict)
    """Engine, kind of device and size, as `_key` has them -> of the engine. Files of earlier
    versions have keys without a size."""
    encoders: dict[str, float] = field(default_factory=dict)
    """Codec and preset, as `outputs.encoder_name` has them -> of the encoder."""
    deliveries: dict[str, float] = field(default_factory=dict)
    """Storage -> of joining, checking and storing."""


def machine_name() -> str:
    """The kind of this machine: its processor and how many cores we may use."""
    cores = len(os.sched_getaffinity(0))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "CPU")
    return f"{model}, {cores} cores"


def known_rates(
    engine: str, encoder: str, device_kind: str, settings: Settings, *, size: tuple[int, int]
) -> Rates:
    """What is known of this machine for an engine and an encoder.

    Args:
        engine: its name.
        encoder: codec and preset, as `outputs.encoder_name` has them.
        device_kind: what the engine runs on.
        settings: where the rates are kept.
        size: (width, height) of the output. Where nothing is known of its budget, what is known of
            the nearest one counts.
    """
    known = _read(settings)
    of_engine = _nearest(known.engines, f"{engine} on {device_kind}", budget_of_size(*size))
    of_encoder = known.encoders.get(encoder)
    return Rates(
        engine=of_engine or 1.0,
        encoder=of_encoder or 1.0,
        delivery=known.deliveries.get(settings.storage, 1.0),
        measured=of_engine is not None and of_encoder is not None,
        machine=known.machine,
        device_kind=device_kind,
    )


def _nearest(engines: Mapping[str, float], engine: str, budget: str) -> float | None:
    """What is known of an engine on a kind of device for a budget, or else for the nearest one."""
    order = [*BUDGETS_PX]
    at = order.index(budget)
    keys = [_at_size(engine, one) for one in sorted(order, key=lambda k: abs(order.index(k) - at))]
    return next((engines[key] for key in (*keys, engine) if key in engines), None)


def measure(plan: PlanOutline, path: Path, source: Path, settings: Settings) -> Rates | None:
    """Measure a job's engine and encoder on its own first frames; takes some seconds.

    Args:
        plan: of the job, by rates that may be wrong. Its engine works frame by frame.
        path: the plan's file.
        source: the video.
        settings: where the rates are kept.

    Returns:
        The rates, which are kept for later plans; None if it could not be measured.
    """
    frame = plan.frame_seconds
    if frame is None:
        return None
    with TemporaryDirectory() as folder:
        request = Measure(plan=path, source=source, device=plan.device, folder=Path(folder))
        try:
            found = run_operation(request, doing="measuring how fast this machine is")
        except SeedVR2Error as error:
            current().log(f"the speed of this machine could not be measured: {error}")
            return None
    rates = replace(
        frame.rates,
        engine=frame.rates.engine * found.engine_seconds / max(frame.engine, 1e-9),
        encoder=frame.rates.encoder * found.encoder_seconds / max(frame.encoder, 1e-9),
        measured=True,
    )
    _keep(plan, rates, settings)
    return rates


def learn(plan: PlanOutline, pace: Pace, settings: Settings) -> None:
    """Correct the rates by what a job has taken. Called when its last segment is done.

    Half of the difference goes into rates that were measured, so that one busy hour does not count
    for ever; all of it into those that were only assumed.
    """
    frame = plan.frame_seconds
    if frame is None or frame.rates.machine != machine_name():
        return
    if pace.pending_frames < FEWEST_FRAMES or pace.seconds < FEWEST_SECONDS:
        return
    slower = pace.seconds / frame.of(pace.pending_frames, pace.pending_frames)
    slower = min(MOST_CHANGE, max(1 / MOST_CHANGE, slower))
    known = _read(settings)
    doubts = (
        1.0 if _key(plan, frame.rates) in known.engines else ASSUMED_DOUBT,
        1.0 if _encoder_of(plan) in known.encoders else ASSUMED_DOUBT,
    )
    engine, encoder = changes(frame, slower, doubts=doubts)
    rates = replace(
        frame.rates, engine=frame.rates.engine * engine, encoder=frame.rates.encoder * encoder
    )
    _keep(plan, rates, settings)


def changes(
    frame: FrameSeconds, slower: float, *, doubts: tuple[float, float]
) -> tuple[float, float]:
    """By which factors the rates of engine and encoder change after a job.

    Only the time of both together was seen. What was predicted is weighed against it as in a Kalman
    filter of the factors' logarithms: the part that takes more of the time, or is less sure, takes
    more of the difference. Where both run beside each other only the slower one was seen, and the
    other is known to be no slower than that.

    Args:
        frame: predicted seconds of a frame; its check goes with the encoder.
        slower: how many times as long as predicted the job has taken.
        doubts: variances of engine and encoder, over that of what was seen.
    """
    parts = (frame.engine, frame.encoder + frame.check)
    if frame.beside:
        first = int(parts[1] > parts[0])
        doubt = doubts[first]
        found = [min(1.0, slower * max(parts) / max(part, 1e-9)) for part in parts]
        found[first] = math.exp(math.log(slower) * doubt / (doubt + 1))
        return found[0], found[1]
    shares = [part / sum(parts) for part in parts]
    pulls = [doubt * share for doubt, share in zip(doubts, shares, strict=True)]
    known = sum(pull * share for pull, share in zip(pulls, shares, strict=True))
    aim = math.exp(math.log(slower) * known / (known + 1))
    low, high = -1e3, 1e3  # of the step that comes to the aim: the sum rises with it
    for _ in range(60):
        step = (low + high) / 2
        over = (
            sum(share * one for share, one in zip(shares, _moved(pulls, step), strict=True)) > aim
        )
        low, high = (low, step) if over else (step, high)
    engine, encoder = _moved(pulls, low)
    return engine, encoder


def _moved(pulls: Sequence[float], step: float) -> list[float]:
    """The factors of a step; the strongest pull moves by all of it."""
    return [math.exp(min(50.0, step * pull / max(pulls))) for pull in pulls]


def learn_delivery(plan: PlanOutline, stages: Mapping[str, float], settings: Settings) -> None:
    """Correct what is known of joining, checking and storing by what a job has taken for it.

    Args:
        plan: of the job.
        stages: phase -> seconds of the run. Called when the output is stored.
        settings: its storage, and where the rates are kept.
    """
    frame = plan.frame_seconds
    took = sum(stages.get(stage, 0.0) for stage in DELIVERY_STAGES)
    if frame is None or frame.rates.machine != machine_name() or not took:
        return
    known = _read(settings)
    slower = took / delivery_seconds(frame, plan.num_frames)
    slower = min(MOST_CHANGE, max(1 / MOST_CHANGE, slower))
    change = math.sqrt(slower) if settings.storage in known.deliveries else slower
    found = {settings.storage: round(frame.rates.delivery * change, 4)}
    _write(replace(known, deliveries=known.deliveries | found), settings)


def _keep(plan: PlanOutline, rates: Rates, settings: Settings) -> None:
    """Write down what is known of an engine and an encoder."""
    known = _read(settings)
    changed = replace(
        known,
        engines=known.engines | {_key(plan, rates): round(rates.engine, 4)},
        encoders=known.encoders | {_encoder_of(plan): round(rates.encoder, 4)},
    )
    _write(changed, settings)


def _write(known: MachineRates, settings: Settings) -> None:
    """Write it down. A work directory that cannot be written to is no reason to fail."""
    path = _path(known.machine, settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, known)
    except OSError as error:
        current().log(f"how fast this machine is could not be kept in {path}: {error}")


def _read(settings: Settings) -> MachineRates:
    """What is known of this machine; a damaged file counts as none."""
    machine = machine_name()
    path = _path(machine, settings)
    try:
        return read_record(path, MachineRates)
    except FileNotFoundError:
        return MachineRates(machine=machine)
    except SeedVR2Error as error:
        current().log(f"ignored: {error}")
        return MachineRates(machine=machine)


def _path(machine: str, settings: Settings) -> Path:
    digest = hashlib.sha256(machine.encode()).hexdigest()
    return settings.rates_dir / f"{digest[:16]}.json"


def _key(plan: PlanOutline, rates: Rates) -> str:
    """Under which name a job's engine is known: with its device and the budget of its output."""
    engine = f"{plan.engine.name} on {rates.device_kind}"
    return _at_size(engine, budget_of_size(plan.width, plan.height))


def _at_size(engine: str, budget: str) -> str:
    return f"{engine} at {budget}"


def _encoder_of(plan: PlanOutline) -> str:
    return encoder_name(plan.encoder.codec, plan.encoder.preset, plan.encoder.encoder)
