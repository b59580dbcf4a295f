"""How fast this machine is: measured at first use, corrected by every job, kept for later plans.

WORK_DIR/rates/<machine>.json has, for each engine on each kind of device and for each preset of the
encoder, the seconds of a frame over those of the tables in `seedvr2_core/planning/timing.py`. The
name stands for the kind of processor and the number of cores: workers of one kind share a file.
"""

import hashlib
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from seedvr2_core.child.protocol import Measure
from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files import read_record, write_record
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.outputs import encoder_name
from seedvr2_core.planning.plan import Rates
from tasks.child.operation import run_operation
from tasks.child.pace import Pace
from tasks.run import current
from tasks.settings import Settings

FEWEST_FRAMES, FEWEST_SECONDS = 25, 3.0
"""A child that made less tells nothing about the machine."""
MOST_CHANGE = 8.0
"""A job corrects the rates by no more than this: it may have shared the machine with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRates:
    """What is known of a machine; numbers are its seconds over those of the tables."""

    machine: str
    engines: dict[str, float] = field(default_factory=dict)
    """Engine and kind of device -> of the engine."""
    encoders: dict[str, float] = field(default_factory=dict)
    """Codec and preset, as `outputs.encoder_name` has them -> of the encoder."""


def machine_name() -> str:
    """The kind of this machine: its processor and how many cores we may use."""
    cores = len(os.sched_getaffinity(0))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "CPU")
    return f"{model}, {cores} cores"


def known_rates(engine: str, encoder: str, device_kind: str, settings: Settings) -> Rates:
    """What is known of this machine for an engine and an encoder (`outputs.encoder_name`)."""
    known = _read(settings)
    of_engine = known.engines.get(_key(engine, device_kind))
    of_encoder = known.encoders.get(encoder)
    return Rates(
        engine=of_engine or 1.0,
        encoder=of_encoder or 1.0,
        measured=of_engine is not None and of_encoder is not None,
        machine=known.machine,
        device_kind=device_kind,
    )


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
    change = math.sqrt(slower) if frame.rates.measured else slower
    # Beside each other, only the slower of the two has been seen.
    of_engine = not frame.beside or frame.engine >= frame.encoder
    of_encoder = not frame.beside or not of_engine
    rates = replace(
        frame.rates,
        engine=frame.rates.engine * (change if of_engine else 1.0),
        encoder=frame.rates.encoder * (change if of_encoder else 1.0),
    )
    _keep(plan, rates, settings)


def _keep(plan: PlanOutline, rates: Rates, settings: Settings) -> None:
    """Write rates down. A work directory that cannot be written to is no reason to fail."""
    known = _read(settings)
    key = _key(plan.engine.name, rates.device_kind)
    encoder = encoder_name(plan.encoder.codec, plan.encoder.preset, plan.encoder.encoder)
    changed = replace(
        known,
        engines=known.engines | {key: round(rates.engine, 4)},
        encoders=known.encoders | {encoder: round(rates.encoder, 4)},
    )
    path = _path(known.machine, settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, changed)
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


def _key(engine: str, device_kind: str) -> str:
    return f"{engine} on {device_kind}"
