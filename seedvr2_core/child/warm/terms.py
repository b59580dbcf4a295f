"""On which terms a warm child may do the next job: it must be as the one that would be started."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

from seedvr2_core.engines.reuse import WeightsWanted, reuse_key
from seedvr2_core.files.durable import canonical_json

_CORE = Path(__file__).parents[2]
_PACKAGES = ("torch", "numpy", "av", "safetensors")


def terms_of(
    plan: WeightsWanted, device: str, *, command: Sequence[str], environment: Mapping[str, str]
) -> str:
    """A digest of all that a child is made of but its job: code, packages, command, environment,
    and the weights that it loads.

    Args:
        plan: of the job.
        device: torch device string.
        command: that starts a child, with its bounds.
        environment: of a child.

    Returns:
        "" where the weights must not be shared (see `reuse_key`).
    """
    key = reuse_key(plan, device)
    if not key:
        return ""
    told = {
        "weights": key,
        "code": code_state(),
        "packages": [importlib.metadata.version(name) for name in _PACKAGES],
        "command": list(command),
        "environment": dict(environment),
    }
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()


def code_state() -> list[tuple[str, int, int]]:
    """Name, size and time of every file of the core: a child has the code of when it was started.

    A checkout changes its files and not its version.
    """
    found = [(path, path.stat()) for path in sorted(_CORE.rglob("*.py"))]
    return [
        (str(path.relative_to(_CORE)), about.st_size, about.st_mtime_ns) for path, about in found
    ]
