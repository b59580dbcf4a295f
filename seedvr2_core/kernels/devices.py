"""What a torch device can do: one table by capability, and the only place that asks for kinds.

Torch calls NVIDIA's and AMD's GPUs "cuda" alike; both have streams and page-locked copies. What
differs is chosen by the compute capability, never by a card's name. Nothing is forbidden that torch
can do: a device that nobody has tried runs on the plainest path, and `seedvr2 doctor` says so.
Importing this module loads no torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

GPU = "cuda"
"""Torch's name for GPUs, as `torch.device.type` has it and as names like "cuda:0" begin."""
APPLE = "mps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """A row of the table."""

    name: str
    """Of the generation."""
    dit_dtype: Literal["bfloat16", "float32"]
    """Of the transformer's Linears."""
    attention: Literal["cudnn", "flash", "default"]
    """The transformer's attention: cuDNN for the shapes that hold most of the work and flash for
    the rest; flash alone; or what torch chooses."""
    triton: bool
    """Whether kernels of our own run in Triton; else their torch references."""
    tested: bool
    """Whether we have run the model there. No GPU of any kind was at hand so far."""


ABILITIES: tuple[tuple[tuple[int, int], Ability], ...] = (
    (
        (12, 0),
        Ability(
            name="Blackwell (SM 12)",
            dit_dtype="bfloat16",
            attention="flash",
            triton=True,
            tested=False,
        ),
    ),
    (
        (10, 0),
        Ability(
            name="Blackwell (SM 10)",
            dit_dtype="bfloat16",
            attention="cudnn",
            triton=True,
            tested=False,
        ),
    ),
    (
        (9, 0),
        Ability(
            name="Hopper (SM 9)",
            dit_dtype="bfloat16",
            attention="cudnn",
            triton=True,
            tested=False,
        ),
    ),
    (
        (8, 0),
        Ability(
            name="Ampere or Ada (SM 8)",
            dit_dtype="bfloat16",
            attention="flash",
            triton=True,
            tested=False,
        ),
    ),
    (
        (0, 0),
        Ability(
            name="older than Ampere",
            dit_dtype="bfloat16",
            attention="default",
            triton=False,
            tested=False,
        ),
    ),
)
"""NVIDIA's generations, by the least compute capability. cuDNN's attention is taken where torch
itself prefers it to flash, on SM 9 and SM 10 (`check_prefer_cudnn_attention` in torch's
sdp_utils.cpp); before SM 8 neither flash nor bfloat16 exists in hardware."""
AMD = Ability(
    name="AMD (ROCm)", dit_dtype="bfloat16", attention="default", triton=False, tested=False
)
MPS = Ability(
    name="Apple (MPS)", dit_dtype="bfloat16", attention="default", triton=False, tested=False
)
CPU = Ability(name="CPU", dit_dtype="float32", attention="default", triton=False, tested=True)


def on_gpu(device: "torch.device | str") -> bool:
    """Whether a device has streams, page-locked copies and memory of its own: NVIDIA's and AMD's.

    Args:
        device: a torch device, or its name: "cpu", "cuda:0".
    """
    return (device if isinstance(device, str) else device.type).startswith(GPU)


def is_nvidia(device: "torch.device") -> bool:
    """Whether a device is one of NVIDIA's."""
    import torch

    return on_gpu(device) and torch.version.hip is None


def gpu_name(index: int) -> str:
    """Torch's name of a GPU."""
    return f"{GPU}:{index}"


def ability_of(device: "torch.device | str") -> Ability:
    """The row of a device. "meta", and a GPU that is not here, stand for a Hopper."""
    import torch

    kind = torch.device(device).type
    if kind == GPU and torch.version.hip is not None:
        return AMD
    if kind == GPU and torch.cuda.is_available():
        return nvidia_ability(torch.cuda.get_device_capability(device))
    if kind in (GPU, "meta"):
        return nvidia_ability((9, 0))
    return MPS if kind == APPLE else CPU


def runs_own_kernels(device: "torch.device | str") -> bool:
    """Whether kernels of our own run on a GPU: its row says so, and Triton is installed."""
    import torch

    from seedvr2_core.kernels.kernel import uses_triton

    return uses_triton(torch.device(device))


def nvidia_ability(capability: tuple[int, int]) -> Ability:
    """The row of an NVIDIA GPU of that compute capability."""
    return next(row for least, row in ABILITIES if capability >= least)


def kind_of(device: "torch.device | str") -> str:
    """What a GPU of this machine is called; the name of any other device."""
    if not on_gpu(device):
        return str(device)
    import torch

    return torch.cuda.get_device_name(device)


def may_have_gpus() -> bool:
    """Whether this machine has the driver of a GPU; asking loads no torch."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def gpus() -> tuple[tuple[str, str, int], ...]:
    """(torch's name, what it is called, free bytes) of each GPU of this machine."""
    if not may_have_gpus():
        return ()
    import torch

    names = [gpu_name(i) for i in range(torch.cuda.device_count())]
    return tuple((name, kind_of(name), torch.cuda.mem_get_info(name)[0]) for name in names)


def untested_here() -> tuple[str, ...]:
    """A sentence for each device of this machine that nobody has tried the model on."""
    import torch

    rows = [
        (f"{kind_of(gpu_name(i))}", ability_of(gpu_name(i)))
        for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        rows.append(("the Apple GPU", MPS))
    return tuple(
        f"{name} is {row.name}, which the model has not been tried on: "
        f"{row.dit_dtype}, {row.attention} attention, "
        f"{'kernels of our own' if row.triton else 'torch alone'}; seedvr2 selfcheck tells"
        for name, row in rows
        if not row.tested
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDevice:
    """A device that torch can use in the child."""

    name: str
    """Torch device string: "cuda:0", "cpu"."""
    kind: str
    """What the GPU is called; "cpu" for the host."""
    free_bytes: int | None
    """Memory that is free on it; None for the host."""
    host_bytes: int | None = None
    """Memory of the host that is free for work on it; None for the host itself."""
    dit_dtype: str = CPU.dit_dtype
    """Of a transformer's Linears there, as the table of devices has it."""
    own_kernels: bool = True
    """Whether kernels of our own run there, if it is a GPU."""
