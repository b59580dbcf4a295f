"""The model benchmark: it runs, its report is whole, and its operations are counted right."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.model.flops import PieceWork, dit_flops, piece_flops
from benchmarks.model.setup import RandomTensors
from seedvr2_core.config import (
    DIT_3B,
    DIT_7B,
    DIT_TINY_3B,
    DIT_TINY_7B,
    VAE_PRODUCTION,
    VAE_TINY,
    DiTConfig,
)
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import expected_keys
from seedvr2_core.vae.model import build_vae, random_weights

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "model" / "__main__.py"
SMALL = ("--model", "tiny", "--resolution", "32x16", "--window", "8", "--warm", "1")


def run_benchmark(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """In a process of its own, from another folder, with torch, numpy and safetensors alone."""
    blocked = ("av", "prefect", "pydantic", "httpx", "typer", "rich")
    code = f"""
import runpy, sys
for name in {blocked!r}:
    sys.modules[name] = None
sys.argv = [{str(SCRIPT)!r}, *sys.argv[1:]]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    file = tmp_path / "report.json"
    command = [sys.executable, "-c", code, *SMALL, "--json", str(file), *arguments]
    # One thread: beside other processes two wait for each other most of the time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "per 100 frames" in done.stdout
    return json.loads(file.read_text())


@pytest.mark.long
@pytest.mark.slow
def test_report_of_the_tiny_model(tmp_path: Path) -> None:
    report = run_benchmark(tmp_path, "--windows", "2", "--color", "none")
    assert (report["warm"], report["measured"], report["frames_per_piece"]) == (1, 2, 20)
    assert report["plan"]["padded"] == [32, 48]
    assert {"prepare", "encode", "sample", "dit", "decode", "finish"} <= set(report["stages"])
    rows = [report["stages"][name] for name in ("encode", "dit", "decode")]
    for row in [*rows, report["total"]]:
        assert row["tflop"] > 0
        assert row["share_of_floor"] == pytest.approx(row["floor_seconds"] / row["device_seconds"])
    whole = sum(row["device_seconds"] for row in report["stages"].values())
    assert whole == pytest.approx(report["total"]["device_seconds"], rel=0.5)
    assert all(0.01 < low <= high < 100 for low, high in report["activations"].values())
    assert set(report["memory"]) == {"encode", "dit", "decode"}
    assert report["reference"]["best_conv"] == max(report["reference"]["convs"].values())
    assert (report["machine"]["cudnn"], report["clocks"]["power.draw"]) == (None, None)


@pytest.mark.soak
@pytest.mark.slow
def test_switches(tmp_path: Path) -> None:
    slices = ("--slices", "2,1,1,1", "--chunk-tokens", "64", "--stay", "nothing")
    report = run_benchmark(
        tmp_path,
        "--windows",
        "1",
        "--plain",
        "--no-channels-last",
        "--no-convs",
        "--vae-dtype",
        "bfloat16",
        *slices,
    )
    plan = report["plan"]
    assert (plan["encoder_slice"], plan["decoder_slice"], plan["chunk_tokens"]) == (2, 1, 64)
    assert (plan["park_caches"], plan["weights_resident"]) == (True, False)
    assert plan["vae_dtype"] == "bfloat16"
    assert report["reference"]["convs"] == {}
    decode = report["stages"]["decode"]
    folded = decode["floor_seconds"] / report["stages"]["encode"]["floor_seconds"]
    plain = decode["tflop"] / report["stages"]["encode"]["tflop"]
    assert plain > 1.1 * folded


@pytest.mark.parametrize("config", [DIT_TINY_3B, DIT_TINY_7B], ids=["3b", "7b"])
@pytest.mark.parametrize("size", [(3, 4, 6), (9, 6, 10)], ids=str)
def test_operations_of_the_transformer(config: DiTConfig, size: tuple[int, int, int]) -> None:
    device = torch.device("cpu")
    text = torch.zeros(5, config.text_dim)
    dit = load_folded(
        config, RandomTensors(expected_keys(config), device), text, dtype=torch.float32
    )
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with (
        FlopCounterMode(display=False, custom_mapping={attend: attention_flops}) as counter,
        torch.inference_mode(),
    ):
        dit(torch.zeros(*size, config.in_channels))
    assert counter.get_total_flops() == dit_flops(config, size, text_len=5)


def attention_flops(q: Any, k: Any, v: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    """Which torch does not count on a CPU."""
    windows, heads, queries, width = q
    return 4 * windows * heads * queries * k[2] * width


@pytest.mark.parametrize("fold", [False, True], ids=["plain", "folded"])
def test_operations_of_the_vae(*, fold: bool) -> None:
    vae = build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=torch.float32, fold=fold)
    height, width, latents = 64, 96, 1
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counted: dict[str, int] = {}
    with torch.inference_mode():
        _, encoder = vae.encode_latents(torch.zeros(1, 3, 5, height, width))
        _, decoder = vae.decode_latents(torch.zeros(1, 2, height // 8, width // 8, 16))
        with FlopCounterMode(display=False, custom_mapping={attend: attention_flops}) as counter:
            vae.encode_latents(torch.zeros(1, 3, 4 * latents, height, width), encoder)
            counted["encode"] = counter.get_total_flops()
        with FlopCounterMode(display=False, custom_mapping={attend: attention_flops}) as counter:
            vae.decode_latents(torch.zeros(1, latents, height // 8, width // 8, 16), decoder)
            counted["decode"] = counter.get_total_flops()
    work = PieceWork(latents=latents, windows=1, window=9, height=height, width=width, text_len=5)
    known = piece_flops(VAE_TINY, DIT_TINY_7B, work, folded_vae=fold)
    assert counted["encode"] == known["encode"]
    # A folded phase convolves a row and a column more than it keeps, and eight channels more.
    assert 1 <= counted["decode"] / known["decode"] < (1.15 if fold else 1 + 1e-9)


def test_operations_are_those_of_the_specification() -> None:
    """dit.md section 11 and vae.md section 13: 1080p as 1920x1088, 26 latents."""
    grid = (26, 136, 240)
    assert dit_flops(DIT_3B, grid, text_len=58) / 1e15 == pytest.approx(1.244, abs=0.002)
    assert dit_flops(DIT_7B, grid, text_len=58) / 1e15 == pytest.approx(1.956, abs=0.002)
    work = PieceWork(latents=25, windows=1, window=26, height=1088, width=1920, text_len=58)
    found = piece_flops(VAE_PRODUCTION, DIT_7B, work, folded_vae=False)
    assert found["encode"] / 1e12 == pytest.approx(1918, abs=2)
    assert found["decode"] / 1e12 == pytest.approx(4975, abs=2)


def test_random_tensors_are_the_same_at_every_reading() -> None:
    tensors = RandomTensors({"a.weight": (64, 32), "b.bias": (8,)}, torch.device("cpu"))
    assert torch.equal(tensors["a.weight"], tensors["a.weight"])
    assert tensors["a.weight"].std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert list(tensors) == ["a.weight", "b.bias"]


def test_help_comes_from_anywhere() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], cwd="/", capture_output=True, text=True, check=True
    )
    assert "--windows-per-piece" in done.stdout
