"""Which engine and device a request gets, by what the machine has."""

import dataclasses
from pathlib import Path

import pytest

import tasks.job.engine_choice
from seedvr2_core.config import find_engine
from seedvr2_core.errors import CheckpointError, InvalidRequestError
from tasks.job.engine_choice import choose_device, choose_engine
from tasks.request.video import offered_models
from tasks.schemas import Device, check_request
from tasks.settings import Settings, use_settings
from tests.kits.factories import make_info

CPU = Device(name="cpu", kind="cpu")
GPU = Device(name="cuda:0", kind="NVIDIA H100 80GB HBM3", free_bytes=78 * 10**9)


@pytest.fixture
def has_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the 7B's files were there; reading them is tested with the files themselves."""
    monkeypatch.setattr(tasks.job.engine_choice, "weight_files", lambda name, folder, file: ())


def settings(tmp_path: Path, *, allow_cpu_engine: bool = False) -> Settings:
    return Settings(work_dir=tmp_path, allow_cpu_engine=allow_cpu_engine)


def test_the_best_device_or_the_one_that_is_named() -> None:
    assert choose_device("auto", (GPU, CPU)) == GPU
    assert choose_device("cpu", (GPU, CPU)) == CPU
    with pytest.raises(
        InvalidRequestError, match=r"SEEDVR2_DEVICE=cuda:1 .* there are: cuda:0, cpu"
    ):
        choose_device("cuda:1", (GPU, CPU))


@pytest.mark.usefixtures("has_weights")
def test_auto_is_seedvr2_where_gpu_and_weights_are(tmp_path: Path) -> None:
    spec, note = choose_engine("auto", GPU, settings(tmp_path, allow_cpu_engine=True))
    assert (spec.name, note) == ("seedvr2-7b", "")


@pytest.mark.usefixtures("has_weights")
def test_auto_without_a_gpu(tmp_path: Path) -> None:
    spec, note = choose_engine("auto", CPU, settings(tmp_path, allow_cpu_engine=True))
    assert spec.name == "span"
    assert "became span: seedvr2-7b needs an NVIDIA GPU" in note
    with pytest.raises(CheckpointError, match=r"needs an NVIDIA GPU; .* SEEDVR2_ALLOW_CPU_ENGINE"):
        choose_engine("auto", CPU, settings(tmp_path))


@pytest.mark.usefixtures("has_weights")
@pytest.mark.parametrize(
    ("codec", "bits", "engine", "why"),
    [
        ("h264", 0.28, "waifu2x", "much compressed (h264, 0.28 bits per pixel, the limit is 0.5)"),
        ("h264", 1.1, "span", "little compressed (h264, 1.1 bits per pixel, the limit is 0.5)"),
        ("h264", 0.0, "span", "needs an NVIDIA GPU"),
    ],
)
def test_auto_without_a_gpu_looks_at_the_source(
    tmp_path: Path, codec: str, bits: float, engine: str, why: str
) -> None:
    video = dataclasses.replace(make_info().outline, codec=codec, bits_per_pixel=bits)
    allowed = settings(tmp_path, allow_cpu_engine=True)
    spec, note = choose_engine("auto", CPU, allowed, video=video)
    assert spec.name == engine
    assert note.startswith(f"model auto became {engine}: seedvr2-7b needs an NVIDIA GPU")
    assert note.endswith(why)
    assert choose_engine("auto", GPU, allowed, video=video)[0].name == "seedvr2-7b"
    assert choose_engine("span", CPU, allowed, video=video) == (find_engine("span"), "")


def test_auto_without_weights(tmp_path: Path) -> None:
    spec, note = choose_engine("auto", GPU, settings(tmp_path, allow_cpu_engine=True))
    assert spec.name == "span"
    assert "run: seedvr2 weights download seedvr2-7b" in note
    with pytest.raises(CheckpointError, match="run: seedvr2 weights download seedvr2-7b"):
        choose_engine("auto", GPU, settings(tmp_path))


def test_a_model_that_is_named_is_never_replaced(tmp_path: Path) -> None:
    allowed = settings(tmp_path, allow_cpu_engine=True)
    with pytest.raises(InvalidRequestError, match="seedvr2-3b needs an NVIDIA GPU"):
        choose_engine("seedvr2-3b", CPU, allowed)
    with pytest.raises(CheckpointError, match="run: seedvr2 weights download seedvr2-3b"):
        choose_engine("seedvr2-3b", GPU, allowed)
    assert choose_engine("lanczos", CPU, allowed)[0].name == "lanczos"


def test_test_engines_are_offered_on_request_only(tmp_path: Path) -> None:
    assert "tiny" not in offered_models()
    with pytest.raises(InvalidRequestError, match="model: choose one of auto, seedvr2-7b"):
        check_request(video_path="x", model="tiny")
    use_settings(Settings(work_dir=tmp_path, test_engines=True))
    try:
        assert check_request(video_path="x", model="tiny").model == "tiny"
        assert {"tiny", "tiny-3b"} < set(offered_models())
    finally:
        use_settings(None)


def test_forms_offer_the_models_as_a_list() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.upscale import upscale

    field = parameter_schema(upscale.fn).model_dump()["properties"]["model"]
    assert field["enum"] == [
        "auto",
        "seedvr2-7b",
        "seedvr2-7b-sharp",
        "seedvr2-3b",
        "seedvr2-1.4b",
        "span",
        "waifu2x",
        "lanczos",
    ]
    assert field["default"] == "auto"


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "x" * 256])
def test_a_weights_file_is_a_name_in_the_folder(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="weights_file"):
        check_request(video_path="x", weights_file=name)


def test_replaced_weights_are_asked_for_by_the_file_that_names_the_model() -> None:
    """Clients of the old service name models by files."""
    first, current = (
        check_request(video_path="x", model=name)
        for name in ("seedvr2_ema_3b_fp16.safetensors", "seedvr2_ema_7b_fp16.safetensors")
    )
    assert (first.model, first.weights_file) == ("seedvr2-3b", "seedvr2_ema_3b_fp16.safetensors")
    assert (current.model, current.weights_file) == ("seedvr2-7b", "")
    assert check_request(video_path="x", weights_file=None).weights_file == ""


def test_a_weights_file_is_for_the_models_that_read_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="weights_file x is for the SeedVR2 models"):
        choose_engine("lanczos", CPU, settings(tmp_path), "x")
    with pytest.raises(CheckpointError, match=r"the weights file x is not in .*; there are: none"):
        choose_engine("seedvr2-7b", GPU, settings(tmp_path), "x")
