"""The VAE against golden data of the reference implementation.

A subset lies in data/vae, so that a plain clone proves parity. Where the full set is at hand
(SEEDVR2_SHARED, default ../shared) all of it runs. The rule of comparison is the set's own:
|got - expected| <= atol + rtol |expected| for every element, float32 on the CPU.
"""

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seedvr2_core.kernels.switches import switched
from seedvr2_core.vae.model import build_vae
from tests.golden import adapter_vae as adapter

HERE = Path(__file__).parent
LOCAL = HERE / "data" / "vae"
SHARED = Path(os.environ.get("SEEDVR2_SHARED", HERE.parents[2] / "shared")) / "seedvr2"
FULL = SHARED / "golden" / "vae"
NUM_FULL_CASES = 36

Case = dict[str, Any]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@functools.cache
def _index(folder: Path) -> dict[str, Any]:
    path = folder / "cases.json"
    return json.loads(path.read_text()) if path.is_file() else {"cases": []}


@functools.lru_cache(maxsize=4)
def _tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)


@functools.lru_cache(maxsize=4)
def _model(folder: Path, config: str, *, folded: bool) -> Any:
    files = _index(folder)["configs"][config]
    build = adapter.build_folded if folded else adapter.build
    return build(
        json.loads((folder / files["file"]).read_text()), load_file(folder / files["weights"])
    )


def _params(folder: Path, *, operations: tuple[str, ...] = ()) -> list[Any]:
    cases = _index(folder)["cases"]
    return [pytest.param(c, id=c["id"]) for c in cases if not operations or c["op"] in operations]


def _run(model: Any, case: Case, t: dict[str, Tensor]) -> dict[str, Tensor]:
    operation, p = case["op"], case["params"]
    method = getattr(model, operation)
    wanted = [output["name"] for output in case["outputs"]]
    if operation in ("encode", "decode"):
        (x,) = t.values()
        return {wanted[0]: method(x, p["split_size"])}
    if operation.startswith("trace_"):
        (x,) = t.values()
        return method(x, wanted)
    if operation.startswith("stream_"):
        (x,) = t.values()
        slices = method(x, p["split_size"])
        got = {f"slice{i}.out": out for i, (out, _) in enumerate(slices)}
        for i, (_, caches) in enumerate(slices):
            got |= {f"slice{i}.cache.{path}": cache for path, cache in caches.items()}
        return got
    if operation == "pipeline_encode":
        scale = p["scaling_factor"], p["shifting_factor"]
        return {"latent": method(t["x"], t["eps"], p["split_size"], *scale)}
    if operation == "pipeline_decode":
        scale = p["scaling_factor"], p["shifting_factor"]
        return {"y": method(t["latent"], p["split_size"], *scale)}
    got = method(**t)
    return got if isinstance(got, dict) else {wanted[0]: got}


def _check(case: Case, folder: Path, *, folded: bool = False) -> None:
    data = _tensors(folder / case["data"])
    inputs = {name: data[key] for name, key in case["inputs"].items()}
    got = _run(_model(folder, case["config"], folded=folded), case, inputs)
    for output in case["outputs"]:
        name, expected = output["name"], data[output["key"]].double()
        if folded and "upsamplers" in name:
            continue  # the folded form has no high-resolution inputs to compare
        assert got[name].shape == expected.shape, name
        error = (got[name].double() - expected).abs()
        allowed = output["atol"] + output.get("rtol", 0.0) * expected.abs()
        assert bool((error <= allowed).all()), f"{name}: {float(error.max()):.3g} too far"


@pytest.mark.parametrize("case", _params(LOCAL))
def test_local_case(case: Case) -> None:
    _check(case, LOCAL)


@pytest.mark.parametrize("case", _params(LOCAL, operations=("decode", "stream_decode")))
def test_local_case_folded(case: Case) -> None:
    _check(case, LOCAL, folded=True)


FOLDED = ("decode", "stream_decode", "pipeline_decode")
"""Operations with something to fold."""


@pytest.mark.parametrize("case", _params(FULL))
def test_full_case(case: Case) -> None:
    _check(case, FULL)


@pytest.mark.parametrize("case", _params(FULL, operations=FOLDED))
def test_full_case_folded(case: Case) -> None:
    _check(case, FULL, folded=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", _params(LOCAL))
def test_local_case_the_way_a_gpu_goes(case: Case) -> None:
    """3-D convolutions, biases in later kernels, attention in one call; references of kernels."""
    with switched(on_cpu=True):
        _check(case, LOCAL)


@pytest.mark.slow
@pytest.mark.parametrize("case", _params(FULL))
def test_full_case_the_way_a_gpu_goes(case: Case) -> None:
    with switched(on_cpu=True):
        _check(case, FULL)


@pytest.mark.slow
@pytest.mark.parametrize("case", _params(FULL, operations=FOLDED))
def test_full_case_folded_the_way_a_gpu_goes(case: Case) -> None:
    with switched(on_cpu=True):
        _check(case, FULL, folded=True)


def test_full_set_is_complete() -> None:
    if not FULL.is_dir():
        pytest.skip("full case set absent (SEEDVR2_SHARED)")
    assert len(_params(FULL)) == NUM_FULL_CASES


# The set's own figures for the reference in half precision, with half again as much room.
HALF_BOUNDS = {
    (torch.bfloat16, "encode"): 0.009,
    (torch.bfloat16, "decode"): 0.027,
    (torch.float16, "encode"): 0.0011,
    (torch.float16, "decode"): 0.003,
}


@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_stays_close(dtype: torch.dtype, operation: str) -> None:
    folder = LOCAL
    (case,) = (c for c in _index(folder)["cases"] if c["op"] == f"stream_{operation}")
    data = _tensors(folder / case["data"])
    (x,) = (data[key] for key in case["inputs"].values())
    outs = [data[o["key"]] for o in case["outputs"] if o["name"].endswith(".out")]
    golden = torch.cat(outs, dim=2)
    files = _index(folder)["configs"][case["config"]]
    config = adapter.read_config(json.loads((folder / files["file"]).read_text()))
    vae = build_vae(config, load_file(folder / files["weights"]), dtype=dtype)
    got, _ = getattr(vae, operation)(x.to(dtype))
    assert got.dtype == dtype
    error = (got.float() - golden).square().mean().sqrt() / golden.square().mean().sqrt()
    assert error <= HALF_BOUNDS[dtype, operation]
