"""A directory of weights: which file serves, what its digest says, what is remembered."""

import dataclasses
import hashlib
import json
import logging
import os
import random
from pathlib import Path

import pytest
import torch

from seedvr2_core.errors import CheckpointError
from seedvr2_core.weights import folder as weights_folder
from seedvr2_core.weights.checkpoint import load_text_embedding
from seedvr2_core.weights.findings import WeightsRecord, read_weights_record, record_path
from seedvr2_core.weights.folder import (
    examine,
    find_model,
    find_weights,
    recorded_sha256,
    scan_weights,
    verify_file,
)
from seedvr2_core.weights.table import FIRST_3B, MODEL_PARTS, UNTRACED_3B
from tests.kits.weights import (
    file_bytes,
    public,
    tensors,
    tiny_catalog,
    tiny_layouts,
    with_first_3b,
    without_digest,
    write_safetensors,
)

SHARP = "dit-7b-sharp"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []
    real = weights_folder.hash_file

    def hash_file(path: Path, **options: object) -> str:
        names.append(path.name)
        return real(path, **options)

    monkeypatch.setattr(weights_folder, "hash_file", hash_file)
    return names


def put(folder: Path, part: str, name: str | None = None) -> Path:
    path = folder / (name or f"{part}.safetensors")
    path.write_bytes(file_bytes(part))
    return path


def find(folder: Path, part: str) -> Path:
    return find_weights(folder, part, catalog=tiny_catalog())


def test_a_part_is_found_under_any_name(tmp_path: Path) -> None:
    for part, name in (("dit-3b", "a"), ("vae", "b.bin"), ("pos_emb", "c.pth")):
        put(tmp_path, part, name)
    (tmp_path / "readme.txt").write_text("not weights")
    (tmp_path / "folder").mkdir()
    assert [find(tmp_path, part).name for part in MODEL_PARTS["seedvr2-3b"]] == [
        *("a", "b.bin", "c.pth")
    ]
    files = find_model(tmp_path, "seedvr2-3b", catalog=tiny_catalog())
    assert [path.name for path in files] == ["a", "b.bin", "c.pth"]


@pytest.mark.parametrize("folder", ["empty", "no such folder", None])
def test_what_is_missing_says_what_to_run(tmp_path: Path, folder: str | None) -> None:
    (tmp_path / "empty").mkdir()
    place = None if folder is None else tmp_path / folder
    with pytest.raises(CheckpointError, match=r"run: seedvr2 weights download seedvr2-7b-sharp$"):
        find_weights(place, SHARP, catalog=tiny_catalog())


def test_the_other_model_does_not_serve(tmp_path: Path) -> None:
    put(tmp_path, "dit-3b", "seedvr2_ema_7b_fp16.safetensors")
    with pytest.raises(CheckpointError, match="no usable weights for dit-7b"):
        find(tmp_path, "dit-7b")


def test_a_broken_file_is_named_when_nothing_serves(tmp_path: Path) -> None:
    os.truncate(put(tmp_path, "vae"), 100_000)
    with pytest.raises(CheckpointError, match=r"run: seedvr2 weights download .*truncated.*weight"):
        find(tmp_path, "vae")
    assert put(tmp_path, "vae", "good") == find(tmp_path, "vae")


def test_sharp_is_told_by_its_digest_whatever_the_name(tmp_path: Path) -> None:
    base, sharp = put(tmp_path, "dit-7b", "my_sharp_7b"), put(tmp_path, SHARP, "plain")
    assert find(tmp_path, "dit-7b") == base
    assert find(tmp_path, SHARP) == sharp
    assert {examine(path, catalog=tiny_catalog()).status for path in (base, sharp)} == {"verified"}


def test_sharp_is_told_by_its_name_where_no_digest_helps(tmp_path: Path) -> None:
    base = write_safetensors(tmp_path / "own_7b", tensors("dit-7b", torch.bfloat16))
    sharp = write_safetensors(tmp_path / "own_7b_SHARP", tensors(SHARP, torch.bfloat16))
    assert find(tmp_path, "dit-7b") == base
    assert find(tmp_path, SHARP) == sharp
    found = examine(sharp, catalog=tiny_catalog())
    assert found.status == "unknown"
    assert found.notes[0] == f"taken for {SHARP} by its name alone"


