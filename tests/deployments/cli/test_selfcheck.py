"""`seedvr2 selfcheck` as people and scripts use it, with tiny real files."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from moviepy import ImageClip
from typer.testing import CliRunner, Result

import deployments.cli.selfcheck
from tests.kits.selfcheck import MODEL, scale_weights, small_world, write_weights
from tests.kits.weights import tensors, write_safetensors

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SMALL = ("--resolution", "16x24", "--frames", "45", "--device", "cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments.cli.selfcheck, "_world", small_world)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "weights")


def run(weights: Path, *arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(deployments.cli.selfcheck.selfcheck)
    out = weights.parent / "out"
    command = ["--weights", weights, "--out", out, *SMALL, *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in command])


@pytest.mark.long
def test_report_and_pictures(weights: Path) -> None:
    done = run(weights, "--check", "restore", "--check", "color", "--json")
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    out = weights.parent / "out"
    assert json.loads((out / "selfcheck.json").read_text()) == report
    assert (report["model"], report["device"], report["failed"]) == (MODEL, "cpu", [])
    assert (report["vae_dtype"], report["dit_dtype"]) == ("float16", "bfloat16")
    assert report["torch"] == torch.__version__
    assert (report["clip"], report["frames"]) == ("bunny_320x180.mp4", 45)
    digests = [
        hashlib.sha256((weights / f"{part}.safetensors").read_bytes()).hexdigest()
        for part in ("dit-7b", "vae", "pos_emb")
    ]
    assert [file["sha256"] for file in report["weights"]] == digests
    assert {file["status"] for file in report["weights"]} == {"verified"}
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert (statuses["load"], statuses["restore"], statuses["color"]) == ("ok", *["reported"] * 2)
    assert statuses["resume"] == "skipped"
    pictures = [Path(path) for check in report["checks"] for path in check["pictures"]]
    assert {path.name for path in pictures} >= {"before_after.png", "color_wavelet.png"}
    assert {path.parent for path in pictures} == {out}
    sizes = {path.name: tuple(ImageClip(str(path)).size) for path in pictures}
    assert sizes.pop("before_after.png") == (2 * 16 + 4, 24)
    assert set(sizes.values()) == {(16, 24)}


def test_the_text_is_a_line_for_each_check(weights: Path) -> None:
    done = run(weights, "--seconds", "0")
    assert done.exit_code == 0, done.output
    first, loaded, *rest, last = done.stdout.splitlines()
    assert first.startswith("seedvr2-7b at 16x24 on cpu ")
    assert loaded.startswith("ok        load ")
    assert len(rest) == 9
    assert all(line.startswith("skipped ") and line.endswith("out of time") for line in rest)
    assert last.startswith("1 ok, 0 reported, 9 skipped, 0 failed in ")
    report = json.loads((weights.parent / "out" / "selfcheck.json").read_text())
    assert {check["status"] for check in report["checks"]} == {"ok", "skipped"}


def test_a_failed_check_is_exit_1(weights: Path) -> None:
    scale_weights(weights, "vae", {"encoder.conv_in.weight": 1e6})
    done = run(weights, "--check", "activations")
    assert done.exit_code == 1
    assert "failed    activations " in done.stdout
    assert "first in encoder.conv_in" in done.stdout
    report = json.loads((weights.parent / "out" / "selfcheck.json").read_text())
    assert report["failed"] == ["activations"]
    vae = next(file for file in report["weights"] if file["part"] == "vae")
    assert (vae["name"], vae["status"]) == ("my-vae.safetensors", "unknown")


def _rename(weights: Path) -> None:
    state = tensors("vae")
    state["decoder.conv_inn.weight"] = state.pop("decoder.conv_in.weight")
    write_safetensors(weights / "vae.safetensors", state)


def _truncate(weights: Path) -> None:
    path = weights / "dit-7b.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _shrink(weights: Path) -> None:
    state = tensors("dit-7b")
    state["vid_in.proj.bias"] = state["vid_in.proj.bias"][:-1]
    write_safetensors(weights / "dit-7b.safetensors", state)


def _poison(weights: Path) -> None:
    state = tensors("vae")
    state["encoder.conv_in.bias"][0] = torch.nan
    (weights / "vae.safetensors").unlink()
    write_safetensors(weights / "mine.safetensors", state)


def _remove(weights: Path) -> None:
    (weights / "pos_emb.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(_rename, "decoder.conv_in.weight", id="renamed"),
        pytest.param(_truncate, "truncated", id="truncated"),
        pytest.param(_shrink, "vid_in.proj.bias ([63], expected [64])", id="shape"),
        pytest.param(_poison, "encoder.conv_in.bias has 1 of 8 values that are NaN", id="nan"),
        pytest.param(_remove, "no usable weights for pos_emb", id="missing"),
    ],
)
def test_wrong_weights_are_exit_2(weights: Path, spoil: object, told: str) -> None:
    assert callable(spoil)
    spoil(weights)
    done = run(weights)
    assert done.exit_code == 2
    (line,) = (one for one in done.stderr.splitlines() if one.startswith("error: "))
    assert told in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "seedvr2-9b"], "unknown model 'seedvr2-9b'"),
        (["--resolution", "big"], "or a size like 640x360, got big"),
        (["--resolution", "8x8"], "got 8x8"),
        (["--frames", "44"], ""),
        (["--frames", "40"], "--frames must be at least 45"),
        (["--device", "cuda:9"], "--device is auto or one of "),
        (["--check", "colour"], "unknown checks colour"),
        (["--video", "nothing.mp4"], "nothing.mp4"),
        (["--weights", "nowhere"], "no usable weights for dit-7b; run: seedvr2 weights download"),
    ],
)
def test_mistakes_are_one_sentence(weights: Path, arguments: list[str], told: str) -> None:
    done = run(weights, *arguments, "--seconds", "0")
    if not told:
        assert done.exit_code == 0
        return
    assert done.exit_code == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told in line


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = "import sys, deployments.cli.selfcheck; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "av", "prefect", "moviepy", "numpy"} & set(done.stdout.split())
