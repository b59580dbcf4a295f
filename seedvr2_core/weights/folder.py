"""The folder of weights: which files it holds, which part each one serves, if digests are right.

A file is recognised by its content. Its name matters in two cases only: a file under a public name
must have the publisher's digest, and where no digest decides, the name tells the sharp 7B from the
7B. What we found out about a file is kept beside it in `<file>.seedvr2.json`. That record is valid
while the file's size and modification time stay the same, so that 16 GB are hashed once. Torch is
loaded only for files that are seen for the first time.
"""

import hashlib
import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights.checkpoint import identify, open_checkpoint
from seedvr2_core.weights.findings import (
    RECORD_SUFFIX,
    WeightsRecord,
    read_weights_record,
    save_weights_record,
)
from seedvr2_core.weights.layouts import Layouts, base_part, public_layouts
from seedvr2_core.weights.matching import NOTHING_QUANTIZED, QuantizedSize
from seedvr2_core.weights.reader import sniff_format
from seedvr2_core.weights.table import (
    FIRST_3B,
    MODEL_PARTS,
    PUBLIC_FILES,
    SHARP,
    UNTRACED_3B,
    UPDATED,
    PublicFile,
)

REFUSED_SUFFIX = ".refused"
_SKIPPED_SUFFIXES = (RECORD_SUFFIX, REFUSED_SUFFIX, ".part", ".lock")
_CHUNK_BYTES = 8 * 2**20

Status = Literal["verified", "unknown", "wrong", "unchecked"]
"""verified: the file has the publisher's digest. unknown: names and shapes are right, but there is
no publisher's digest to compare with. wrong: the file must not be used. unchecked: not hashed
yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The weights that are known: public files, layouts of parts, parts of models."""

    files: tuple[PublicFile, ...] = PUBLIC_FILES
    layouts: Layouts = public_layouts
    models: Mapping[str, tuple[str, ...]]


