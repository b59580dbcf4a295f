"""The DiT, sampler and colour against golden data of the reference implementation.

A subset lies in data/dit, so that a plain clone proves parity. Where the full set is at hand
(SEEDVR2_SHARED, default ../shared) all of it runs, by its own checker, and nothing may be skipped.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seedvr2_core.dit.fold import load_folded
from seedvr2_core.dit.model import DiT, load_plain
from seedvr2_core.engines.seedvr2.random_weights import pcg64_v1
from seedvr2_core.kernels.switches import switched
from tests.golden import adapter_dit as adapter

HERE = Path(__file__).parent
LOCAL = HERE / "data" / "dit"
SHARED = Path(os.environ.get("SEEDVR2_SHARED", HERE.parents[2] / "shared")) / "seedvr2"
FULL = SHARED / "golden"
HAS_FULL = (FULL / "cases_dit.json").is_file()
BF16_ALLOWANCE = 1.5
FOLD_TOLERANCE = 1e-4
ON_CPU = pytest.mark.parametrize("on_cpu", [False, True], ids=["cpu path", "gpu path"])
needs_full = pytest.mark.skipif(not HAS_FULL, reason="full case set absent (SEEDVR2_SHARED)")

Case = dict[str, Any]
Checks = Iterator[tuple[str, Tensor, Tensor, float]]


def _load(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cases(folder: Path) -> list[Case]:
    index = folder / "cases_dit.json"
    return json.loads(index.read_text())["cases"] if index.is_file() else []


def _param(case: Case) -> Any:
    marks = [pytest.mark.long] if "_full_" in case["id"] else []
    return pytest.param(case, id=case["id"], marks=marks)


def _forward_cases(folder: Path) -> list[Any]:
    return [_param(c) for c in _cases(folder) if c["kind"] == "dit_forward"]


# --- the subset in this repository --------------------------------------------------------------


def _weights(case: Case, folder: Path) -> dict[str, Tensor]:
    weights = case["params"]["weights"]
    if "file" in weights:
        return load_file(folder / weights["file"])
    config = adapter.dit_config(case["params"]["config"])
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in DiT(config).state_dict().items()}
    return pcg64_v1(shapes, weights["seed"])


def _check_forward(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    p = case["params"]
    model = adapter.build_dit(p["config"], _weights(case, LOCAL))
    names = [n for n in case["out"] if n != "vid_sample"]
    got = adapter.run_dit(model, d["vid"].float(), d["txt"], p["timestep"], names)
    for name in got:
        yield name, got[name], d[case["out"][name]], tolerance


def _check_denoise(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    model = adapter.build_dit(case["params"]["config"], _weights(case, LOCAL))
    latent = d["condition"][..., :-1]
    yield "condition", adapter.condition(latent, torch.zeros_like(latent), 0.0), d["condition"], 0.0
    x0 = adapter.one_step(model, d["noise"], d["condition"], d["txt_pos"])
    yield "x0", x0, d["x0"], tolerance


def _check_rope(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    p, style = case["params"], case["kind"][4:]
    for name in case["in"]:
        got = adapter.rope(style, p["head_dim"], p["window"], p.get("txt_len"), d[name], name[:3])
        yield name, got, d[case["out"][name]], tolerance


def _check_angles(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    p = case["params"]
    got = adapter.rope_angles(case["kind"][4:6], p["head_dim"], p["window"], p.get("txt_len"))
    yield "freqs", got["freqs"], d["freqs"], 1e-4
    yield "vid", got["vid"][d["rows"]], d["vid_angles_rows"][:, ::2], 1e-4
    if "txt_angles" in d:
        yield "txt", got["txt"], d["txt_angles"][:, ::2], 1e-4


def _check_parts(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    """Time embedding and modulation: several results by name."""
    weights = {n[2:]: w for n, w in d.items() if n.startswith("w.")}
    if case["kind"] == "time_embed":
        got = adapter.time_embed(d["timesteps"], weights)
    else:
        got = adapter.modulation(d["emb"], d["x"], weights)
    for name in case["out"]:
        yield name, got[name], d[name], tolerance


def _check_mlp(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    weights = {n[2:]: w for n, w in d.items() if n.startswith("w.")}
    yield "y", adapter.mlp(case["params"]["type"], d["x"], weights), d["y"], tolerance


def _check_rms_norm(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    eps = case["params"]["eps"]
    yield "y", adapter.rms_norm(d["x"], d["w"], eps), d["y"], tolerance
    yield "plain", adapter.rms_norm(d["x"], None, eps), d["y_noaffine"], tolerance


def _check_patchify(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    shape = case["params"]["latent_shape"]
    yield "tokens", adapter.patchify(d["vid"]), d["tokens"], 0.0
    yield "pred", adapter.unpatchify(d["pred_tokens"], shape), d["pred"], 0.0


def _check_sampler(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    got = adapter.endpoint(d["x_t"], d["pred"], 1000.0)
    yield "x0", got, d["endpoint_t1000"], tolerance


def _check_color(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    for name in ("wavelet", "adain"):
        yield name, adapter.color(name, d["content"], d["style"]), d[name], tolerance
    lab = adapter.color("lab", d["content"], d["style"])
    yield "lab", lab, d["lab"], case["tol"]["lab_hsv_adaptive"]["max_abs"]
    yield "uint8", adapter.to_uint8(d["wavelet"]).float(), d["final_u8"].float(), 1.0


def _check_windows(case: Case, d: dict[str, Tensor], tolerance: float) -> Checks:
    for entry in json.loads((LOCAL / case["params"]["json"]).read_text())["sizes"]:
        grid = torch.arange(int(torch.tensor(entry["size"]).prod())).view(entry["size"])
        for method in ("regular", "shifted"):
            found = adapter.windows(tuple(entry["size"]), method == "shifted")
            rows = [grid[a:b, c:e, f:g].flatten() for a, b, c, e, f, g in found]
            digest = hashlib.sha256(torch.cat(rows).numpy().astype("<i4").tobytes()).hexdigest()
            assert digest == entry[method]["index_sha256"], (entry["size"], method)
            count = torch.tensor(entry[method]["num_windows"])
            yield f"{entry['size']} {method}", torch.tensor(len(found)), count, 0.0


CHECKS: dict[str, Callable[[Case, dict[str, Tensor], float], Checks]] = {
    "dit_forward": _check_forward,
    "denoise": _check_denoise,
    "rope3b": _check_rope,
    "rope7b": _check_rope,
    "rope3b_angles": _check_angles,
    "rope7b_angles": _check_angles,
    "time_embed": _check_parts,
    "modulation": _check_parts,
    "mlp": _check_mlp,
    "rms_norm": _check_rms_norm,
    "patchify": _check_patchify,
    "sampler_step": _check_sampler,
    "color": _check_color,
    "windows": _check_windows,
}


def test_local_files_are_intact() -> None:
    digests = json.loads((LOCAL / "cases_dit.json").read_text())["sha256"]
    for name, digest in digests.items():
        assert hashlib.sha256((LOCAL / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("case", [_param(c) for c in _cases(LOCAL)])
def test_local_case(case: Case) -> None:
    data = load_file(LOCAL / case["file"]) if "file" in case else {}
    tolerance = case.get("tol", {}).get("max_abs_fp32", 0.0)
    checks = 0
    with torch.inference_mode():
        for label, got, want, allowed in CHECKS[case["kind"]](case, data, tolerance):
            assert got.shape == want.shape, label
            error = float((got.double() - want.double()).abs().max())
            assert error <= allowed, f"{label}: {error} > {allowed}"
            checks += 1
    assert checks


# --- forward cases in the ways production runs them ---------------------------------------------


def _forward_data(case: Case, folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    data = load_file(folder / case["file"])
    return data, data["vid"].float()


def _relative_rms(got: Tensor, want: Tensor) -> float:
    return float(((got - want).square().mean() / want.square().mean()).sqrt())


def _run_variants(case: Case, folder: Path, *, device: str = "cpu") -> None:
    """Folded in float32 within the tolerance; bfloat16, plain and folded, within the allowance."""
    data, vid = _forward_data(case, folder)
    weights = _weights(case, folder)
    config = adapter.dit_config(case["params"]["config"])
    vid, text, t = vid.to(device), data["txt"].to(device), case["params"]["timestep"]
    bf16 = torch.bfloat16
    with torch.inference_mode():
        wide = load_folded(config, weights, text, timestep=t, dtype=torch.float32, device=device)(
            vid
        )
        plain = load_plain(config, weights, dtype=bf16, device=device)(vid, text, t)
        folded = load_folded(config, weights, text, timestep=t, dtype=bf16, device=device)(vid)
    assert float((wide.cpu() - data["out"]).abs().max()) <= FOLD_TOLERANCE
    allowed = BF16_ALLOWANCE * case["tol"]["upstream_bf16_rel_rms"]
    assert _relative_rms(plain.cpu(), data["out"]) <= allowed
    assert _relative_rms(folded.cpu(), data["out"]) <= allowed


@ON_CPU
@pytest.mark.parametrize("case", _forward_cases(LOCAL))
def test_local_case_folded_and_bf16(case: Case, *, on_cpu: bool) -> None:
    with switched(on_cpu=on_cpu):
        _run_variants(case, LOCAL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", _forward_cases(LOCAL))
def test_local_case_on_a_gpu(case: Case) -> None:
    _run_variants(case, LOCAL, device="cuda")


# --- the full set -------------------------------------------------------------------------------


@needs_full
@pytest.mark.parametrize("case", [_param(c) for c in _cases(FULL)])
def test_full_set(case: Case) -> None:
    runner = _load("check_dit", SHARED / "check_dit.py").Runner(FULL, adapter, SHARED)
    checks = 0
    with torch.no_grad():
        for label, got, want, tolerance in runner.case(case):
            checks += 1
            if torch.is_tensor(want):
                assert got.shape == want.shape, label
                error = float((got.double() - want.double()).abs().max())
                assert error <= (tolerance or 0.0), f"{label}: {error}"
            elif tolerance is not None:
                assert abs(got - want) <= tolerance, label
            else:
                assert got == want, label
    assert checks


@needs_full
@pytest.mark.long
@ON_CPU
@pytest.mark.parametrize("case", [p for p in _forward_cases(FULL) if "_full_" not in str(p.id)])
def test_full_set_folded_and_bf16(case: Case, *, on_cpu: bool) -> None:
    with switched(on_cpu=on_cpu):
        _run_variants(case, FULL)


@pytest.mark.soak
@needs_full
@pytest.mark.long
@pytest.mark.parametrize("case", [p for p in _forward_cases(FULL) if "_full_" in str(p.id)])
def test_full_width_bf16(case: Case) -> None:
    data, vid = _forward_data(case, FULL)
    text = load_file(SHARED / "pos_emb.safetensors")["pos_emb"].float()
    config = adapter.dit_config(case["params"]["config"])
    model = load_folded(config, _weights(case, FULL), text)
    with torch.inference_mode():
        error = _relative_rms(model(vid), data["out"])
    assert error <= BF16_ALLOWANCE * case["tol"]["upstream_bf16_rel_rms"]