def test_16_bits_before_8_and_safetensors_before_torch(tmp_path: Path) -> None:
    small = write_safetensors(tmp_path / "a.safetensors", tensors("dit-3b", torch.float8_e4m3fn))
    assert find(tmp_path, "dit-3b") == small
    torch.save(tensors("dit-3b", torch.float32), tmp_path / "b.pth")
    assert find(tmp_path, "dit-3b").name == "b.pth"
    assert find(tmp_path, "dit-3b") != put(tmp_path, "dit-3b", "c.safetensors")
    record_path(tmp_path / "b.pth").unlink()
    (tmp_path / "b.pth").unlink()
    assert find(tmp_path, "dit-3b").name == "c.safetensors"


def test_a_public_name_with_another_digest_is_refused(tmp_path: Path) -> None:
    """Right names and shapes, one bit wrong: only the digest can tell."""
    path = put(tmp_path, "vae")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="but someone/weights publishes"):
        find(tmp_path, "vae")
    own = path.rename(tmp_path / "my_vae")
    assert find(tmp_path, "vae") == own
    assert examine(own, catalog=tiny_catalog()).status == "unknown"


def test_a_public_name_with_another_part_in_it_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "dit-7b.safetensors", tensors("dit-3b", torch.bfloat16))
    with pytest.raises(CheckpointError, match="publishes"):
        find(tmp_path, "dit-3b")
    put(tmp_path, "dit-3b", "dit-7b.safetensors")
    assert find(tmp_path, "dit-3b").name == "dit-7b.safetensors"  # published, only misnamed


def test_unknown_digest_is_said_and_recorded(tmp_path: Path) -> None:
    path = put(tmp_path, "vae")
    found = examine(path, catalog=without_digest("vae"))
    assert found.status == "unknown"
    assert "publisher's digest unknown" in found.notes[0]
    record = read_weights_record(path)
    assert record is not None
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == found.sha256
    assert record.publisher == "publisher's digest unknown"
    assert "publisher's digest unknown" in record_path(path).read_text()


def test_a_file_is_examined_and_hashed_once(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, "vae")
    assert scan_weights(tmp_path, catalog=tiny_catalog()).files[0].status == "unchecked"
    assert hashed == []
    find(tmp_path, "vae")
    monkeypatch.setattr(weights_folder, "identify", lambda *_, **__: pytest.fail("read again"))
    for _ in range(3):
        find(tmp_path, "vae")
    assert recorded_sha256(path) == public("vae").sha256
    assert scan_weights(tmp_path, catalog=tiny_catalog()).files[0].status == "verified"
    assert hashed == [path.name]


def test_only_candidates_are_hashed_until_one_serves(tmp_path: Path, hashed: list[str]) -> None:
    for part in ("dit-3b", "dit-7b", SHARP, "vae"):
        put(tmp_path, part)
    find(tmp_path, SHARP)
    assert hashed == [f"{SHARP}.safetensors"]


@pytest.mark.parametrize("change", ["content", "time", "record", "format"])
def test_a_changed_file_is_examined_again(tmp_path: Path, hashed: list[str], change: str) -> None:
    path = put(tmp_path, "vae", "x")
    find(tmp_path, "vae")
    if change == "content":
        path.write_bytes(file_bytes("pos_emb"))
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "record":
        record_path(path).write_text("{")
    else:
        text = record_path(path).read_text()
        record_path(path).write_text(text.replace('"format":1', '"format":0'))
    part = "pos_emb" if change == "content" else "vae"
    assert find(tmp_path, part) == path
    assert hashed == ["x", "x"]
    record = read_weights_record(path)
    assert record is not None
    assert record.part == part


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch, caplog, hashed: list[str]
) -> None:
    """The file is hashed once in a process, and again when it is another one."""
    path = put(tmp_path, "vae")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("seedvr2_core.weights.findings.write_record", refuse)
    with caplog.at_level(logging.WARNING):
        assert find(tmp_path, "vae") == path
    assert "each process will examine it anew" in caplog.text
    assert not record_path(path).exists()
    assert find(tmp_path, "vae") == path
    assert recorded_sha256(path) == examine(path, catalog=tiny_catalog()).sha256
    assert hashed == ["vae.safetensors"]
    os.utime(path, ns=(1, 1))
    assert find(tmp_path, "vae") == path
    assert hashed == ["vae.safetensors"] * 2