PUBLIC = Catalog(models=MODEL_PARTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file that holds a known part."""

    path: Path
    part: str
    """dit-3b, dit-7b, dit-7b-sharp, dit-1.4b, vae, pos_emb."""
    dtypes: tuple[str, ...]
    num_bytes: int
    sha256: str | None
    status: Status
    public: PublicFile | None
    """The table's row with the same digest, or else with the same name."""
    has_text: bool = False
    """Whether a transformer's file brings the positive text embedding."""
    quantized: QuantizedSize = NOTHING_QUANTIZED
    """What of it stays quantised in memory."""
    notes: tuple[str, ...] = ()

    @property
    def provenance(self) -> tuple[str, ...]:
        """Of its notes those that say which weights it holds."""
        return tuple(note for note in self.notes if note in (FIRST_3B, UNTRACED_3B))

    @property
    def superseded(self) -> str:
        """Why it serves only those who name it; "" for all others.

        Its digest tells, and its name where that is not known yet.
        """
        return next((note for note in self.notes if note == FIRST_3B), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What a folder of weights holds."""

    files: tuple[WeightsFile, ...]
    refused: Mapping[Path, str]
    """Files that look like weights but are not used, each with the reason."""


def examine(
    path: Path, *, catalog: Catalog = PUBLIC, digest: bool = True, beat: Beat = no_beat
) -> WeightsFile:
    """Tell what a file is, from its record if that is still valid.

    Args:
        path: the file.
        catalog: the known weights.
        digest: hash the file if its record has no digest; with False the status may be unchecked.
        beat: called while hashing, with ("hash", bytes read, bytes in all).

    Raises:
        CheckpointError: not a known part, truncated, damaged.
    """
    record = read_weights_record(path)
    if record is None:
        record = _recognise(path, catalog)
    elif record.quantized_size is None:  # an earlier version's: its digest stays
        seen = _recognise(path, catalog)
        record = replace(record, has_text=seen.has_text, quantized_size=seen.quantized_size)
    if digest and record.sha256 is None:
        record = replace(record, sha256=hash_file(path, beat=beat))
    return _keep(path, record, catalog)


def verify_file(path: Path, *, catalog: Catalog = PUBLIC, beat: Beat = no_beat) -> WeightsFile:
    """Examine a file anew: names, shapes, and its digest against the publisher's and the record's.

    Where there is no publisher's digest to vouch for the values, all of them are read once.

    Args:
        path: the file.
        catalog: the known weights.
        beat: called while hashing, with ("hash", bytes read, bytes in all).

    Raises:
        CheckpointError: not a known part, truncated, damaged.
    """
    before = read_weights_record(path)
    record = replace(_recognise(path, catalog), sha256=hash_file(path, beat=beat))
    if before is not None:
        record = replace(record, source=before.source)
    if _judge(path, record, catalog).status == "unknown":
        record = replace(record, fault=_fault(path, record, before, catalog))
    return _keep(path, record, catalog)


def _fault(
    path: Path, record: WeightsRecord, before: WeightsRecord | None, catalog: Catalog
) -> str:
    """What is wrong with a file that no publisher vouches for; "" if nothing."""
    if before is not None and before.sha256 not in (None, record.sha256):
        return (
            f"its bytes changed on disk: sha256 was {before.sha256}, is {record.sha256}; delete it "
            "and download it again"
        )
    try:
        with open_checkpoint(path, record.part, layouts=catalog.layouts) as checkpoint:
            checkpoint.check_values()
    except CheckpointError as error:
        return str(error)
    return ""


def scan_weights(weights_dir: Path, *, catalog: Catalog = PUBLIC) -> Inventory:
    """All files directly in a folder that are or claim to be weights; hashes none of them."""
    files: list[WeightsFile] = []
    refused: dict[Path, str] = {}
    for path in sorted(weights_dir.iterdir()) if weights_dir.is_dir() else ():
        if path.name.startswith(".") or path.name.endswith(_SKIPPED_SUFFIXES) or path.is_dir():
            continue
        try:
            if sniff_format(path) is not None:
                files.append(examine(path, catalog=catalog, digest=False))
        except CheckpointError as error:
            refused[path] = str(error)
    return Inventory(files=tuple(files), refused=refused)


def find_weights(
    weights_dir: Path | None, part: str, *, catalog: Catalog = PUBLIC, file: str = ""
) -> Path:
    """The file that serves a part: 16 or 32 bits before 8, then .safetensors, then by name.

    Hashes the candidates that have not been hashed, until one serves. Weights that their publisher
    has replaced serve only if they are named.

    Args:
        weights_dir: the folder.
        part: dit-3b, dit-7b, dit-7b-sharp, dit-1.4b, vae or pos_emb.
        catalog: the known weights.
        file: name of the file in the folder that is to serve; "": any.

    Raises:
        CheckpointError: there is none; the message says what to run and what was refused.
    """
    model = next(name for name, parts in catalog.models.items() if part in parts)
    advice = f"run: seedvr2 weights download {model}"
    if weights_dir is None:
        raise CheckpointError(f"no directory of weights is set (SEEDVR2_WEIGHTS_DIR); {advice}")
    if file:
        return _named(weights_dir, part, file, catalog)
    inventory = scan_weights(weights_dir, catalog=catalog)
    same_layout = [f for f in inventory.files if base_part(f.part) == base_part(part)]
    refused = list(inventory.refused.values())
    for candidate in sorted(same_layout, key=lambda file: _preference(file, part)):
        found = examine(candidate.path, catalog=catalog)
        if found.status == "wrong":
            refused.append(f"{found.path}: {'; '.join(found.notes)}")
        elif found.superseded:
            name = found.path.name
            refused.append(f"{name}: {found.superseded}; to use it, name it: --weights-file {name}")
        elif found.part == part:
            return found.path
    because = "".join(f"; refused: {reason}" for reason in refused)
    raise CheckpointError(f"{weights_dir} has no usable weights for {part}; {advice}{because}")


def _named(weights_dir: Path, part: str, file: str, catalog: Catalog) -> Path:
    """The file of that name, if it holds the part.

    A 7B whose name and digest do not say whether it is sharp is taken for what it is named for.
    """
    path = weights_dir / file
    if Path(file).name != file or not path.is_file():
        there = [found.path.name for found in scan_weights(weights_dir, catalog=catalog).files]
        raise CheckpointError(
            f"the weights file {file} is not in {weights_dir}; there are: "
            f"{', '.join(there) or 'none'}"
        )
    found = examine(path, catalog=catalog)
    if found.status == "wrong":
        raise CheckpointError(f"{path}: {'; '.join(found.notes)}")
    known = found.status == "verified"
    if found.part != part and (known or base_part(found.part) != base_part(part)):
        raise CheckpointError(
            f"{path} holds {found.part}, not {part}; name another file or another model"
        )
    return path


def find_model(
    weights_dir: Path | None, model: str, *, catalog: Catalog = PUBLIC, file: str = ""
) -> tuple[Path, ...]:
    """The files of a model: transformer, VAE, text embedding.

    Where there is no file of the text embedding, the transformer's own serves if it brings one.

    Args:
        weights_dir: the folder.
        model: its name.
        catalog: the known weights.
        file: name of the transformer's file in the folder; "": any.

    Raises:
        CheckpointError: one is missing; the message says what to run.
    """
    dit_part, vae_part, text_part = catalog.models[model]
    dit = find_weights(weights_dir, dit_part, catalog=catalog, file=file)
    vae = find_weights(weights_dir, vae_part, catalog=catalog)
    try:
        text = find_weights(weights_dir, text_part, catalog=catalog)
    except CheckpointError:
        if not examine(dit, catalog=catalog).has_text:
            raise
        text = dit
    return dit, vae, text


def recorded_sha256(path: Path, *, beat: Beat = no_beat) -> str:
    """SHA-256 of a file, from its record where there is a valid one; else `beat` is called."""
    record = read_weights_record(path)
    return (record.sha256 if record else None) or hash_file(path, beat=beat)


def hash_file(path: Path, *, beat: Beat = no_beat) -> str:
    """SHA-256 of a file's bytes; the next ones are read while some are hashed.

    Raises:
        CheckpointError: it cannot be read, or it changed while it was read.
    """
    digest, done = hashlib.sha256(), 0
    buffers = bytearray(_CHUNK_BYTES), bytearray(_CHUNK_BYTES)
    try:
        before = path.stat()
        with path.open("rb", buffering=0) as stream, ThreadPoolExecutor(1) as reader:
            reading = reader.submit(stream.readinto, buffers[0])
            for turn in itertools.count(1):
                count = reading.result() or 0
                if not count or done > before.st_size:
                    break
                reading = reader.submit(stream.readinto, buffers[turn % 2])
                digest.update(memoryview(buffers[1 - turn % 2])[:count])
                done += count
                beat("hash", done, before.st_size)
        after = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise CheckpointError(f"{path} changed while it was read; wait until it is complete")
    return digest.hexdigest()


def _keep(path: Path, record: WeightsRecord, catalog: Catalog) -> WeightsFile:
    found = _judge(path, record, catalog)
    told = {"unchecked": "", "unknown": "publisher's digest unknown"}
    save_weights_record(path, replace(record, publisher=told.get(found.status, found.status)))
    return found


def _recognise(path: Path, catalog: Catalog) -> WeightsRecord:
    try:
        stat = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    identity = identify(path, layouts=catalog.layouts)
    return WeightsRecord(
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        part=identity.part,
        dtypes=identity.dtypes,
        has_text=identity.has_text,
        quantized_size=identity.quantized,
    )


def _judge(path: Path, record: WeightsRecord, catalog: Catalog) -> WeightsFile:
    """Part, status and notes from the content, then the digest, and last the name."""
    by_digest = [row for row in catalog.files if row.sha256 and row.sha256 == record.sha256]
    by_name = [row for row in catalog.files if row.file == path.name]
    public = next(iter(by_digest or by_name), None)
    part, notes = record.part, []
    if public is not None and base_part(public.part) == record.part:
        part = public.part
    elif record.part + SHARP in {row.part for row in catalog.files}:
        part += SHARP if "sharp" in path.name.lower() else ""
        notes.append(f"taken for {part} by its name alone")
    status, reason = _status(record, public, verified=bool(by_digest))
    notes += [reason] if reason else []
    same_part = public is not None and public.part == part
    if public is not None and public.superseded and same_part and status != "wrong":
        notes.append(public.superseded)
    elif part == UPDATED and status in ("verified", "unknown") and not _is_master(public):
        notes.append(UNTRACED_3B)
    return WeightsFile(
        path=path,
        part=part,
        dtypes=record.dtypes,
        num_bytes=record.size,
        sha256=record.sha256,
        status=status,
        public=public,
        has_text=record.has_text,
        quantized=record.quantized_size or NOTHING_QUANTIZED,
        notes=tuple(notes),
    )


def _is_master(public: PublicFile | None) -> bool:
    return public is not None and public.precision == "original"


def _status(
    record: WeightsRecord, public: PublicFile | None, *, verified: bool
) -> tuple[Status, str]:
    """A file's status and the sentence that explains it."""
    if record.fault:
        return "wrong", record.fault
    if record.sha256 is None:
        return "unchecked", ""
    if verified:
        return "verified", ""
    if public is None or public.sha256 is None:
        return "unknown", "publisher's digest unknown; names and shapes are right"
    return "wrong", (
        f"its sha256 is {record.sha256}, but {public.repo} publishes {public.sha256} under this "
        "name; delete it and download it again, or rename it if it is your own"
    )


def _preference(file: WeightsFile, part: str) -> tuple[bool, bool, bool, str]:
    """Sort key of candidates, the best first."""
    return (
        file.part != part,
        file.quantized.largest > 0 or file.dtypes[0].startswith("F8"),
        file.path.suffix != ".safetensors",
        file.path.name,
    )
