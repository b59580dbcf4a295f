"""The table of public weights: every row can be downloaded, told apart and used."""

import re
from pathlib import Path, PurePath

import pytest

from seedvr2_core.weights.folder import PUBLIC
from seedvr2_core.weights.layouts import base_part, public_layouts
from seedvr2_core.weights.table import (
    MODEL_PARTS,
    NEGATIVE_TEXT,
    PUBLIC_FILES,
    SHARP,
    TEXT,
    VAE,
    PublicFile,
    model_of_file,
    with_named_file,
)

EACH_ROW = pytest.mark.parametrize("row", PUBLIC_FILES, ids=lambda row: row.file)


def test_names_and_digests_are_unique() -> None:
    """Files are recognised by digest, else by name: neither may stand for two parts."""
    assert len({row.file.lower() for row in PUBLIC_FILES}) == len(PUBLIC_FILES)
    digests = [row.sha256 for row in PUBLIC_FILES if row.sha256]
    assert len(set(digests)) == len(digests)


def test_every_part_that_a_model_needs_is_there() -> None:
    needed = {part for parts in MODEL_PARTS.values() for part in parts}
    assert {row.part for row in PUBLIC_FILES} == {*needed, NEGATIVE_TEXT}
    assert PUBLIC.models is MODEL_PARTS


@pytest.mark.parametrize("model", MODEL_PARTS)
def test_a_model_is_a_transformer_a_vae_and_a_text(model: str) -> None:
    transformer, *others = MODEL_PARTS[model]
    assert transformer.startswith("dit-")
    assert transformer.endswith(SHARP) == model.endswith(SHARP)
    assert others == [VAE, TEXT]


@EACH_ROW
def test_a_row_can_be_asked_for_and_checked(row: PublicFile) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", row.repo)
    assert PurePath(row.file).name == row.file
    assert row.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", row.sha256)


@EACH_ROW
def test_the_name_tells_what_the_row_says(row: PublicFile) -> None:
    """People read the names: sharp, half precision and 8 bits must be what they say."""
    if row.part + SHARP in {other.part for other in PUBLIC_FILES} or row.part.endswith(SHARP):
        assert ("sharp" in row.file) == row.part.endswith(SHARP)
    assert ("fp8" in row.file) == (row.precision == "fp8")
    endings = {"original": (".pth", ".pt"), "q8_0": (".gguf",), "q4_k_m": (".gguf",)}
    assert row.file.endswith(endings.get(row.precision, (".safetensors",)))
    assert row.file.endswith(".gguf") <= (row.precision.upper() in row.file.upper())


def test_every_part_has_a_layout() -> None:
    assert {base_part(row.part) for row in PUBLIC_FILES} == set(public_layouts())


def test_the_table_is_that_of_the_facts(shared: Path) -> None:
    facts = (shared / "seedvr2" / "checkpoints.json").read_text()
    for row in PUBLIC_FILES:
        if row.part == "dit-1.4b":
            continue  # came later; named by public projects that use it
        assert f'"{row.file}"' in facts
        assert row.repo in facts
        assert row.precision == "original" or row.sha256 in facts


def test_the_masters_are_those_of_the_listings() -> None:
    masters = {row.file: row for row in PUBLIC_FILES if row.file.endswith(".pth")}
    assert {name: str(row.sha256)[:8] for name, row in masters.items()} == {
        "seedvr2_ema_3b.pth": "6bcc5ac5",
        "seedvr2_ema_7b.pth": "e1b2ae25",
        "seedvr2_ema_7b_sharp.pth": "ced5706c",
        "ema_vae.pth": "c7df8a67",
    }
    assert masters["seedvr2_ema_3b.pth"].num_bytes == 13_566_090_228


def test_the_distilled_model_may_be_asked_for_by_its_file() -> None:
    (row,) = (row for row in PUBLIC_FILES if row.part == "dit-1.4b")
    assert row.num_bytes == 2_885_236_568
    assert model_of_file(row.file) == "seedvr2-1.4b"


def test_a_replaced_file_is_asked_for_by_its_name() -> None:
    replaced = [row.file for row in PUBLIC_FILES if row.superseded]
    assert replaced == [
        "seedvr2_ema_3b_fp16.safetensors",
        "seedvr2_ema_3b_fp8_e4m3fn.safetensors",
    ]
    for name in replaced:
        given = with_named_file({"model": name.upper(), "seed": 1})
        assert given == {"model": name.upper(), "seed": 1, "weights_file": name}
        assert model_of_file(name) == "seedvr2-3b"
    for other in ({"model": "seedvr2-3b"}, {"model": "seedvr2_ema_7b_fp16.safetensors"}, {}, None):
        assert with_named_file(other) == other
