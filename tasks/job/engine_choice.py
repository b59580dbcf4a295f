"""Which engine makes a job, and on which device."""

from seedvr2_core.config import DEFAULT_ENGINE, EngineSpec, find_engine
from seedvr2_core.engines import weight_files
from seedvr2_core.errors import CheckpointError, InvalidRequestError
from tasks.schemas import Device
from tasks.settings import Settings


def choose_device(wanted: str, devices: tuple[Device, ...]) -> Device:
    """The device to run on: the best one, or the one that the settings name.

    Raises:
        InvalidRequestError: the setting names a device that is not there.
    """
    if wanted == "auto":
        return devices[0]
    for device in devices:
        if device.name == wanted:
            return device
    raise InvalidRequestError(
        f"SEEDVR2_DEVICE={wanted} is not on this machine; there are: "
        f"{', '.join(device.name for device in devices)}"
    )


def choose_engine(model: str, device: Device, settings: Settings) -> tuple[EngineSpec, str]:
    """The engine of a request, and a note for the user ("" if none).

    Args:
        model: of the request; auto is SeedVR2 7B, or span where the settings allow a small engine.
        device: that it will run on.
        settings: of this machine.

    Raises:
        CheckpointError: its weights are missing or damaged, or auto cannot be SeedVR2 here and
            must not become a small engine.
        InvalidRequestError: it cannot run on this device.
    """
    if model != "auto":
        spec = find_engine(model)
        if obstacle := _lacks_gpu(spec, device):
            raise InvalidRequestError(f"{model} {obstacle}; choose span or lanczos, or a GPU pool")
        weight_files(spec.name, settings.weights_folder)
        return spec, ""
    spec = find_engine(DEFAULT_ENGINE)
    obstacle = _lacks_gpu(spec, device) or _lacks_weights(spec, settings)
    if not obstacle:
        return spec, ""
    if settings.allow_cpu_engine:
        return find_engine("span"), f"model auto became span: {spec.name} {obstacle}"
    raise CheckpointError(
        f"model auto is {spec.name}, which {obstacle}; to let auto become the small engine span, "
        "set SEEDVR2_ALLOW_CPU_ENGINE=true"
    )


def _lacks_gpu(spec: EngineSpec, device: Device) -> str:
    return "needs an NVIDIA GPU" if spec.needs_gpu and device.name == "cpu" else ""


def _lacks_weights(spec: EngineSpec, settings: Settings) -> str:
    try:
        weight_files(spec.name, settings.weights_folder)
    except CheckpointError as error:
        return f"cannot be loaded: {error}"
    return ""
