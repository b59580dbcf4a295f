"""Chooses the engine of a job and the device that it runs on."""

from seedvr2_core.config import DEFAULT_ENGINE, EngineSpec, find_engine
from seedvr2_core.engines import small_engine, weight_files
from seedvr2_core.errors import CheckpointError, InvalidRequestError
from seedvr2_core.video.info import VideoOutline
from tasks.schemas import Device
from tasks.settings import Settings


def choose_device(wanted: str, devices: tuple[Device, ...]) -> Device:
    """The device to run on.

    Args:
        wanted: SEEDVR2_DEVICE: the name of a device, or "auto" for the best one.
        devices: what this machine has, best first.

    Raises:
        InvalidRequestError: this machine has no device of that name.
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


def choose_engine(
    model: str,
    device: Device,
    settings: Settings,
    weights_file: str = "",
    *,
    video: VideoOutline | None = None,
) -> tuple[EngineSpec, str]:
    """The engine of a request, and a note for the user ("" if none).

    Args:
        model: of the request. "auto" is SeedVR2 7B; where that cannot run, it is span or
            waifu2x, by how much the source is compressed, if the settings allow a small engine.
        device: the device that it will run on.
        settings: of this machine.
        weights_file: name of the file that a SeedVR2 model is to be read from; "": any.
        video: the source; None where nothing is known of it.

    Raises:
        CheckpointError: the engine's weights are missing or damaged; or the model is "auto",
            SeedVR2 cannot run here, and the settings do not allow a small engine.
        InvalidRequestError: the engine cannot run on this device.
    """
    if model != "auto":
        spec = find_engine(model)
        if obstacle := _lacks_gpu(spec, device):
            raise InvalidRequestError(
                f"{model} {obstacle}; choose span, waifu2x or lanczos, or a GPU pool"
            )
        weight_files(spec.name, settings.weights_folder, weights_file)
        return spec, ""
    spec = find_engine(DEFAULT_ENGINE)
    obstacle = _lacks_gpu(spec, device) or _lacks_weights(spec, settings, weights_file)
    if not obstacle:
        return spec, ""
    if settings.allow_cpu_engine:
        name, why = small_engine(video.codec, video.bits_per_pixel) if video else ("span", "")
        reasons = "; ".join(text for text in (f"{spec.name} {obstacle}", why) if text)
        return find_engine(name), f"model auto became {name}: {reasons}"
    raise CheckpointError(
        f"model auto is {spec.name}, which {obstacle}; to let auto become a small engine, span or "
        "waifu2x, set SEEDVR2_ALLOW_CPU_ENGINE=true"
    )


def _lacks_gpu(spec: EngineSpec, device: Device) -> str:
    """Why the engine cannot run on the device, as the end of a sentence; "" if it can."""
    return "needs an NVIDIA GPU" if spec.needs_gpu and device.name == "cpu" else ""


def _lacks_weights(spec: EngineSpec, settings: Settings, weights_file: str) -> str:
    """Why the engine cannot be loaded, as the end of a sentence; "" if its weights are there."""
    try:
        weight_files(spec.name, settings.weights_folder, weights_file)
    except CheckpointError as error:
        return f"cannot be loaded: {error}"
    return ""
