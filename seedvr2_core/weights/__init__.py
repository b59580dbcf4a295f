"""Weights of the SeedVR2 models: finds them in a folder, recognises and reads them.

The names are loaded on first use, because reading weights needs torch.
"""

from typing import TYPE_CHECKING

from seedvr2_core.lazy import loaded_on_use

if TYPE_CHECKING:
    from seedvr2_core.weights.checkpoint import open_checkpoint
    from seedvr2_core.weights.folder import examine, find_model, scan_weights

__all__ = [
    "examine",
    "find_model",
    "open_checkpoint",
    "scan_weights",
]

__getattr__ = loaded_on_use(
    __name__,
    {
        "open_checkpoint": "seedvr2_core.weights.checkpoint",
        "examine": "seedvr2_core.weights.folder",
        "find_model": "seedvr2_core.weights.folder",
        "scan_weights": "seedvr2_core.weights.folder",
    },
)
