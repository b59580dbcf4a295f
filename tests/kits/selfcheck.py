"""Small weights on disk and a World that knows them, for tests of the selfcheck."""

import threading
from collections.abc import Mapping
from pathlib import Path

import torch

from seedvr2_core.config import DIT_TINY_3B, DIT_TINY_7B, VAE_TINY
from seedvr2_core.engines.seedvr2.load import World
from tests.kits.weights import file_bytes, tensors, tiny_catalog, write_safetensors

MODEL = "seedvr2-7b"
PARTS = ("dit-7b", "vae", "pos_emb")
SMALL_RING = {"transfer": None, "piece_bytes": 4096, "buffers": 3}
"""Defaults of `StagedFile` with which a small tensor comes in several pieces."""


def small_world() -> World:
    """Tiny networks under the names of the real ones."""
    return World(
        dit_configs={"dit-3b": DIT_TINY_3B, "dit-7b": DIT_TINY_7B, "dit-7b-sharp": DIT_TINY_7B},
        vae_config=VAE_TINY,
        catalog=tiny_catalog(),
    )


def write_weights(folder: Path) -> Path:
    """Write the three files that MODEL needs, with the digests of the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        (folder / f"{part}.safetensors").write_bytes(file_bytes(part))
    return folder


def files_of(folder: Path) -> list[Path]:
    """The file of each part."""
    return [folder / f"{part}.safetensors" for part in PARTS]


def wait_until_kept() -> None:
    """Until folded weights that are being written lie beside their checkpoint."""
    for thread in threading.enumerate():
        if thread.name == "keep-folded":
            thread.join(30)


def scale_weights(folder: Path, part: str, factors: Mapping[str, float]) -> None:
    """Replace a published file by one of another name, in which some tensors are multiplied.

    Args:
        folder: of the weights.
        part: which file.
        factors: tensor name -> factor.
    """
    (folder / f"{part}.safetensors").unlink()
    changed = tensors(part, torch.float32)
    for name, factor in factors.items():
        changed[name] = changed[name] * factor
    write_safetensors(folder / f"my-{part}.safetensors", changed)