def test_a_file_that_is_being_written_is_not_hashed(tmp_path: Path) -> None:
    path = put(tmp_path, "vae")

    def write_more(phase: str, done: int, total: int) -> None:
        with path.open("ab") as stream:
            stream.write(b"x")

    with pytest.raises(CheckpointError, match="changed while it was read"):
        weights_folder.hash_file(path, beat=write_more)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "vae").symlink_to(put(tmp_path / "cache", "vae", "blob"))
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    inventory = scan_weights(tmp_path, catalog=tiny_catalog())
    assert [file.path.name for file in inventory.files] == ["vae"]
    assert [path.name for path in inventory.refused] == ["gone"]


def test_verify_finds_what_changed_on_disk(tmp_path: Path) -> None:
    """Same size, same time, other bytes: only reading tells; then it stays refused."""
    path = put(tmp_path, "vae", "mine")
    catalog = without_digest("vae")
    assert verify_file(path, catalog=catalog).status == "unknown"
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find_weights(tmp_path, "vae", catalog=catalog) == path
    found = verify_file(path, catalog=catalog)
    assert found.status == "wrong"
    assert "changed on disk" in found.notes[-1]
    with pytest.raises(CheckpointError, match="changed on disk"):
        find_weights(tmp_path, "vae", catalog=catalog)
    path.write_bytes(content)  # put there anew: what is recorded no longer counts
    assert find_weights(tmp_path, "vae", catalog=catalog) == path


def test_verify_reads_the_values_that_no_publisher_vouches_for(tmp_path: Path) -> None:
    state = tensors("vae")
    name = "decoder.conv_in.weight"
    state[name].view(-1)[3] = float("nan")
    path = write_safetensors(tmp_path / "mine", state)
    found = verify_file(path, catalog=tiny_catalog())
    assert found.status == "wrong"
    assert f"{name} has 1 of" in found.notes[-1]
    with pytest.raises(CheckpointError, match=name):
        find(tmp_path, "vae")


def test_verify_keeps_where_a_file_came_from(tmp_path: Path) -> None:
    path = put(tmp_path, "vae")
    examine(path, catalog=tiny_catalog())
    record = read_weights_record(path)
    assert isinstance(record, WeightsRecord)
    record = dataclasses.replace(record, source="someone/weights@c")
    weights_folder.save_weights_record(path, record)
    heard: list[tuple[str, int, int]] = []
    beat = lambda *beat: heard.append(beat)  # noqa: E731
    assert verify_file(path, catalog=tiny_catalog(), beat=beat).status == "verified"
    assert heard[-1] == ("hash", path.stat().st_size, path.stat().st_size)
    assert read_weights_record(path) == record


@pytest.mark.parametrize("size", [0, 1, 8 << 20, (16 << 20) + 5])
def test_the_digest_is_that_of_the_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "weights"
    path.write_bytes(random.Random(size).randbytes(size))
    assert weights_folder.hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_is_hashed_beats_by_bytes(tmp_path: Path) -> None:
    path, beats = tmp_path / "a.safetensors", []
    path.write_bytes(bytes(40_000_000))
    recorded_sha256(path, beat=lambda phase, done, total: beats.append((phase, done, total)))
    assert len(beats) > 1
    assert beats[-1] == ("hash", 40_000_000, 40_000_000)


def test_replaced_weights_serve_only_those_who_name_them(tmp_path: Path) -> None:
    """A copy under another name is known by its digest."""
    first, catalog = put(tmp_path, "dit-3b", "copy.safetensors"), with_first_3b()
    for part in ("vae", "pos_emb"):
        put(tmp_path, part)
    with pytest.raises(CheckpointError, match=f"{FIRST_3B}; to use it, name it: --weights-file"):
        find_model(tmp_path, "seedvr2-3b", catalog=catalog)
    assert find_model(tmp_path, "seedvr2-3b", catalog=catalog, file=first.name)[0] == first
    assert examine(first, catalog=catalog).provenance == (FIRST_3B,)
    own = write_safetensors(tmp_path / "own", tensors("dit-3b", torch.bfloat16))
    assert find_weights(tmp_path, "dit-3b", catalog=catalog) == own
    assert examine(own, catalog=catalog).provenance == (UNTRACED_3B,)


