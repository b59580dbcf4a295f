"""Golden cases of the reference implementation in half precision, as production runs them.

The subset that lies in the repository. Bounds are those of the tests in tests/golden.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.gpu.report import LineReport
from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import DiT, load_plain
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.kernels.switches import switched
from seedvr2_core.vae.model import build_vae
from tests.golden import adapter_dit, adapter_vae

DATA = Path(__file__).parents[2] / "tests" / "golden" / "data"
ALLOWANCE = 1.5
"""Of the reference's own error in bfloat16."""
VAE_BOUNDS = {
    (torch.bfloat16, "encode"): 0.009,
    (torch.bfloat16, "decode"): 0.027,
    (torch.float16, "encode"): 0.0011,
    (torch.float16, "decode"): 0.003,
}
"""As in tests/golden/test_vae_golden.py."""


def run(report: LineReport, device: torch.device) -> None:
    """The transformer, then the VAE; on a CPU by the path of a GPU."""
    with torch.inference_mode(), switched(on_cpu=True):
        for case in _cases(DATA / "dit" / "cases_dit.json"):
            if case["kind"] == "dit_forward":
                report.attempt(case["id"], lambda c=case: _transformer(report, device, c))
        _vae(report, device)


def _cases(index: Path) -> list[dict[str, Any]]:
    return json.loads(index.read_text())["cases"]


def _transformer(report: LineReport, device: torch.device, case: dict[str, Any]) -> None:
    data = load_file(DATA / "dit" / case["file"])
    config = adapter_dit.dit_config(case["params"]["config"])
    weights = _weights(case, config)
    vid, text = data["vid"].float().to(device), data["txt"].to(device)
    timestep: float = case["params"]["timestep"]
    for dtype in (torch.bfloat16, torch.float16):
        about: dict[str, Any] = {"dtype": dtype, "device": device}
        plain = load_plain(config, weights, **about)(vid, text, timestep)
        folded = load_folded(config, weights, text, timestep=timestep, **about)(vid)
        errors = {"plain": relative(plain, data["out"]), "fast": relative(folded, data["out"])}
        allowed = ALLOWANCE * case["tol"]["upstream_bf16_rel_rms"]
        _tell(report, case["id"], dtype, errors, allowed)


def _weights(case: dict[str, Any], config: Any) -> dict[str, Tensor]:
    weights = case["params"]["weights"]
    if "file" in weights:
        return load_file(DATA / "dit" / weights["file"])
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in DiT(config).state_dict().items()}
    return pcg64_v1(shapes, weights["seed"])


def _vae(report: LineReport, device: torch.device) -> None:
    folder = DATA / "vae"
    index = json.loads((folder / "cases.json").read_text())
    for case in index["cases"]:
        operation = case["op"].removeprefix("stream_")
        if case["op"] not in ("stream_encode", "stream_decode"):
            continue
        report.attempt(case["id"], lambda c=case, o=operation: _stream(report, device, index, c, o))


def _stream(
    report: LineReport,
    device: torch.device,
    index: dict[str, Any],
    case: dict[str, Any],
    operation: str,
) -> None:
    """A case of the VAE that goes on from slice to slice."""
    folder = DATA / "vae"
    files = index["configs"][case["config"]]
    config = adapter_vae.read_config(json.loads((folder / files["file"]).read_text()))
    weights = load_file(folder / files["weights"])
    data = load_file(folder / case["data"])
    (given,) = (data[key] for key in case["inputs"].values())
    slices = [data[o["key"]] for o in case["outputs"] if o["name"].endswith(".out")]
    for dtype in (torch.float16, torch.bfloat16):
        vae = build_vae(config, weights, dtype=dtype, device=device)
        got, _ = getattr(vae, operation)(given.to(device, dtype))
        errors = {"fast": relative(got, torch.cat(slices, dim=2))}
        _tell(report, case["id"], dtype, errors, VAE_BOUNDS[dtype, operation])


def relative(got: Tensor, wanted: Tensor) -> float:
    """Relative rms error."""
    got, wanted = got.cpu().double(), wanted.double()
    return ((got - wanted).square().mean() / wanted.square().mean()).sqrt().item()


def _tell(
    report: LineReport, name: str, dtype: torch.dtype, errors: dict[str, float], allowed: float
) -> None:
    report.line(name, dtype=str(dtype), allowed=allowed, **errors)
    if not all(error <= allowed for error in errors.values()):
        report.wrong()
