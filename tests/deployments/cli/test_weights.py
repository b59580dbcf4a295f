"""`seedvr2 weights` as people and scripts use it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import deployments.cli.weights
from deployments.cli import weights_hub as weights
from deployments.cli.weights import app
from seedvr2_core.errors import CheckpointError
from seedvr2_core.planning.cards import parse_card
from seedvr2_core.weights.table import FIRST_3B
from tasks.settings import Settings, use_settings
from tests.kits.weights import (
    FakeHub,
    file_bytes,
    tiny_catalog,
    with_first_3b,
    without_digest,
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the small weights, known to the command."""
    monkeypatch.setattr(deployments.cli.weights, "_catalog", tiny_catalog)
    monkeypatch.setattr(weights, "PAUSE_SECONDS", 0.01)
    hub = FakeHub()
    for part in ("dit-3b", "dit-7b", "dit-7b-sharp", "vae", "pos_emb"):
        hub.offer(part)
    yield hub
    hub.close()


@pytest.fixture
def folder(hub: FakeHub, tmp_path: Path) -> Path:
    """The weights directory of the settings."""
    use_settings(Settings(work_dir=tmp_path, hf_endpoint=hub.url))
    return tmp_path / "weights"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_list_of_nothing(folder: Path) -> None:
    done = run("list")
    assert done.exit_code == 0
    assert "seedvr2-7b-sharp  no       dit-7b-sharp, vae, pos_emb" in done.stdout
    assert "nothing here yet" in done.stdout
    assert not folder.exists()


def test_download_list_verify(folder: Path) -> None:
    done = run("download", "seedvr2-7b", "seedvr2-3b")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [str(folder)]
    assert "vae.safetensors: vae F16" in done.stderr
    report = json.loads(run("list", "--json").stdout)
    assert [(m["name"], m["ready"]) for m in report["models"]] == [
        *(("seedvr2-3b", True), ("seedvr2-7b", True), ("seedvr2-7b-sharp", False)),
        ("seedvr2-1.4b", False),
    ]
    assert report["models"][2]["missing"] == ["dit-7b-sharp"]
    assert {file["status"] for file in report["files"]} == {"verified"}
    done = run("verify")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("publisher's digest matches") == 4


def test_download_as_json(folder: Path) -> None:
    done = run("download", "seedvr2-3b", "--json", "--weights-dir", folder.parent / "other")
    (line,) = done.stdout.splitlines()
    assert [file["part"] for file in json.loads(line)] == ["dit-3b", "vae", "pos_emb"]
    assert (folder.parent / "other" / "vae.safetensors").read_bytes() == file_bytes("vae")


def test_an_unknown_digest_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.cli.weights, "_catalog", lambda: without_digest("dit-3b"))
    done = run("download", "seedvr2-3b")
    assert done.exit_code == 0
    assert "publisher's digest unknown; names" not in done.stderr
    assert done.stderr.count("publisher's digest unknown") == 1
    assert "publisher's digest unknown" in run("list").stdout


def test_verify_refuses_what_is_wrong(folder: Path) -> None:
    run("download", "seedvr2-3b")
    path = folder / "dit-3b.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = run("verify")
    assert done.exit_code == 2
    told = "error: 1 file must not be used: dit-3b.safetensors [weights_unusable]"
    assert done.stderr.splitlines()[-2:] == [told, f"what helps: {CheckpointError.remedy}"]
    assert "truncated: 1 of" in done.stdout
    assert "1 of 103 tensors: vid_out_norm.weight" in done.stdout
    report = json.loads(run("verify", "--json").stdout)
    assert [f["status"] for f in report["files"]] == ["verified", "verified", "refused"]
    assert not report["models"][0]["ready"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["download"], "There are: seedvr2-3b, seedvr2-7b, seedvr2-7b-sharp"),
        (["download", "seedvr2-9b"], "'seedvr2-9b'"),
        (["download", "seedvr2-3b", "--precision", "int4"], "--precision is one of"),
        (["verify"], "run: seedvr2 weights download seedvr2-7b"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, arguments: list[str], told: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("error: "))
    assert told in line
    assert "weights verify" not in done.stderr, "no command advises itself"


def test_a_hub_without_the_file(folder: Path, hub: FakeHub) -> None:
    hub.files.clear()
    done = run("download", "seedvr2-3b")
    assert done.exit_code == 2
    assert "error: the hub answers 404" in done.stderr
    assert "Traceback" not in done.output


def test_list_says_what_fits_this_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the memory plan of the model, with the true bytes of quantised weights."""
    folder.mkdir()
    for part in ("dit-3b", "vae"):
        (folder / f"{part}.safetensors").write_bytes(file_bytes(part))
    files = json.loads(run("list", "--json").stdout)["files"]
    assert {file["part"]: file["fits"] for file in files} == {"dit-3b": "needs a GPU", "vae": ""}
    assert "no GPU here" in run("list").stdout
    for size, told in (("80", "fits this card up to"), ("3", "does not fit this card")):
        card = parse_card(size)
        monkeypatch.setattr(deployments.cli.weights, "this_card", lambda card=card: card)
        shown = run("list").stdout
        assert f"{folder} (a GPU with {size} GB, {card.free_bytes / 1e9:.1f} GB free)" in shown
        assert told in shown


def test_replaced_weights_are_neither_ready_nor_downloaded(
    folder: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments.cli.weights, "_catalog", with_first_3b)
    folder.mkdir()
    (folder / "3b.safetensors").write_bytes(file_bytes("dit-3b"))
    run("verify")
    report = json.loads(run("list", "--json").stdout)
    assert "dit-3b" in report["models"][0]["missing"]
    assert FIRST_3B in report["files"][0]["notes"]
    assert FIRST_3B in run("list").stdout
    done = run("download", "seedvr2-3b")
    assert done.exit_code == 2
    assert FIRST_3B in done.stderr