def test_replaced_weights_are_told_by_their_name_before_they_are_hashed(tmp_path: Path) -> None:
    """A list hashes nothing, and says all the same that they serve only those who name them."""
    path, catalog = put(tmp_path, "dit-3b"), with_first_3b()
    (listed,) = scan_weights(tmp_path, catalog=catalog).files
    assert (listed.status, listed.superseded, listed.notes) == ("unchecked", FIRST_3B, (FIRST_3B,))
    put(tmp_path, "dit-7b", path.name)
    (listed,) = scan_weights(tmp_path, catalog=catalog).files
    assert not listed.superseded, "what is named so but holds another model"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "nothing is not in .*; there are: dit-7b.safetensors, vae.safetensors"),
        ("vae.safetensors", "holds vae, not dit-7b"),
        ("../dit-7b.safetensors", "is not in"),
        ("sharp", "holds dit-7b-sharp, not dit-7b"),
    ],
)
def test_a_named_file_is_the_one_that_serves(tmp_path: Path, name: str, told: str) -> None:
    put(tmp_path, "dit-7b")
    put(tmp_path, "vae")
    own = write_safetensors(tmp_path / "my_sharp_one", tensors("dit-7b", torch.float32))
    if name == "sharp":
        put(tmp_path, SHARP, name)
    else:
        own.unlink()
    with pytest.raises(CheckpointError, match=told):
        find_weights(tmp_path, "dit-7b", catalog=tiny_catalog(), file=name)
    if name == "sharp":  # no digest says what it is, so its user's word counts
        found = find_weights(tmp_path, "dit-7b", catalog=tiny_catalog(), file=own.name)
        assert found == own


def test_a_bundle_brings_the_text_embedding(tmp_path: Path) -> None:
    text = tensors("pos_emb", torch.bfloat16)["pos_emb"]
    names = {"positive_conditioning": text[None], "negative_conditioning": torch.ones(1, 7, 48)}
    state = {f"model.{name}": t for name, t in tensors("dit-7b").items()}
    bundle = write_safetensors(tmp_path / "bundle", {**state, **names})
    put(tmp_path, "vae")
    files = find_model(tmp_path, "seedvr2-7b", catalog=tiny_catalog())
    assert [path.name for path in files] == ["bundle", "vae.safetensors", "bundle"]
    assert torch.equal(load_text_embedding(bundle, layouts=tiny_layouts), text)
    put(tmp_path, "pos_emb")
    assert find_model(tmp_path, "seedvr2-7b", catalog=tiny_catalog())[2].name != "bundle"


@pytest.mark.parametrize("bad", [torch.nan, 0.0])
def test_values_that_are_no_text_embedding_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    text = tensors("pos_emb", torch.float32)["pos_emb"].clone()
    text[2] = bad
    bundle = {**tensors("dit-7b"), "positive_conditioning": text}
    path = write_safetensors(tmp_path / "bundle", bundle)
    with pytest.raises(CheckpointError, match="positive_conditioning has"):
        load_text_embedding(path, layouts=tiny_layouts)


def test_a_record_of_the_version_before_is_completed(tmp_path: Path, hashed: list[str]) -> None:
    path = write_safetensors(tmp_path / "fp8", tensors("dit-3b", torch.float8_e4m3fn))
    values = examine(path, catalog=tiny_catalog()).quantized
    assert values.num_bytes > values.values > 0
    told = json.loads(record_path(path).read_text())
    del told["quantized_size"], told["has_text"]
    told["quantized"] = [values.values, values.num_bytes, values.largest]  # as it was counted then
    record_path(path).write_text(json.dumps(told))
    hashed.clear()
    assert examine(path, catalog=tiny_catalog()).quantized == values
    record = read_weights_record(path)
    assert record is not None
    assert record.quantized_size == values
    assert not hashed, "the digest of the old record is kept"
